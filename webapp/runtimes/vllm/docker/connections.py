"""docker's client without leaking the sockets of failed connections, and the stream of a container's log."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import docker
import requests
from docker.errors import DockerException
from docker.transport import UnixHTTPAdapter
from docker.transport.unixconn import UnixHTTPConnection, UnixHTTPConnectionPool


class DockerClient(docker.APIClient):
    """docker's client, except that the socket of a failed connection is closed; docker's own leaks its descriptor."""

    def mount(self, prefix: Any, adapter: Any) -> None:
        """Mount ``adapter``, or Warden's in place of docker's adapter for unix sockets."""
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
        timeout: Any = self.timeout  # whole seconds, despite the library's types
        return _EngineConnection(self.base_url, self.socket_path, timeout)


class _EngineConnection(UnixHTTPConnection):
    def connect(self) -> None:
        visitor = socket.socket(socket.AF_UNIX)
        try:
            visitor.settimeout(self.timeout)
            visitor.connect(self.unix_socket)
        except BaseException:
            visitor.close()
            raise
        self.sock = visitor


class LogStream(Iterator[bytes]):
    """A growing log of a container. ``close`` may be called from another thread and ends the iteration."""

    def __init__(self, client: docker.APIClient, stream: Any) -> None:
        self._client = client
        self._stream = stream

    def __next__(self) -> bytes:
        """Return the next output; ends with the container, the engine or ``close``."""
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
