"""The command line's client of a running Warden: calls of its JSON interface, in the models of ``webapp.schema``."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, TypeVar

import httpx
from pydantic import ValidationError

from webapp.cli import Refusal
from webapp.schema import Answer, OperationDocument, ProblemDocument, StatusDocument

TIMEOUT_S: Final = 5.0
UNAUTHORIZED: Final = 401
TOKEN_VARIABLE: Final = "WARDEN_TOKEN"  # noqa: S105  a name
"""Holds an API token, for a Warden with accounts."""
WITH_TOKEN: Final = (
    f"people sign in here: create a token by `warden tokens add NAME terminal` and put it into {TOKEN_VARIABLE}"
)

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

A = TypeVar("A", bound=Answer)


class _EarlierStatus(StatusDocument):
    """The status of a Warden that still runs after an upgrade: an earlier one does not give its version."""

    version: str = ""


class RefusedByWarden(Refusal):
    """A refusal of the running Warden, in its words."""

    def __init__(self, problem: ProblemDocument) -> None:
        super().__init__(problem.detail)
        self.problem = problem


class Client:
    """A running Warden. Each call raises Refusal: nothing answers, something else answers, or Warden refuses."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def status(self) -> StatusDocument:
        """Return the state of the server."""
        return self._ask("GET", "/api/v1/status", _EarlierStatus)

    def begin_selftest(self) -> str:
        """Start a self-test, or join the one that runs; return the operation's id."""
        try:
            return self._ask("POST", "/api/v1/selftest", OperationDocument).id
        except RefusedByWarden as exc:
            params = exc.problem.params
            if exc.problem.code != "busy" or params.get("kind") != "selftest":
                raise
            return str(params["operation"])

    def operation(self, operation_id: str) -> OperationDocument:
        """Return an operation."""
        return self._ask("GET", f"/api/v1/operations/{operation_id}", OperationDocument)

    def cancel(self, operation_id: str) -> None:
        """Request that an operation stops, unless it has ended."""
        with suppress(RefusedByWarden):
            self._ask("POST", f"/api/v1/operations/{operation_id}/cancel", OperationDocument)

    def _ask(self, method: str, path: str, model: type[A]) -> A:
        """Return the answer. A later version's further fields are ignored."""
        url = str(self._http.base_url).rstrip("/")
        try:
            answer = self._http.request(method, path, json={} if method == "POST" else None)
            if answer.is_error:
                raise _refusal(answer, url)
            return model.model_validate_json(answer.content, extra="ignore")
        except httpx.TransportError as exc:
            raise Refusal(f"no Warden answers at {url} ({exc}); `warden run` starts one") from exc
        except ValidationError as exc:
            raise Refusal(f"what answers at {url} is not Warden, or another version of it") from exc


def _refusal(answer: httpx.Response, url: str) -> Refusal:
    if answer.status_code == UNAUTHORIZED:
        return Refusal(WITH_TOKEN)
    try:
        return RefusedByWarden(ProblemDocument.model_validate_json(answer.content, extra="ignore"))
    except ValidationError:
        return Refusal(f"Warden at {url} answers {answer.status_code}")


@contextmanager
def connected(url: str) -> Iterator[Client]:
    """Yield a client of the Warden at ``url``."""
    token = os.environ.get(TOKEN_VARIABLE)
    headers: Mapping[str, str] = {"Authorization": f"Bearer {token}"} if token else {}
    with httpx.Client(base_url=url, headers=headers, timeout=TIMEOUT_S, trust_env=False) as http:
        yield Client(http)


@contextmanager
def in_process(app: WSGIApplication) -> Iterator[Client]:
    """Yield a client of a WSGI application in this process."""
    with httpx.Client(transport=httpx.WSGITransport(app=app), base_url="http://localhost") as http:
        yield Client(http)


def is_served(url: str) -> bool:
    """Return whether anything answers at ``url``."""
    try:
        httpx.get(f"{url}/healthz", timeout=TIMEOUT_S, trust_env=False)
    except httpx.TransportError:
        return False
    return True
