"""A worker without a model: it speaks the protocol and imports nothing else; ``--fault`` makes it fail."""

from __future__ import annotations

import argparse
import os
import socketserver
import sys
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from webapp.runtimes.protocol import (
    PROCESS_FILE,
    PROTOCOL,
    SOCKET_FILE,
    SPEC_FILE,
    CleanReport,
    ProcessRecord,
    StateReport,
    WorkerState,
    decode_spec,
    encode,
    process_start_time,
    write_file,
)


class Server(socketserver.UnixStreamServer):
    """One worker; it is ready as soon as it is told what to load."""

    def __init__(self, folder: Path, fault: str) -> None:
        self.name, self.fault = decode_spec((folder / SPEC_FILE).read_bytes()).id, fault
        self.model: str | None = None
        super().__init__(str(folder / SOCKET_FILE), Handler)


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: Server

    def do_GET(self) -> None:
        """``/state``."""
        state = WorkerState.IDLE if self.server.model is None else WorkerState.READY
        name = "another" if self.server.fault == "another" else self.server.name
        self.answer(StateReport(PROTOCOL, name, os.getpid(), state.value, self.server.model, process_bytes=5))

    def do_POST(self) -> None:
        """``/load``, ``/clean``, ``/stop``."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/load":
            if self.server.fault == "dies":
                os.write(sys.stderr.fileno(), b"cannot go on\n")
                os._exit(7)
            load = decode_spec(body).load
            self.server.model = None if load is None else load.model_id
        self.answer(CleanReport(10, 4, None, None) if self.path == "/clean" else {})
        if self.path == "/stop":
            os._exit(0)

    def answer(self, value: Any) -> None:
        """Send ``value`` as JSON."""
        data = encode(value)
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def address_string(self) -> str:
        """A unix socket has no address to log."""
        return "-"


def main() -> None:
    """Serve until the end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--fault", default="")
    options = parser.parse_args()
    start_time = process_start_time(os.getpid())
    assert start_time is not None
    record = ProcessRecord(os.getpid(), os.getpgid(0), start_time)
    write_file(options.dir / PROCESS_FILE, encode(record))
    Server(options.dir, options.fault).serve_forever()


if __name__ == "__main__":
    main()
