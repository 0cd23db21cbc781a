"""Time from the start of the process to the first page, and to the first page with complete memory figures.

The real server runs on its own port and is polled without a pause from the exec on. A first start creates the state
folder and the database; a later one finds both. The kinds alternate, so that other load on the machine affects all of
them.
"""

from __future__ import annotations

import os
import re
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path

import httpx

from tests.engine.models import make_model
from tests.engine.server import WardenServer

ROUNDS = 7
DEADLINE_S = 30.0
PAUSE_S = 0.005
LAUNCHERS = ("start", "off")
FIGURE = re.compile(r'data-metric="(?:total|used|free|percent)".*?<dd class="number">\s*[\d,.]+<small>', re.S)
FIGURES = 4


def main() -> None:
    """Start the server seven times in each kind and print the medians."""
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        make_model(cache, "lab/one")
        _start(Path(folder) / "warm-up", cache, "off")
        measured: dict[str, list[tuple[float, float]]] = {}
        for number in range(ROUNDS):
            for launcher in LAUNCHERS:
                state = Path(folder) / f"{launcher}-{number}"
                for which in ("first", "later"):
                    found = _start(state, cache, launcher)
                    measured.setdefault(f"{which} start, launcher {launcher}", []).append(found)
    _say(f"load average {os.getloadavg()[0]:.2f}, median of {ROUNDS} and the longest, from the exec")
    for name, times in sorted(measured.items()):
        pages, figures = zip(*times, strict=True)
        _say(f"{name}: page {_middle(pages)}, complete memory figures {_middle(figures)}")


def _start(state: Path, cache: Path, launcher: str) -> tuple[float, float]:
    """Return the seconds to the first page and to the first one with all figures."""
    port = _free_port()
    began = time.monotonic()
    server = WardenServer(state, cache, port=port, launcher=launcher)
    page_s = None
    server.begin()
    try:
        while time.monotonic() - began < DEADLINE_S:
            page = _page(port)
            now_s = time.monotonic() - began
            if page is not None:
                page_s = page_s or now_s
                if len(FIGURE.findall(page)) == FIGURES:
                    return page_s, now_s
            time.sleep(PAUSE_S)
    finally:
        server.stop()
    raise AssertionError("no page with figures in time:\n" + "\n".join(server.output))


def _page(port: int) -> str | None:
    try:
        answer = httpx.get(f"http://127.0.0.1:{port}/", timeout=DEADLINE_S)
    except httpx.TransportError:
        return None
    return answer.text if answer.status_code == 200 else None


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def _middle(seconds: tuple[float, ...]) -> str:
    return f"{statistics.median(seconds):.2f} s ({max(seconds):.2f})"


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
