"""Every address against every role: what a role may not, it is told so and nothing happens; a new address has to
declare its right.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from flask import Flask

from tests.web.conftest import FORM, HTMX
from tests.web.fakes import FakeController, FakeServices, container, instance, model, reading, worker
from tests.web.people import NAMES, Lab, made_lab
from webapp import create_app
from webapp.domain.lease import NO_LEASE, Lease
from webapp.domain.modes import Mode
from webapp.domain.operation import Operation, OperationKind, OperationState, Step, StepName
from webapp.domain.people import IN_PERSON, Permission, Role
from webapp.domain.plan import SwitchRequest
from webapp.domain.queue import QueuedLaunch, QueueEntry, QueueState
from webapp.domain.units import gib
from webapp.settings import load_settings
from webapp.web.rights import Rule, needs, refuse_undeclared, right_of, rules

WHO = (None, *Role)
VALUES = {
    "instance_id": "i1",
    "container_id": "c1",
    "operation_id": "o1",
    "session_id": "s1",
    "ticket_id": "t1",
    "number": "1",
    "code": "en",
    "name": "nobody",
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One application for the whole walk: nothing that is refused changes it."""
    with made_lab(tmp_path_factory.mktemp("lab")) as made:
        yield made


@contextmanager
def without_people() -> Iterator[Flask]:
    """The application as it is made, for its addresses alone."""
    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings(state_dir=Path(folder))
        yield create_app(settings, FakeServices(settings, FakeController()))


def all_rules() -> list[Rule]:
    with without_people() as app:
        return list(rules(app))


RULES = all_rules()


def address(rule: Rule) -> str:
    path = rule.path
    for part in path.split("/"):
        if part.startswith("<"):
            path = path.replace(part, VALUES.get(part.strip("<>").split(":")[-1], "x1"))
    return path


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.methods} {rule.path}")
def test_an_address_opens_to_those_whose_role_has_its_right(shared: Lab, rule: Rule) -> None:
    """By JSON for the API, by HTMX and as a page elsewhere. A form without its token is stopped after the right was
    checked.
    """
    for role in WHO:
        browser = shared.browser() if role is None else shared.signed_in(role)
        for headers in ({}, HTMX):
            answer = browser.client.open(address(rule), method=rule.methods.split()[0], headers=headers)
            if rule.opens_to(role):
                assert answer.status_code not in (401, 403), (role, headers)
                assert not answer.headers.get("Location", "").startswith("/sign-in") or rule.right is Permission.OPEN
            elif role is None:
                assert answer.status_code in (401, 303)
                assert answer.status_code == 401 or answer.headers["Location"].startswith("/sign-in")
            else:
                assert answer.status_code == 403
    assert shared.controller.calls == []
    assert [person.role for person in shared.accounts.people()] == [Role.ADMINISTRATOR, Role.OPERATOR, Role.VIEWER]


@pytest.mark.parametrize("scope", Role)
def test_a_token_opens_what_its_scope_may_and_no_account(shared: Lab, scope: Role) -> None:
    headers = shared.token(Role.ADMINISTRATOR, scope)
    for rule in (rule for rule in RULES if rule.right is not Permission.OPEN and "GET" in rule.methods):
        answer = shared.app.test_client().get(address(rule), headers=headers)
        allowed = rule.opens_to(scope) and rule.right not in IN_PERSON
        assert (answer.status_code == 403) is not allowed, rule


def test_an_address_without_a_right_keeps_the_application_from_being_made() -> None:
    with without_people() as app:
        app.add_url_rule("/new", "new", lambda: "secret")

        with pytest.raises(RuntimeError, match="new"):
            refuse_undeclared(app)
        assert right_of(app.view_functions["new"]) is None


def test_an_address_that_came_later_opens_to_administrators_alone(lab: Lab) -> None:
    lab.app.add_url_rule("/new", "new", lambda: "secret")

    assert lab.signed_in(Role.OPERATOR).get("/new").status_code == 403
    assert lab.signed_in(Role.ADMINISTRATOR).get("/new").text == "secret"


def test_a_declaration_is_found_again() -> None:
    assert right_of(needs(Permission.SEE)(lambda: None)) is Permission.SEE


def test_every_right_but_those_of_whose_it_is_guards_an_address() -> None:
    assert {rule.right for rule in RULES} == set(Permission) - {Permission.UNLOAD_ANY, Permission.CANCEL_ANY}


