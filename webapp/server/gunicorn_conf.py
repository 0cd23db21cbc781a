"""gunicorn's configuration: one worker process with threads, which starts and stops the services.

``gunicorn -c webapp/server/gunicorn_conf.py``. One process, because one controller owns the machine's memory; the
threads serve the page. Connections wait in the worker's poller (see ``worker``) and take no thread, so open tabs and
slow clients cost none.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from webapp.console import explain, page_url, say
from webapp.errors import ConfigurationError, WardenError
from webapp.settings import ServerSettings, Settings, load_settings

BOOT_ERROR = 3
"""A worker that exits with this code stops gunicorn too, instead of being restarted for ever."""
REQUESTS_GRACE_S = 3
"""How long a stop waits for answers in progress; the rest of ``graceful_timeout`` is for the services."""
STOP_S = 15
"""How long a stop may take that leaves the models loaded."""


def _settings() -> Settings:
    try:
        return load_settings()
    except ConfigurationError as exc:
        sys.exit(explain(exc))


def _stop_deadline_s(settings: Settings) -> int:
    """Return how long gunicorn waits before it kills the process during its stop."""
    if settings.stop.on_stop == "keep":
        return STOP_S
    one_worker = settings.worker.ask_s + settings.worker.term_s + settings.worker.kill_s
    return round(STOP_S + one_worker + settings.settle.deadline_s)


_CONFIGURED = _settings()
_SERVER = _CONFIGURED.server

wsgi_app = "webapp.wsgi:app"
chdir = str(Path(__file__).parents[2])
bind = f"[{_SERVER.bind}]:{_SERVER.port}" if ":" in _SERVER.bind else f"{_SERVER.bind}:{_SERVER.port}"
proc_name = "warden"

workers = 1
worker_class = "webapp.server.worker.WebWorker"
threads = _SERVER.threads
# Below the process's limit of open files, so that a flood of connections leaves files for the rest; a new one closes
# the idlest.
worker_connections = max(400, 2 * _SERVER.threads)
limit_request_fields = 64
preload_app = False  # the services' threads would not survive the fork
control_socket_disable = (
    True  # its path is the same for all gunicorns of a user, and it can change the number of workers
)

# The main thread, which never waits for a request, reports that the worker is alive: a streamed answer may take any
# time.
timeout = 60
graceful_timeout = _stop_deadline_s(_CONFIGURED)
keepalive = 10  # longer than the page's poll interval, so that a tab keeps its connection

# The hosts that are trusted to report TLS: this machine, as in gunicorn, and the trusted proxies.
forwarded_allow_ips = ",".join(("127.0.0.1", "::1", *_CONFIGURED.auth.trusted_proxies))

loglevel = "debug" if _SERVER.log_level == "DEBUG" else "warning"
accesslog = "-" if _SERVER.log_level == "DEBUG" else None
access_log_format = '%(h)s "%(m)s %(U)s" %(s)s %(b)s %(L)ss'  # %(U)s is only the path: a query may contain secrets


def on_starting(server: Any) -> None:
    """Refuse a port that is in use at once, and log that the number of processes cannot be changed."""
    _refuse_a_taken_port(_SERVER)
    if (asked := os.environ.get("WEB_CONCURRENCY", "1")) != "1":
        say(f"WEB_CONCURRENCY={asked} is ignored: Warden is one process; WARDEN_THREADS is the number of its threads.")


def nworkers_changed(server: Any, new_value: int, old_value: int | None) -> None:
    """Keep one process, whatever ``--workers`` or a signal requests."""
    if new_value > 1:
        say(f"{new_value} worker processes were asked for: Warden is one process.")
        server.num_workers = 1


def post_fork(server: Any, worker: Any) -> None:
    """Collect no garbage until the page is there: imports create next to none, and a start would take a tenth longer."""
    gc.disable()


def post_worker_init(worker: Any) -> None:
    """Start the services in the worker process and print the page's URL; a failed start stops gunicorn with one
    sentence.
    """
    _leave_interrupts_to_the_master()
    worker.cfg.set("graceful_timeout", REQUESTS_GRACE_S)  # this process's copy; the master keeps the full time
    services = worker.wsgi.extensions["warden"]
    try:
        services.start(_addresses(worker))
    except WardenError as exc:
        services.stop()  # the services that started before the failure
        sys.stderr.write(f"{explain(exc)}\n")
        sys.exit(BOOT_ERROR)
    worker.services = services
    gc.enable()
    say(f"Warden: {_url_of(worker)}")


def worker_exit(server: Any, worker: Any) -> None:
    """Stop the services, and print which models stay loaded and how to stop them."""
    services = getattr(worker, "services", None)
    if services is None:
        return
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
        signal.signal(number, _ignored)  # a second signal would raise SystemExit in the middle of the stop
    for line in services.stop():
        say(line)


def _refuse_a_taken_port(server: ServerSettings) -> None:
    """Exit with one sentence if the port is in use; gunicorn would try for five seconds and then give up."""
    if {"GUNICORN_FD", "LISTEN_FDS"} & os.environ.keys():
        return  # the sockets come from the previous gunicorn, or from systemd
    family = socket.AF_INET6 if ":" in server.bind else socket.AF_INET
    try:
        socket.create_server((server.bind, server.port), family=family).close()
    except OSError as exc:
        where = page_url(server.bind, server.port)
        sys.exit(
            f"Warden cannot start at {where} ({exc.strerror}). Is it running already? WARDEN_PORT chooses another port."
        )


def _leave_interrupts_to_the_master() -> None:
    # A Ctrl+C in a terminal reaches both processes; the master forwards it as SIGQUIT, and one signal is enough to
    # stop. A function, not SIG_IGN: processes that the services start would inherit an ignored signal.
    signal.signal(signal.SIGINT, _ignored)


def _ignored(number: int, frame: FrameType | None) -> None:
    """Do nothing."""


def _addresses(worker: Any) -> list[str]:
    """Return the addresses on which the page listens: sockets can come from systemd, and addresses from
    GUNICORN_CMD_ARGS.
    """
    return [str(s.getsockname()[0]) for s in worker.sockets if s.getsockname() and s.family != socket.AF_UNIX]


def _url_of(worker: Any) -> str:
    """Return the page's URL from the socket: only the socket knows the port if the setting is 0."""
    host, port = worker.sockets[0].getsockname()[:2]
    return page_url(host, port)
