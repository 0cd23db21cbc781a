"""Asks a vLLM server over HTTP which models it serves and how busy it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx

LOOPBACK = "127.0.0.1"
_WAITING = ("vllm:num_requests_running", "vllm:num_requests_waiting")
_NOT_HTTP = "illegal"
"""Occurs in httpx's message for bytes that are not HTTP (illegal status line…). A connection closed without an answer
is different: Docker's proxy does that until the server listens."""
_SHOWN = 200
_SERVED = "vllm:request_success_total"


class NotServing(Exception):
    """Nothing answers at the address, or not yet."""


class Rubbish(Exception):
    """The answer does not come from vLLM; the text describes it."""


@dataclass(frozen=True)
class Load:
    """How busy a server is."""

    in_flight: int | None = None
    """Requests that run or wait; ``None`` if it is not reported."""
    served: float | None = None
    """Requests answered since the start."""


@dataclass(frozen=True)
class VllmServer:
    """One server on 127.0.0.1."""

    port: int
    api_key: str

    @property
    def base_url(self) -> str:
        """The URL of the server."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers that a request needs."""
        return {"Authorization": f"Bearer {self.api_key}"}

    def models(self, timeout_s: float) -> tuple[str, ...]:
        """Return the names of the served models. Raises NotServing, Rubbish."""
        response = self._get("/v1/models", timeout_s)
        try:
            return tuple(str(model["id"]) for model in response.json()["data"])
        except (ValueError, TypeError, KeyError) as exc:
            raise Rubbish(f"status {response.status_code}, not a list of models") from exc

    def load(self, timeout_s: float) -> Load:
        """Return how busy the server is. Raises NotServing, Rubbish."""
        response = self._get("/metrics", timeout_s)
        not_metrics = Rubbish(f"status {response.status_code}, not a page of metrics")
        if not response.is_success:
            raise not_metrics
        try:
            figures = sums(response.text)
        except ValueError as exc:
            raise not_metrics from exc
        told = [figures[name] for name in _WAITING if name in figures]
        return Load(round(sum(told)) if told else None, figures.get(_SERVED))

    def _get(self, route: str, timeout_s: float) -> httpx.Response:
        import httpx  # noqa: PLC0415  0.1 s of the page's start that only a container needs

        try:
            response = httpx.get(
                self.base_url + route,
                headers=dict(self.headers),
                timeout=timeout_s,
                trust_env=False,
                verify=False,  # noqa: S501  plain HTTP: otherwise each call would read the machine's certificates  # nosec B501
            )
        except httpx.HTTPError as exc:
            if isinstance(exc, httpx.RemoteProtocolError) and _NOT_HTTP in str(exc):
                raise Rubbish(f"not HTTP: {exc}"[:_SHOWN]) from exc
            raise NotServing(str(exc)) from exc
        if response.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise NotServing(f"status {response.status_code}")
        return response


def sums(text: str) -> Mapping[str, float]:
    """Return the sum of the samples of each name in Prometheus' text format, over all labels. Raises ValueError."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            head, _, value = line.rpartition(" ")
            name = head.partition("{")[0]
            found[name] = found.get(name, 0.0) + float(value)
    return found