# How a refusal is told


def test_a_page_that_is_not_allowed_says_who_may_and_whom_to_ask(lab: Lab) -> None:
    page = lab.signed_in(Role.VIEWER).get("/people")

    assert page.status_code == 403
    assert "This needs the role “administrator”, not “viewer”" in page.text
    assert "ask one" in page.text


def test_a_program_gets_a_problem_document(lab: Lab) -> None:
    client = lab.app.test_client()
    nobody = client.get("/api/v1/status")
    viewer = client.post("/api/v1/clean", headers=lab.token(Role.VIEWER))

    assert (nobody.status_code, nobody.json["code"]) == (401, "unauthorized")  # type: ignore[index]
    assert nobody.headers["WWW-Authenticate"].startswith("Bearer")
    assert (viewer.status_code, viewer.json["code"]) == (403, "forbidden")  # type: ignore[index]
    assert viewer.json["params"] == {"needed": "operator", "role": "viewer"}  # type: ignore[index]


def test_an_open_page_is_led_to_the_sign_in_when_the_session_is_over(lab: Lab) -> None:
    answer = lab.browser().get(
        "/fragments/live", headers={**HTMX, "HX-Current-URL": "http://localhost/history?kind=clean"}
    )

    assert answer.status_code == 401
    assert answer.headers["HX-Redirect"] == "/sign-in?next=/history?kind%3Dclean"


def test_a_stream_is_told_in_words(lab: Lab) -> None:
    answer = lab.browser().client.post("/instances/i1/ask/stream", headers={"Accept": "*/*"})

    assert answer.status_code == 401
    assert answer.text.startswith("You’re not signed in")


# Whose it is


def running(actor: str) -> Operation:
    return Operation("o1", OperationKind.SWITCH, actor, OperationState.RUNNING, time.time(), (Step(StepName.PLAN),))


LEASED = Lease(until=time.time() + 3600)


@pytest.mark.parametrize(
    ("role", "owner", "in_flight", "lease", "reason", "status"),
    [
        (Role.OPERATOR, "olga", 1, LEASED, None, 202),
        (Role.OPERATOR, "maria", 0, NO_LEASE, None, 202),
        (Role.OPERATOR, "maria", 1, NO_LEASE, None, 409),
        (Role.OPERATOR, "maria", 0, LEASED, None, 409),
        (Role.OPERATOR, "maria", 1, NO_LEASE, "a demo", 403),
        (Role.OPERATOR, "maria", 0, LEASED, "a demo", 403),
        (Role.ADMINISTRATOR, "maria", 0, LEASED, None, 409),
        (Role.ADMINISTRATOR, "maria", 1, LEASED, " ", 409),
        (Role.ADMINISTRATOR, "maria", 1, LEASED, "a demo", 202),
    ],
)
def test_a_model_that_is_leased_or_answers_somebody_is_its_owners(
    lab: Lab, role: Role, owner: str, in_flight: int, lease: Lease, reason: str | None, status: int
) -> None:
    """By a form, who may not without a reason is led to the page that asks the owner."""
    lab.controller.changed(instances=(instance(owner=owner, in_flight=in_flight, lease=lease),))
    body = {} if reason is None else {"override_reason": reason}

    answer = lab.app.test_client().post("/api/v1/instances/i1/unload", json=body, headers=lab.token(role))
    form = lab.signed_in(role).post("/instances/i1/unload", {"confirmed": "1", **body})

    assert answer.status_code == status
    assert form.status_code == (403 if status == 403 else 303)
    assert form.headers.get("Location", "").endswith("/release") is (status == 409)
    assert len(lab.controller.calls) == (2 if status == 202 else 0)


@pytest.mark.parametrize("scope", [Role.OPERATOR, Role.ADMINISTRATOR])
def test_an_administrators_token_overrides_only_with_that_scope(lab: Lab, scope: Role) -> None:
    lab.controller.changed(instances=(instance(owner="maria", lease=LEASED),))
    headers = lab.token(Role.ADMINISTRATOR, scope)

    answer = lab.app.test_client().post(
        "/api/v1/instances/i1/unload", json={"override_reason": "a demo"}, headers=headers
    )

    assert answer.status_code == (202 if scope is Role.ADMINISTRATOR else 403)


