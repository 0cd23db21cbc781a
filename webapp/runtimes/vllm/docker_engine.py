"""The Docker engine: the few calls that Warden makes, each with a deadline, its failures as Warden's errors. Sole user of ``docker``.

A client is made for each call: an engine that was restarted leaves dead connections in a shared one, and it is not meant for several
threads at once. The version of the engine's interface is asked for once.
"""

from __future__ import annotations

import errno
import getpass
import io
import logging
import re
import socket
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import docker
import requests
from docker.errors import APIError, DockerException, NotFound
from docker.transport import UnixHTTPAdapter
from docker.transport.unixconn import UnixHTTPConnection, UnixHTTPConnectionPool
from docker.types import DeviceRequest, LogConfig
from docker.types import Mount as DockerMount

from webapp.errors import (
    DiskFull,
    EngineFailed,
    EngineForbidden,
    EngineMissing,
    EngineUnavailable,
    EngineUnreachable,
    GpuRuntimeMissing,
    ImageMissing,
    LaunchBlocked,
    NameTaken,
)
from webapp.runtimes.shortage import mount_of
from webapp.runtimes.vllm.command import CONTAINER_PORT, ContainerPlan
from webapp.runtimes.vllm.server import LOOPBACK

log = logging.getLogger(__name__)

LOG_FILES = {"max-size": "16m", "max-file": "2"}
"""A container's log on disk; a model that is asked all day writes a line a request."""
DETAIL_LENGTH = 400
MODULES = "/opt/warden"
"""Where a plan's Python modules lie in its container."""
_NO_GPU_RUNTIME = re.compile(
    r"could not select device driver|unknown runtime|nvidia-container|no CDI devices|CDI device", re.I
)
_PORT_IN_USE = re.compile(r"port is already allocated|address already in use|ports are not available", re.I)
_NO_SPACE = re.compile(r"no space left on device|disk quota exceeded", re.I)
_NO_CONTAINER = re.compile(r"no such container", re.I)
"""A start answers 404 for more than that: a network that is not there, for one."""


class ContainerGone(Exception):
    """There is no such container any more."""


class PortInUse(Exception):
    """Somebody took the port between the choice and the start."""


@dataclass(frozen=True)
class ContainerSummary:
    """A container as the list tells it."""

    id: str
    name: str
    image: str
    state: str
    """Docker's word: created, running, paused, restarting, exited, dead."""
    created_at: float
    labels: Mapping[str, str]
    ports: tuple[str, ...] = ()
    """``127.0.0.1:8000``…, as published on the host."""


@dataclass(frozen=True)
class Inspected:
    """A container as looked at by itself."""

    id: str
    name: str
    image: str
    status: str
    running: bool
    pid: int | None
    """Its first process on the host; ``None`` when it does not run."""
    exit_code: int | None
    oom_killed: bool
    error: str
    """Why it could not be started, in Docker's words."""
    labels: Mapping[str, str]
    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Holds the key of the interface: never shown, never logged."""


class LogStream(Iterator[bytes]):
    """A container's log while it grows. ``close`` may be called from another thread and ends it."""

    def __init__(self, client: docker.APIClient, stream: Any) -> None:
        self._client = client
        self._stream = stream

    def __next__(self) -> bytes:
        """Return what was written next; ends with the container, the engine or ``close``."""
        try:
            piece = next(self._stream)
        except (DockerException, requests.RequestException, OSError, ValueError, AttributeError):
            raise StopIteration from None
        return bytes(piece)

    def close(self) -> None:
        """Hang up."""
        with suppress(DockerException, OSError, AttributeError, ValueError):
            self._stream.close()
        self._client.close()


