"""docker's client over connections that hang up when they cannot be made, and logs that are followed."""

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


class Client(docker.APIClient):
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
