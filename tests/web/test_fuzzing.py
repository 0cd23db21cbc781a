"""Whatever is sent to an address that acts, the answer is never 500; of the JSON interface it is a problem document.

``WARDEN_FUZZ=1000`` tries so many bodies for each address instead of a few.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.web.conftest import FORM
from tests.web.fakes import container, instance, model
from tests.web.people import Browser, Lab, made_lab
from tests.web.test_rights import RULES
from webapp.domain.lease import NO_LEASE
from webapp.domain.people import Role
from webapp.web.rights import Rule

TRIES: Final = int(os.environ.get("WARDEN_FUZZ", "12"))
UNSAFE = [rule for rule in RULES if rule.methods != "GET"]
JSON = [rule for rule in UNSAFE if rule.path.startswith("/api/")]
FORMS = [rule for rule in UNSAFE if not rule.path.startswith("/api/") and rule.path != "/sign-out"]
KNOWN: Final = {
    "instance_id": "i1",
    "container_id": container().id,
    "operation_id": "op1",
    "ticket_id": "t1",
    "name": "vera",
}

ASKED: Final = NO_LEASE.asked_by("olga", "please", 1.0)
TEXTS = st.text(max_size=30) | st.sampled_from(
    [
        "",
        "\x00",
        "../..",
        "--help",
        "<script>",
        "nan",
        "1e999",
        "9" * 40,
        "-1",
        "true",
        "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"),
        "2026-02-30T00:00:00Z",
        "9999-12-31T23:59:59Z",
        "0001-01-01T00:00:00+14:00",
    ]
)
NUMBERS = st.integers() | st.floats() | st.sampled_from([0, -1, 2**31, 2**63, 2**64, 10**400, 1e308, 1e-320])
ANY = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
FIELDS: Final[dict[str, Any]] = {
    "mode": "transformers",
    "model": "Qwen/Qwen3-1.7B",
    "options": {"dtype": "auto", "quantization": "none", "max_tokens": 512, "batch_size": 1},
    "devices": ["gpu-0"],
    "keep_others": True,
    "restore_on_failure": True,
    "interrupt_busy": True,
    "unload": ["i1"],
    "load_anyway": False,
    "lease_until": "2030-01-01T00:00:00Z",
    "reason": "night",
    "idle_unload_minutes": 5.0,
    "override_reason": "mine",
    "starts_by_itself": True,
    "prompt": "hello",
    "max_tokens": 5,
    "name": container().name,
    "until": "2030-01-01T00:00:00Z",
    "extend_s": 60.0,
    "why": "please",
    "answer": "keep",
    "word": "no",
    "rollback": True,
}
"""Every field of every body, with a value that is taken."""
SENT: Final[dict[str, tuple[str, ...]]] = {
    "plan": ("mode", "model"),
    "switch": ("mode", "model"),
    "tickets": ("mode", "model"),
    "ask": ("prompt",),
    "stop": ("name",),
    "lease": ("reason",),
    "answer": ("answer",),
}
"""What has to be sent, by the address's last word."""
FORM_FIELDS: Final = (
    *FORM,
    "keep_others", "unload", "lease", "lease_time", "reason", "idle", "override_reason", "prompt", "confirmed", "name", "password",
    "again", "old", "role", "scope", "label", "days", "hours", "key", "next", "answer", "word", "why", "until", "extend", "rollback",
)  # fmt: skip


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with made_lab(Path(tmp_path_factory.mktemp("fuzzed")), sign_in_failures=1_000_000) as made:
        made.app.testing = False  # a defect is an answer, as in the real server
        yield made


@pytest.fixture(scope="module")
def headers(lab: Lab) -> dict[str, str]:
    return lab.token(Role.ADMINISTRATOR)


@pytest.fixture(scope="module")
def person(lab: Lab) -> Browser:
    return lab.signed_in(Role.ADMINISTRATOR)


def in_order(lab: Lab) -> None:
    """What a body may name is there, and what the one before it did is forgotten."""
    lab.controller.changed(
        instances=(instance(lease=ASKED),),
        containers=(container(),),
        models=(model(),),
        waiting=(),
        running=(),
        calls=[],
    )


def address(rule: Rule) -> str:
    parts = [
        KNOWN.get(part.strip("<>").split(":")[-1], "1") if part.startswith("<") else part
        for part in rule.path.split("/")
    ]
    return "/".join(parts)


