"""The calls to the Docker engine that Warden makes, each with a deadline.

Each call creates a client: a shared one would hold dead connections after a restart of the engine, and a client is not
safe to use from several threads. The engine's API version is requested once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import docker
import requests
from docker.errors import APIError, DockerException, NotFound

from webapp.errors import EngineFailed
from webapp.runtimes.vllm.command import ContainerPlan
from webapp.runtimes.vllm.docker.connections import DockerClient, LogStream
from webapp.runtimes.vllm.docker.containers import ContainerSummary, Inspected, inspected_of, summary_of
from webapp.runtimes.vllm.docker.creation import archive_of, creation_of
from webapp.runtimes.vllm.docker.failures import (
    ContainerGone,
    blocked,
    creation_error,
    detail_of,
    start_error,
    unreachable,
)


class DockerEngine:
    """The engine behind a socket.

    Every call raises EngineUnavailable (see ``errors``) if the engine cannot be reached or does not answer.
    """

    def __init__(self, path: Path, timeout_s: float, start_timeout_s: float | None = None) -> None:
        """``timeout_s`` bounds one answer of the engine; it is rounded to whole seconds, at least one.

        ``start_timeout_s`` bounds creating and starting a container, which may copy a volume or wake a GPU.
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
        """Return the id of the image's content (``sha256:…``); ``None`` if the image is not on this server."""
        with self._client() as client:
            try:
                found = client.inspect_image(image)  # type: ignore[no-untyped-call]
            except NotFound:
                return None
            return str(found["Id"])

    def containers(self, label: str | None = None) -> tuple[ContainerSummary, ...]:
        """Return all containers, running or not; with ``label`` (``name=value``), only those that have it."""
        filters = {} if label is None else {"label": [label]}
        with self._client() as client:
            return tuple(summary_of(entry) for entry in client.containers(all=True, filters=filters))

    def inspect(self, container: str) -> Inspected:
        """Return the description of one container. Raises ContainerGone."""
        with self._client() as client, self._gone():
            return inspected_of(client.inspect_container(container))

    def create(self, plan: ContainerPlan) -> str:
        """Create a container and return its id (64 hex digits); it does not run yet.

        Raises:
            ImageMissing, NameTaken, LaunchBlocked
        """
        model = plan.labels.get("org.warden.model")
        with self._client(self._start_timeout_s) as client:
            try:
                created = str(client.create_container(**creation_of(client, plan))["Id"])
            except APIError as exc:
                raise creation_error(client, plan, model, exc) from exc
            try:
                client.put_archive(created, "/", archive_of(plan.modules))
            except APIError as exc:
                client.remove_container(created, force=True)
                raise blocked(client, model, detail_of(exc)) from exc
            return created

    def start(self, container: str, model: str | None) -> None:
        """Start a created container, which remains if it cannot be started.

        Raises:
            PortInUse, GpuRuntimeMissing, LaunchBlocked, ContainerGone
        """
        with self._client(self._start_timeout_s) as client, self._gone():
            try:
                client.start(container)
            except APIError as exc:
                if (error := start_error(client, model, exc)) is exc:
                    raise
                raise error from exc

    def signal(self, container: str, name: str) -> None:
        """Send a signal to the container's first process, after resuming it if it is paused.

        Does nothing if the container is not running or is gone.
        """
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
        """Remove a container with its anonymous volumes, killing it if it is still running; idempotent."""
        with self._client() as client:
            try:
                client.remove_container(container, v=True, force=True)
            except NotFound:
                return
            except APIError as exc:
                if exc.status_code != 409:
                    raise

    def exists(self, container: str) -> bool:
        """Return whether Docker still knows the container."""
        with self._client() as client:
            try:
                client.inspect_container(container)
            except NotFound:
                return False
            return True

    def follow(self, container: str, *, since: float | None, tail: int) -> LogStream:
        """Return the log from ``since`` (seconds since the epoch), or from its last ``tail`` lines, and follow it.

        Each piece begins with its time.

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
        """Return the last lines of the log, unchanged. Raises ContainerGone."""
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
                with_version = DockerClient(self._url, version="auto", timeout=self._timeout_s)
                self._version = with_version.api_version
                with_version.close()
            return DockerClient(self._url, version=self._version, timeout=timeout_s or self._timeout_s)

    @property
    def _url(self) -> str:
        return f"unix://{self._socket}"

    @contextmanager
    def _translating(self, timeout_s: int | None = None) -> Iterator[None]:
        """Translate every failure to get an answer into one of Warden's errors."""
        try:
            yield
        except NotFound:
            raise
        except APIError as exc:
            if exc.status_code == 400 and "version" in str(exc).lower():
                self._version = None  # the engine may have been replaced by another version
            raise EngineFailed(socket=self.socket, detail=detail_of(exc)) from exc
        except (DockerException, requests.RequestException, OSError) as exc:
            raise unreachable(exc, self.socket, timeout_s or self._timeout_s) from exc