class DockerEngine:
    """The engine behind a socket. Every call raises EngineUnavailable (see ``errors``) when it cannot be asked or does not answer."""

    def __init__(self, path: Path, timeout_s: float, start_timeout_s: float | None = None) -> None:
        """``timeout_s``: how long the engine may take for one answer, ``start_timeout_s`` to create and to start a container, which
        may mean copying a volume or waking a GPU; whole seconds, at least one.
        """
        self._socket = path
        self._timeout_s = max(1, round(timeout_s))
        self._start_timeout_s = self._timeout_s if start_timeout_s is None else max(1, round(start_timeout_s))
        self._version: str | None = None

    @property
    def socket(self) -> str:
        """The socket's path, for messages."""
        return str(self._socket)

    def image_id(self, image: str) -> str | None:
        """Return the id of the image's content (``sha256:…``); ``None`` where it is not on this server."""
        with self._client() as client:
            try:
                found = client.inspect_image(image)  # type: ignore[no-untyped-call]
            except NotFound:
                return None
            return str(found["Id"])

    def containers(self, label: str | None = None) -> tuple[ContainerSummary, ...]:
        """All containers, running or not; with ``label`` (``name=value``) those that carry it."""
        filters = {} if label is None else {"label": [label]}
        with self._client() as client:
            return tuple(_seen(entry) for entry in client.containers(all=True, filters=filters))

    def inspect(self, container: str) -> Inspected:
        """Look at one container. Raises ContainerGone."""
        with self._client() as client, self._gone():
            return _inspected(client.inspect_container(container))

    def create(self, plan: ContainerPlan) -> str:
        """Create a container and return its id (64 hex digits); it does not run yet.

        Raises:
            ImageMissing, NameTaken, LaunchBlocked
        """
        model = plan.labels.get("org.warden.model")
        with self._client(self._start_timeout_s) as client:
            try:
                created = str(client.create_container(**_creation(client, plan))["Id"])
            except APIError as exc:
                detail = _detail(exc)
                if exc.status_code == 404 and "image" in detail.lower():
                    raise ImageMissing(model=model, image=plan.image, command=pull_command(plan.image)) from exc
                if exc.status_code == 409:
                    raise NameTaken(model=model, name=plan.name) from exc
                raise _blocked(client, model, detail) from exc
            try:
                client.put_archive(created, "/", _archive(plan.modules))
            except APIError as exc:
                client.remove_container(created, force=True)
                raise _blocked(client, model, _detail(exc)) from exc
            return created

    def start(self, container: str, model: str | None) -> None:
        """Start a container that was created; one that could not be started is still there.

        Raises:
            PortInUse, GpuRuntimeMissing, LaunchBlocked, ContainerGone
        """
        with self._client(self._start_timeout_s) as client, self._gone():
            try:
                client.start(container)
            except APIError as exc:
                detail = _detail(exc)
                if isinstance(exc, NotFound) and _NO_CONTAINER.search(detail):
                    raise
                if _PORT_IN_USE.search(detail):
                    raise PortInUse(detail) from exc
                if _NO_GPU_RUNTIME.search(detail):
                    raise GpuRuntimeMissing(model=model, detail=detail) from exc
                raise _blocked(client, model, detail) from exc

    def signal(self, container: str, name: str) -> None:
        """Send a signal to the container's first process; one that does not run, or has gone, is left. A paused one goes on first."""
        with self._client() as client, suppress(NotFound):
            with suppress(APIError):
                if client.inspect_container(container)["State"].get("Paused"):
                    client.unpause(container)
            try:
                client.kill(container, name)
            except APIError as exc:
                if exc.status_code != 409:
                    raise

    def remove(self, container: str) -> None:
        """Remove a container with its nameless volumes, killing it where it still runs; one that has gone is left."""
        with self._client() as client:
            try:
                client.remove_container(container, v=True, force=True)
            except NotFound:
                return
            except APIError as exc:
                if exc.status_code != 409:
                    raise

    def exists(self, container: str) -> bool:
        """Whether the container is still known."""
        with self._client() as client:
            try:
                client.inspect_container(container)
            except NotFound:
                return False
            return True

    def follow(self, container: str, *, since: float | None, tail: int) -> LogStream:
        """The log from ``since`` (seconds since the epoch), or its last lines, and what follows; each piece begins with its time.

        Raises:
            ContainerGone
        """
        client = self._connect()
        try:
            with self._translating(), self._gone():
                begin: dict[str, Any] = {"tail": tail} if since is None else {"since": since}
                stream = client.logs(container, stream=True, follow=True, timestamps=True, **begin)
        except BaseException:
            client.close()
            raise
        return LogStream(client, stream)

    def tail(self, container: str, lines: int) -> bytes:
        """The last lines of the log as they are. Raises ContainerGone."""
        with self._client() as client, self._gone():
            return bytes(client.logs(container, tail=lines))

    # Inside

    @contextmanager
    def _gone(self) -> Iterator[None]:
        try:
            yield
        except NotFound as exc:
            raise ContainerGone(str(exc)) from exc

    @contextmanager
    def _client(self, timeout_s: int | None = None) -> Iterator[docker.APIClient]:
        client = self._connect(timeout_s)
        try:
            with self._translating(timeout_s):
                yield client
        finally:
            client.close()

    def _connect(self, timeout_s: int | None = None) -> docker.APIClient:
        with self._translating():
            if self._version is None:
                with_version = _Client(self._url, version="auto", timeout=self._timeout_s)
                self._version = with_version.api_version
                with_version.close()
            return _Client(self._url, version=self._version, timeout=timeout_s or self._timeout_s)

    @property
    def _url(self) -> str:
        return f"unix://{self._socket}"

    @contextmanager
    def _translating(self, timeout_s: int | None = None) -> Iterator[None]:
        """Turn whatever keeps the engine from answering into one of Warden's errors."""
        try:
            yield
        except NotFound:
            raise
        except APIError as exc:
            if exc.status_code == 400 and "version" in str(exc).lower():
                self._version = None  # the engine was replaced by one of another version
            raise EngineFailed(socket=self.socket, detail=_detail(exc)) from exc
        except (DockerException, requests.RequestException, OSError) as exc:
            raise self._unreachable(exc, timeout_s or self._timeout_s) from exc

    def _unreachable(self, exc: Exception, timeout_s: int) -> EngineUnavailable:
        number = _errno(exc)
        if number in (errno.ENOENT, errno.ENOTDIR):
            return EngineMissing(socket=self.socket)
        if number in (errno.EACCES, errno.EPERM):
            return EngineForbidden(socket=self.socket, user=_user())
        return EngineUnreachable(socket=self.socket, detail=_why(exc, timeout_s))