@pytest.mark.parametrize("call", ["plan", "switch"])
@pytest.mark.parametrize(("role", "status"), [(Role.OPERATOR, 403), (Role.ADMINISTRATOR, 200)])
def test_a_reason_to_take_what_is_anothers_is_an_administrators(lab: Lab, call: str, role: Role, status: int) -> None:
    body = {"mode": "transformers", "model": "Qwen/Qwen3-1.7B", "override_reason": "a demo"}

    answer = lab.app.test_client().post(f"/api/v1/{call}", json=body, headers=lab.token(role))

    assert answer.status_code == (202 if (call, status) == ("switch", 200) else status)


def waiting(actor: str) -> QueueEntry:
    asked = SwitchRequest(Mode.TRANSFORMERS, "Qwen/Qwen3-1.7B")
    return QueueEntry(QueuedLaunch("t1", 1, asked, actor, time.time(), state=QueueState.READY), 1)


@pytest.mark.parametrize("call", ["start", "resume", "cancel"])
@pytest.mark.parametrize(
    ("role", "actor", "allowed"),
    [(Role.OPERATOR, "olga", True), (Role.OPERATOR, "maria", False), (Role.ADMINISTRATOR, "maria", True)],
)
def test_a_request_that_waits_is_its_persons_or_an_administrators(
    lab: Lab, call: str, role: Role, actor: str, allowed: bool
) -> None:
    statuses = []
    for by_form in (False, True):
        lab.controller.changed(waiting=(waiting(actor),))
        if by_form:
            statuses.append(lab.signed_in(role).post(f"/tickets/t1/{call}").status_code)
        else:
            client = lab.app.test_client()
            statuses.append(client.post(f"/api/v1/tickets/t1/{call}", headers=lab.token(role)).status_code)

    assert [status < 400 for status in statuses] == [allowed, allowed]
    assert allowed or statuses == [403, 403]


@pytest.mark.parametrize(
    ("role", "offered"),
    [(Role.VIEWER, False), (Role.OPERATOR, False), (Role.ADMINISTRATOR, True)],
)
def test_who_waits_is_seen_by_all_and_taken_back_by_few(lab: Lab, role: Role, offered: bool) -> None:
    lab.controller.changed(waiting=(waiting("maria"),))
    page = lab.signed_in(role).get("/").text

    assert 'data-ticket="t1"' in page
    assert ('data-action="ticket-start"' in page) is offered
    assert ('data-action="ticket-cancel"' in page) is offered


@pytest.mark.parametrize(
    ("role", "actor", "status"),
    [("operator", "olga", 202), ("operator", "maria", 403), ("administrator", "maria", 202)],
)
def test_an_operation_is_cancelled_by_who_began_it_or_an_administrator(
    lab: Lab, role: str, actor: str, status: int
) -> None:
    lab.controller.changed(running=(running(actor),))

    answer = lab.app.test_client().post("/api/v1/operations/o1/cancel", headers=lab.token(Role(role)))
    form = lab.signed_in(Role(role)).post("/operations/o1/cancel")
    selftest = lab.signed_in(Role(role)).post("/selftest/o1/cancel")

    assert answer.status_code == status
    assert {form.status_code, selftest.status_code} == {303 if status == 202 else 403}
    assert len(lab.controller.calls) == (3 if status == 202 else 0)


@pytest.mark.parametrize(
    ("role", "reason", "status"),
    [(Role.OPERATOR, None, 409), (Role.ADMINISTRATOR, None, 409), (Role.ADMINISTRATOR, "a demo", 202)],
)
def test_a_switch_breaks_off_nobody_elses_answers(lab: Lab, role: Role, reason: str | None, status: int) -> None:
    others = instance("i1", model_id="lab/other", owner="maria", in_flight=2)
    lab.controller.changed(instances=(others,), readings=(reading(free_bytes=gib(2)),))
    body = {"mode": "transformers", "model": "Qwen/Qwen3-1.7B", "interrupt_busy": True, "override_reason": reason}
    body["unload"] = ["i1"]

    answer = lab.app.test_client().post("/api/v1/switch", json=body, headers=lab.token(role))

    assert answer.status_code == status
    assert len(lab.controller.calls) == (1 if status == 202 else 0)


# What is offered


def shown(lab: Lab, role: Role) -> str:
    lab.controller.changed(
        instances=(
            instance("mine", owner="olga", in_flight=1, lease=LEASED),
            instance("hers", owner="maria", in_flight=1, lease=LEASED),
            instance("free", owner="maria"),
        ),
        containers=(container(),),
        running=(running("maria"),),
    )
    return lab.signed_in(role).get("/").text