@st.composite
def bodies(draw: st.DrawFn, rule: Rule) -> Any:
    """Anything at all, or a body that is taken but for a few fields."""
    if draw(st.integers(0, 3)) == 0:
        return draw(ANY)
    body = {name: FIELDS[name] for name in SENT.get(rule.path.rpartition("/")[2], ())}
    for name in draw(st.lists(st.sampled_from([*FIELDS]), max_size=4, unique=True)):
        value = FIELDS[name]
        if isinstance(value, dict) and draw(st.booleans()):
            value = {**value, draw(st.sampled_from([*value])): draw(ANY)}
        elif draw(st.booleans()):
            value = draw(ANY)
        body[name] = value
    return body


@pytest.mark.parametrize("rule", JSON, ids=lambda rule: f"{rule.methods} {rule.path}")
@settings(max_examples=TRIES, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_json_body_ends_in_a_defect(lab: Lab, headers: dict[str, str], rule: Rule, data: st.DataObject) -> None:
    in_order(lab)
    body = data.draw(bodies(rule))

    for method in rule.methods.split():
        answer = lab.app.test_client().open(
            address(rule), method=method, headers=headers, data=json.dumps(body), content_type="application/json"
        )
        assert answer.status_code < HTTPStatus.INTERNAL_SERVER_ERROR, answer.get_data(as_text=True)
        if answer.status_code >= HTTPStatus.BAD_REQUEST:
            assert answer.content_type == "application/problem+json"
            assert {"code", "title", "detail", "params"} <= set(answer.get_json(force=True))


@pytest.mark.parametrize("rule", JSON, ids=lambda rule: f"{rule.methods} {rule.path}")
@settings(
    max_examples=max(1, TRIES // 3), suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(
    body=st.binary(max_size=60)
    | st.sampled_from(
        [
            b"",
            b"[" * 5000,
            b"{" * 20_000,
            b"null",
            b'"\\ud800"',
            b'{"a":1,"a":2}',
            b"\xef\xbb\xbf{}",
            b"NaN",
            b"1" * 10_000,
        ]
    )
)
def test_bytes_that_are_no_json_are_refused_in_words(
    lab: Lab, headers: dict[str, str], rule: Rule, body: bytes
) -> None:
    in_order(lab)

    answer = lab.app.test_client().open(
        address(rule), method=rule.methods.split()[0], headers=headers, data=body, content_type="application/json"
    )

    assert answer.status_code < HTTPStatus.INTERNAL_SERVER_ERROR, answer.get_data(as_text=True)


@pytest.mark.parametrize("rule", FORMS, ids=lambda rule: f"{rule.methods} {rule.path}")
@settings(
    max_examples=max(1, TRIES // 3), suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(
    fields=st.dictionaries(st.sampled_from(FORM_FIELDS), TEXTS, max_size=8),
    whole=st.booleans(),
    htmx=st.booleans(),
)
def test_no_form_ends_in_a_defect(
    lab: Lab, person: Browser, rule: Rule, fields: dict[str, str], whole: bool, htmx: bool
) -> None:
    in_order(lab)
    sent = {**(FORM if whole else {}), **fields}

    with person.client.post(
        address(rule),
        data={
            "csrf_token": person.csrf(),
            **{name: value.encode("utf-8", "surrogatepass") for name, value in sent.items()},
        },
        headers={"HX-Request": "true"} if htmx else {},
    ) as answer:
        assert answer.status_code < HTTPStatus.INTERNAL_SERVER_ERROR, answer.get_data(as_text=True)


@pytest.mark.parametrize(
    "rule", [rule for rule in RULES if "GET" in rule.methods], ids=lambda rule: f"{rule.methods} {rule.path}"
)
@settings(
    max_examples=max(1, TRIES // 3), suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(
    query=st.dictionaries(
        st.sampled_from(
            ["limit", "kind", "actor", "model", "state", "before", "device", "span", "next", "key", "at", *FORM]
        ),
        TEXTS,
        max_size=5,
    )
)
def test_no_query_ends_in_a_defect(lab: Lab, person: Browser, rule: Rule, query: dict[str, str]) -> None:
    in_order(lab)

    with person.client.get(address(rule), query_string=query) as answer:
        assert answer.status_code < HTTPStatus.INTERNAL_SERVER_ERROR or rule.path == "/healthz", answer.get_data(
            as_text=True
        )
