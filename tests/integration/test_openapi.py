"""A running server answers whatever is sent to it as its own OpenAPI document says: no other status, no other document, no 500.

schemathesis makes the requests from the document. It is imported by the test that needs it: it takes a second.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.e2e.states import STATES, served
from tests.engine.server import WardenServer, running

EXAMPLES: Final = 15
LONG: Final = frozenset({"/api/v1/demo", "/api/v1/selftest"})
"""They load a model at every call; a real server has tests of them elsewhere."""


@pytest.fixture(name="real", scope="module")
def _real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("described")
    with running(WardenServer(folder / "state", folder / "cache")) as server:
        yield server.url.rstrip("/")


@pytest.fixture(name="full", scope="module")
def _full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A page over a queue of launches, so that answers are long."""
    with served(STATES["waiting"](), Path(tmp_path_factory.mktemp("full"))) as url:
        yield url.rstrip("/")


def described(url: str, left_out: frozenset[str]) -> Mapping[str, Any]:
    document: dict[str, Any] = httpx.get(f"{url}/api/v1/openapi.json").json()
    document["paths"] = {path: calls for path, calls in document["paths"].items() if path not in left_out}
    return document


def check(url: str, document: Mapping[str, Any]) -> None:
    """Send requests to every call that the document describes, and hold each answer against it."""
    import schemathesis
    from schemathesis import checks
    from schemathesis.core.result import Ok

    wanted = [
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_schema_conformance,
    ]
    for found in schemathesis.openapi.from_dict(dict(document)).get_all_operations():
        assert isinstance(found, Ok)
        call = found.ok()

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize=True,
            phases=(Phase.explicit, Phase.generate),
            suppress_health_check=list(HealthCheck),
        )
        @given(case=call.as_strategy())
        def one(case: Any) -> None:
            answer = case.call(base_url=url)
            assert answer.status_code != HTTPStatus.INTERNAL_SERVER_ERROR, (case.method, case.path, answer.text)
            case.validate_response(answer, checks=wanted)

        one()


def test_a_real_server_answers_as_it_is_described(real: str) -> None:
    check(real, described(real, LONG))


def test_a_full_server_answers_as_it_is_described(full: str) -> None:
    check(full, described(full, frozenset()))


def test_a_status_that_is_not_described_would_be_noticed(full: str) -> None:
    from schemathesis.core.failures import FailureGroup

    document = described(full, frozenset())
    path = "/api/v1/operations/{operation_id}"
    del document["paths"][path]["get"]["responses"]["404"]

    with pytest.raises(FailureGroup):
        check(full, {**document, "paths": {path: {"get": document["paths"][path]["get"]}}})