def test_a_viewer_is_offered_nothing_that_changes_anything(lab: Lab) -> None:
    page = shown(lab, Role.VIEWER)

    offered = {part.partition('"')[0] for part in page.split('data-action="')[1:]}
    assert offered <= {"log", "operation", "sign-out", "reload", "copy-command"}
    assert 'id="switch"' not in page
    assert "data-fill" not in page
    assert "Read-only access" in page


def test_an_operator_is_offered_what_is_own_or_free(lab: Lab) -> None:
    page = shown(lab, Role.OPERATOR)

    assert 'action="/instances/mine/unload"' in page
    assert 'action="/instances/free/unload"' in page
    assert 'action="/instances/hers/unload"' not in page
    assert 'href="/instances/hers/release"' in page
    assert 'action="/instances/mine/lease"' in page
    assert 'action="/instances/hers/lease"' not in page
    assert 'action="/operations/o1/cancel"' not in page
    assert 'data-action="clean"' in page
    assert 'data-action="emergency"' not in page
    assert 'data-action="stop-container"' not in page


def test_an_administrator_is_offered_everything(lab: Lab) -> None:
    page = shown(lab, Role.ADMINISTRATOR)

    for action in (
        'href="/instances/hers/release"',
        'action="/operations/o1/cancel"',
        'data-action="emergency"',
        'data-action="stop-container"',
        'href="/people"',
    ):
        assert action in page


def test_the_reason_of_an_override_is_asked_of_administrators_alone(lab: Lab) -> None:
    lab.controller.changed(instances=(instance(owner="maria", lease=LEASED),), readings=(reading(free_bytes=gib(2)),))

    for role in (Role.OPERATOR, Role.ADMINISTRATOR):
        browser = lab.signed_in(role)
        dialog = browser.get("/instances/i1/release").text
        page = browser.get("/?mode=transformers&model=Qwen/Qwen3-1.7B&override_reason=demo").text
        assert ('data-action="override"' in dialog) is (role is Role.ADMINISTRATOR)
        assert ('name="override_reason"' in page) is (role is Role.ADMINISTRATOR)
        assert 'data-action="ask-release"' in page


def test_what_is_drawn_for_one_is_not_shown_to_another(lab: Lab) -> None:
    """The polled region is drawn once for many: an administrator's never reaches a viewer, in either order."""
    lab.controller.changed(instances=(instance("mine", owner="olga"),), running=(running("olga"),))
    browsers = {role: lab.signed_in(role) for role in Role}

    for order in (tuple(Role), tuple(reversed(Role))):
        lab.controller.changed()
        bodies = {role: browsers[role].get("/fragments/live", headers=HTMX).text for role in order}
        assert "/instances/mine/unload" not in bodies[Role.VIEWER]
        assert "/operations/o1/cancel" in bodies[Role.OPERATOR]
        assert "/operations/o1/cancel" in bodies[Role.ADMINISTRATOR]
    assert set(NAMES) == set(Role)


@pytest.mark.parametrize("order", [(Role.OPERATOR, Role.ADMINISTRATOR), (Role.ADMINISTRATOR, Role.OPERATOR)])
def test_a_plan_offers_an_emergency_to_administrators_alone_whoever_asked_first(
    lab: Lab, order: tuple[Role, Role]
) -> None:
    """The same plan is rendered once for many readers, and contains nothing that a reader may not do."""
    leased = Lease(until=time.time() + 9000)
    held = instance(
        "i1", "lab/large", measured_bytes={"gpu-0": gib(22)}, predicted_bytes={"gpu-0": gib(22)}, lease=leased
    )
    lab.controller.changed(instances=(held,), readings=(reading(held=(worker("i1", gib(22)),)),))
    lab.controller.changed(models=(model(weights_bytes=gib(20), quantization="awq"),))
    query = {**FORM, "keep_others": "1"}
    plans = {role: lab.signed_in(role).get("/fragments/plan", query_string=query, headers=HTMX).text for role in order}

    for role, plan in plans.items():
        assert 'data-verdict="refused"' in plan
        assert ("🚨" in plan) is (role is Role.ADMINISTRATOR)
        assert ('data-action="trouble-emergency"' in plan) is (role is Role.ADMINISTRATOR)