class _Client(docker.APIClient):
    """docker's client on connections that hang up when they cannot be made; its own leave the descriptor open."""

    def mount(self, prefix: Any, adapter: Any) -> None:
        """Take the place of docker's adapter for unix sockets, which it mounts by itself."""
        if isinstance(adapter, UnixHTTPAdapter):
            adapter = _Adapter(adapter.socket_path, adapter.timeout)
        super().mount(prefix, adapter)


class _Adapter(UnixHTTPAdapter):
    def get_connection(self, url: Any, proxies: Any = None) -> UnixHTTPConnectionPool:
        with self.pools.lock:
            if (pool := self.pools.get(url)) is None:
                pool = self.pools[url] = _Pool(url, self.socket_path, self.timeout, maxsize=self.max_pool_size)
            return pool


class _Pool(UnixHTTPConnectionPool):
    def _new_conn(self) -> Any:
        timeout: Any = self.timeout  # whole seconds, whatever the library's types say
        return _Connection(self.base_url, self.socket_path, timeout)


class _Connection(UnixHTTPConnection):
    def connect(self) -> None:
        visitor = socket.socket(socket.AF_UNIX)
        try:
            visitor.settimeout(self.timeout)
            visitor.connect(self.unix_socket)
        except BaseException:
            visitor.close()
            raise
        self.sock = visitor


def pull_command(image: str) -> str:
    """What fetches an image, as a line for a shell."""
    return f"docker pull {image}"


def _archive(modules: Mapping[str, bytes]) -> bytes:
    """Modules as the files of a tar archive for the root of a container: not a mount, which the engine may be unable to read."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, source in modules.items():
            entry = tarfile.TarInfo(f"{MODULES.lstrip('/')}/{name}.py")
            entry.size, entry.mode = len(source), 0o644
            archive.addfile(entry, io.BytesIO(source))
    return buffer.getvalue()


def _environment(client: docker.APIClient, plan: ContainerPlan) -> dict[str, str]:
    """The plan's, with the modules' folder before what the plan or else the image has as PYTHONPATH. Raises APIError."""
    config = client.inspect_image(plan.image)["Config"] or {}  # type: ignore[no-untyped-call]
    usual = {**dict(pair.partition("=")[::2] for pair in config.get("Env") or ()), **plan.environment}
    search = filter(None, (MODULES, usual.get("PYTHONPATH")))
    return {**plan.environment, "PYTHONPATH": ":".join(search)}


def _creation(client: docker.APIClient, plan: ContainerPlan) -> dict[str, Any]:
    host = client.create_host_config(
        mounts=[
            DockerMount(m.target, m.source, type="volume" if m.is_volume else "bind", read_only=m.read_only)
            for m in plan.mounts
        ],
        port_bindings={CONTAINER_PORT: (LOOPBACK, plan.port)} if plan.published else None,
        device_requests=[DeviceRequest(driver="nvidia", device_ids=list(plan.gpu_ids), capabilities=[["gpu"]])]
        if plan.gpu_ids
        else None,
        ipc_mode="host" if plan.ipc_host else None,
        shm_size=plan.shm_bytes,
        network_mode=plan.network,
        init=True,
        log_config=LogConfig(type=LogConfig.types.JSON, config=LOG_FILES),
    )
    return {
        "image": plan.image,
        "name": plan.name,
        "entrypoint": list(plan.entrypoint) if plan.entrypoint else None,
        "command": list(plan.command),
        "environment": _environment(client, plan),
        "labels": dict(plan.labels),
        "ports": [CONTAINER_PORT] if plan.published else None,
        "host_config": host,
        "use_config_proxy": False,
    }


def _seen(entry: Mapping[str, Any]) -> ContainerSummary:
    names = entry.get("Names") or [""]
    ports = [f"{p['IP']}:{p['PublicPort']}" for p in entry.get("Ports") or () if p.get("PublicPort") and p.get("IP")]
    return ContainerSummary(
        id=str(entry["Id"]),
        name=str(names[0]).lstrip("/"),
        image=str(entry.get("Image") or ""),
        state=str(entry.get("State") or "unknown"),
        created_at=float(entry.get("Created") or 0),
        labels=dict(entry.get("Labels") or {}),
        ports=tuple(sorted(ports)),
    )


def _inspected(data: Mapping[str, Any]) -> Inspected:
    state, config = data["State"], data["Config"]
    variables = dict(pair.partition("=")[::2] for pair in config.get("Env") or ())
    return Inspected(
        id=str(data["Id"]),
        name=str(data.get("Name") or "").lstrip("/"),
        image=str(config.get("Image") or ""),
        status=str(state.get("Status") or "unknown"),
        running=bool(state.get("Running")),
        pid=state.get("Pid") or None,
        exit_code=None if state.get("Running") else state.get("ExitCode"),
        oom_killed=bool(state.get("OOMKilled")),
        error=str(state.get("Error") or ""),
        labels=dict(config.get("Labels") or {}),
        arguments=tuple(str(a) for a in (*(config.get("Entrypoint") or ()), *(config.get("Cmd") or ()))),
        environment=variables,
    )


def moment(stamp: bytes) -> float | None:
    """Return seconds since the epoch of a log line's time (RFC 3339 with nanoseconds), or ``None``."""
    text = stamp.decode("ascii", errors="replace")
    match = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?Z", text)
    if match is None:
        return None
    return datetime.fromisoformat(match[1] + "+00:00").timestamp() + float(match[2] or 0)


def _blocked(client: docker.APIClient, model: str | None, detail: str) -> LaunchBlocked:
    """Return why Docker did not start a container; of a full disk which one it is. Raises APIError."""
    if not _NO_SPACE.search(detail):
        return LaunchBlocked(model=model, detail=detail, log="")
    root = Path(client.info()["DockerRootDir"])
    return DiskFull(model=model, path=str(root), mount=str(mount_of(root)))


def _detail(exc: APIError) -> str:
    return str(exc.explanation or exc)[:DETAIL_LENGTH]


def _errno(exc: BaseException | None) -> int | None:
    """The number of the system's error at the bottom; libraries wrap it in arguments as well as in causes."""
    seen: list[object] = [exc]
    for item in seen:
        if isinstance(item, OSError) and item.errno is not None and not isinstance(item, requests.RequestException):
            return item.errno
        if isinstance(item, BaseException) and len(seen) < 40:
            seen += [*item.args, item.__cause__, item.__context__]
        elif isinstance(item, tuple):
            seen += item
    return None


def _why(exc: Exception, timeout_s: float) -> str:
    if isinstance(exc, requests.Timeout):
        return f"no answer in {timeout_s:g} s"
    number = _errno(exc)
    text = str(exc) if number is None else errno.errorcode.get(number, str(exc))
    return text[:DETAIL_LENGTH]


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "?"
