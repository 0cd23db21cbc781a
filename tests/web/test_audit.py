"""Who did what is recorded at one place: every address that changes something, every refusal, and never a secret."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from tests.web.conftest import FORM, HTMX, MODEL, Visitor
from tests.web.fakes import FakeServices, container, foreign, instance, reading
from tests.web.people import NAMES, PASSWORD, Lab, made_lab
from tests.web.test_rights import LEASED, RULES, address, running, waiting, without_people
from webapp.domain.audit import Action, AuditChannel, AuditEntry, Detail, Kind, Result, Target
from webapp.domain.people import AuthMethod, Permission, Role
from webapp.domain.units import gib
from webapp.errors import Busy, NotEnoughMemory
from webapp.web.audit.recording import NOTHING, SAFE_METHODS, act_of, refuse_unrecorded
from webapp.web.rights import Rule, needs

UNSAFE = [rule for rule in RULES if set(rule.methods.split()) - SAFE_METHODS]
SECRETS = ("correct horse", "battery staple", "My-Typed-Password1", "what is a secret", "wdn_")
EVERYTHING_SENT = {
    **FORM,
    "confirmed": "1",
    "role": "viewer",
    "hours": "24",
    "scope": "viewer",
    "days": "30",
    "label": "ci",
    "name": "olga",
    "password": PASSWORD,
    "again": PASSWORD,
    "prompt": "what is a secret",
    "answer": "keep",
    "extend": "1",
}
"""A form that every view finds what it needs in."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with made_lab(tmp_path_factory.mktemp("lab")) as made:
        yield made


def entries(lab: Lab) -> list[AuditEntry]:
    """All entries, oldest first."""
    return list(reversed(lab.audit.entries(10_000)))


def newest(lab: Lab) -> AuditEntry:
    return lab.audit.entries(1)[0]


def act_at(app: Flask, rule: Rule) -> object:
    method = next(iter(set(rule.methods.split()) - SAFE_METHODS))
    endpoint, _ = app.url_map.bind("localhost").match(address(rule), method=method)
    view = app.view_functions[endpoint]
    return act_of(view) or getattr(view, "warden_act", None)


# Every address


@pytest.mark.parametrize("rule", UNSAFE, ids=lambda rule: f"{rule.methods} {rule.path}")
def test_an_address_that_changes_something_is_recorded(shared: Lab, rule: Rule) -> None:
    """What is declared to change nothing leaves no entry; everything else leaves the one that it declares."""
    shared.controller.changed(
        instances=(instance(owner="maria"),),
        containers=(container(),),
        running=(running("maria"),),
        waiting=(waiting("maria"),),
    )
    declared, before = act_at(shared.app, rule), len(entries(shared))
    method = next(iter(set(rule.methods.split()) - SAFE_METHODS))
    if rule.path.startswith("/api/"):
        headers = shared.token(Role.ADMINISTRATOR)
        # The same refusal twice within a minute is one entry, and the queue has two addresses.
        body = {"model": rule.path} if rule.path.endswith(("/queue", "/tickets")) else {}
        shared.app.test_client().open(address(rule), method=method, headers=headers, json=body)
    else:
        browser = shared.browser() if rule.right is Permission.OPEN else shared.signed_in(Role.ADMINISTRATOR)
        sent = {"csrf_token": browser.csrf(), **EVERYTHING_SENT}
        before = len(entries(shared))
        browser.client.open(address(rule), method=method, data=sent)

    added = entries(shared)[before:]
    assert [entry.action for entry in added] == ([] if declared == NOTHING else [declared.action])  # type: ignore[attr-defined]


def test_an_unsafe_address_that_does_not_say_what_it_does_keeps_the_application_from_being_made() -> None:
    with without_people() as app:
        app.add_url_rule("/new", "new", needs(Permission.SEE)(lambda: ""), methods=["POST"])

        with pytest.raises(RuntimeError, match="new"):
            refuse_unrecorded(app)


def test_no_address_edits_an_entry() -> None:
    assert {(rule.path, rule.methods) for rule in RULES if "audit" in rule.path} == {
        ("/audit", "GET"),
        ("/audit.csv", "GET"),
        ("/api/v1/audit", "GET"),
    }
    for rule in RULES:
        if "audit" in rule.path:
            assert rule.right is Permission.AUDIT


def test_only_fields_that_hold_no_secret_are_kept() -> None:
    with without_people() as app:
        kept = {name for view in app.view_functions.values() if (act := act_of(view)) for name in act.fields}

    assert kept == {
        "mode", "load_anyway", "override_reason", "rollback", "extend", "extend_s", "reason", "idle",
        "idle_unload_minutes", "why", "answer", "word", "role", "hours", "scope", "days",
    }  # fmt: skip


# What an entry says


def test_a_switch_says_who_what_from_where_and_leads_to_its_operation(lab: Lab) -> None:
    body = {"mode": "transformers", "model": MODEL.id, "load_anyway": True, "override_reason": "a\n demo"}
    answer = lab.app.test_client().post("/api/v1/switch", json=body, headers=lab.token(Role.ADMINISTRATOR))

    entry = newest(lab)
    anna = lab.accounts.person("anna")
    assert (entry.doer.name, entry.doer.came, entry.doer.person_id, entry.doer.token) == (
        "anna",
        AuditChannel.TOKEN,
        anna.id,
        "test",
    )
    assert entry.action is Action.SWITCH
    assert entry.target == Target(Kind.MODEL, "", MODEL.id)
    assert (entry.result, entry.problem, entry.address) == (Result.DONE, None, "127.0.0.1")
    assert dict(entry.details) == {
        Detail.MODE: "transformers",
        Detail.LOAD_ANYWAY: "yes",
        Detail.OVERRIDE_REASON: "a demo",
    }
    assert entry.operation_id == answer.json["id"]  # type: ignore[index]


@pytest.mark.parametrize("fragment", [False, True])
def test_a_refusal_is_recorded_with_its_code_however_it_is_told(lab: Lab, fragment: bool) -> None:
    lab.controller.refusal = NotEnoughMemory(needed_bytes=2, free_bytes=1)
    lab.signed_in(Role.OPERATOR).post("/switch", FORM, headers=HTMX if fragment else {})

    assert (newest(lab).result, newest(lab).problem) == (Result.REFUSED, "not_enough_memory")
    assert newest(lab).operation_id is None


@pytest.mark.parametrize("path", ["/api/v1/switch", "/api/v1/queue"])
def test_request_that_is_sent_again_under_its_id_has_one_entry(lab: Lab, path: str) -> None:
    if path.endswith("queue"):
        lab.controller.changed(readings=(reading(held=(foreign("maria", "train.py", gib(21)),)),))
    token = lab.token(Role.OPERATOR)
    client, body = lab.app.test_client(), {"mode": "transformers", "model": MODEL.id, "request_id": "r1"}

    answers = [client.post(path, json=body, headers=token) for _ in range(2)]
    other = client.post(path, json={**body, "keep_others": True}, headers=token)

    assert {answer.status_code for answer in answers} <= {201, 202}
    first, refused = entries(lab)
    assert (first.result, refused.problem) == (Result.DONE, other.json and other.json["code"])
    assert answers[0].json is not None
    assert answers[0].json["id"] in (first.operation_id, first.target.id)


def test_form_that_is_sent_twice_has_an_entry_for_each_operation(lab: Lab) -> None:
    browser = lab.signed_in(Role.OPERATOR)
    for _ in range(2):
        assert browser.post("/switch", FORM).status_code == 303

    operations = [entry.operation_id for entry in entries(lab) if entry.action is Action.SWITCH]
    assert len(set(operations)) == 2


def test_request_id_keeps_no_other_act_out_of_the_record(lab: Lab) -> None:
    """Whoever adds the field to another form must not be able to hide what they do again."""
    browser = lab.signed_in(Role.ADMINISTRATOR)
    for role in ("viewer", "operator", "viewer"):
        browser.post(f"/people/{NAMES[Role.OPERATOR]}/role", {"role": role, "request_id": "r1"})

    roles = [dict(entry.details)[Detail.ROLE] for entry in entries(lab) if entry.action is Action.ROLE]
    assert roles == ["viewer", "operator", "viewer"]


def test_an_override_names_the_owner_and_the_reason(lab: Lab) -> None:
    lab.controller.changed(instances=(instance(owner="maria", lease=LEASED),))
    lab.signed_in(Role.ADMINISTRATOR).post("/instances/i1/unload", {"override_reason": "a demo", "confirmed": "1"})

    entry = newest(lab)
    assert entry.target == Target(Kind.MODEL, "i1", instance().model_id)
    assert dict(entry.details) == {Detail.OWNER: "maria", Detail.OVERRIDE_REASON: "a demo"}
    assert entry.operation_id is not None


def test_a_question_before_an_action_is_no_action(lab: Lab) -> None:
    lab.controller.changed(instances=(instance(owner="maria", lease=LEASED), instance("i2", owner="anna", in_flight=1)))
    browser = lab.signed_in(Role.ADMINISTRATOR)
    before = len(entries(lab))

    for path in ("/emergency", "/instances/i1/unload", "/instances/i2/unload", "/containers/c1/stop"):
        assert browser.post(path).status_code == 303
        browser.get("/confirm/emergency", headers=HTMX)
    assert browser.post("/instances/i2/unload", headers=HTMX).status_code == 200

    assert len(entries(lab)) == before


def test_a_wrong_confirmation_is_a_refusal(lab: Lab) -> None:
    lab.controller.changed(containers=(container(),))
    lab.signed_in(Role.ADMINISTRATOR).post(f"/containers/{container().id}/stop", {"name": "no"}, headers=HTMX)

    entry = newest(lab)
    assert (entry.action, entry.problem) == (Action.CONTAINER_STOPPED, "not_confirmed")
    assert entry.target.name == container().name


def test_a_cancel_names_the_operation_and_whose_it_is(lab: Lab) -> None:
    lab.controller.changed(running=(running("maria"),))
    lab.signed_in(Role.OPERATOR).post("/operations/o1/cancel")

    entry = newest(lab)
    assert (entry.action, entry.target.id, entry.problem) == (Action.CANCEL, "o1", "not_yours")
    assert dict(entry.details)[Detail.OWNER] == "maria"


# People


def test_signing_in_and_out_is_the_persons(lab: Lab) -> None:
    browser = lab.signed_in(Role.OPERATOR)
    browser.post("/sign-out")

    came, went = entries(lab)
    assert (came.action, came.doer.name, came.result) == (Action.SIGN_IN, "olga", Result.DONE)
    assert (went.action, went.doer.name, went.doer.came) == (Action.SIGN_OUT, "olga", AuditChannel.SESSION)


def test_a_failed_sign_in_is_nobodys_and_names_an_account_alone(lab: Lab) -> None:
    lab.browser().sign_in("olga", "wrong password")
    assert newest(lab).doer.came is AuditChannel.NOBODY
    assert newest(lab).target == Target(Kind.PERSON, lab.accounts.person("olga").id, "olga")
    assert newest(lab).problem == "sign_in_failed"


def test_what_was_typed_for_a_name_and_is_none_is_not_kept(lab: Lab) -> None:
    lab.browser().sign_in("My-Typed-Password1", "wrong password")

    assert newest(lab).target == Target(Kind.PERSON)


def test_a_throttled_sign_in_is_recorded(tmp_path: Path) -> None:
    with made_lab(tmp_path, sign_in_failures=1) as lab:
        for _ in range(3):
            lab.browser().sign_in("olga", "wrong password")

        problems = {entry.problem for entry in entries(lab)}
        assert problems == {"sign_in_failed", "too_many_attempts"}


def test_a_role_says_before_and_after(lab: Lab) -> None:
    lab.signed_in(Role.ADMINISTRATOR).post("/people/vera/role", {"role": "operator"})

    entry = newest(lab)
    assert entry.target.name == "vera"
    assert entry.details == ((Detail.ROLE_BEFORE, "viewer"), (Detail.ROLE, "operator"))


def test_who_was_removed_is_still_named(lab: Lab) -> None:
    vera = lab.accounts.person("vera")
    lab.signed_in(Role.ADMINISTRATOR).post("/people/vera/remove")

    assert newest(lab).target == Target(Kind.PERSON, vera.id, "vera")
    assert newest(lab).details == ((Detail.ROLE_BEFORE, "viewer"),)


def test_an_invitation_is_followed_from_its_making_to_the_account(lab: Lab) -> None:
    page = lab.signed_in(Role.ADMINISTRATOR).post("/people/invitations", {"role": "viewer", "hours": "24"}).text
    link = re.search(r"key=([\w-]+)", page)
    assert link is not None
    made = newest(lab)
    new = lab.browser()
    new.post("/invitation", {"key": link[1], "name": "nina", "password": "battery staple", "again": "battery staple"})

    assert (made.action, made.target.name) == (Action.INVITATION_MADE, "viewer")
    used = newest(lab)
    assert (used.action, used.doer.name, used.target.name) == (Action.INVITATION_USED, "nina", "nina")
    assert used.doer.person_id == lab.accounts.person("nina").id


def test_a_token_is_named_by_its_label_when_it_is_made_and_revoked(lab: Lab) -> None:
    browser = lab.signed_in(Role.OPERATOR)
    browser.post("/account/tokens", {"label": "ci", "scope": "viewer", "days": "0"})
    made = newest(lab)
    (token,) = lab.accounts.tokens()
    browser.post(f"/account/tokens/{token.id}/revoke")

    assert (made.action, made.target.name) == (Action.TOKEN_MADE, "ci")
    assert made.details == ((Detail.SCOPE, "viewer"), (Detail.DAYS, "0"))
    assert (newest(lab).action, newest(lab).target) == (Action.TOKEN_REVOKED, Target(Kind.TOKEN, token.id, "ci"))


def test_who_is_named_by_a_proxy_for_the_first_time_is_recorded_with_the_own_address(tmp_path: Path) -> None:
    proxied: dict[str, Any] = {"proxy_user_header": "X-User", "trusted_proxies": ("10.0.0.5",)}
    with made_lab(tmp_path, **proxied) as lab:
        sent = {"X-User": "petra", "X-Forwarded-For": "192.0.2.9"}
        for _ in range(2):
            lab.app.test_client().get("/", headers=sent, environ_base={"REMOTE_ADDR": "10.0.0.5"})

        (entry,) = entries(lab)
        assert (entry.action, entry.doer.name, entry.doer.came) == (Action.PERSON_MADE, "petra", AuditChannel.PROXY)
        assert entry.address == "192.0.2.9"


# What rights refuse


def test_what_a_role_may_not_do_or_see_is_recorded(lab: Lab) -> None:
    viewer = lab.signed_in(Role.VIEWER)
    viewer.post("/clean")
    viewer.get("/people")
    lab.app.test_client().post("/api/v1/plan", json={}, headers=lab.token(Role.VIEWER))

    done, seen, planned = entries(lab)[1:]
    assert (done.action, done.problem, done.doer.name) == (Action.CLEAN, "forbidden", "vera")
    assert (seen.action, seen.target) == (Action.ADDRESS, Target(Kind.ADDRESS, name="GET /people"))
    assert (planned.action, planned.target.name) == (Action.ADDRESS, "POST /api/v1/plan")


def test_who_is_not_signed_in_is_recorded_as_nobody(lab: Lab) -> None:
    lab.browser().client.post("/api/v1/emergency", json={})

    assert (newest(lab).action, newest(lab).doer.came, newest(lab).problem) == (
        Action.EMERGENCY,
        AuditChannel.NOBODY,
        "unauthorized",
    )


def test_a_form_of_another_site_is_recorded(lab: Lab) -> None:
    lab.signed_in(Role.ADMINISTRATOR).post("/emergency", {"confirmed": "1"}, headers={"Origin": "https://evil.example"})

    assert (newest(lab).action, newest(lab).result, newest(lab).problem) == (
        Action.EMERGENCY,
        Result.REFUSED,
        "cross_site",
    )


def test_the_same_refusal_over_and_over_is_one_entry(lab: Lab) -> None:
    lab.controller.refusal = Busy(operation="o1")
    headers = lab.token(Role.OPERATOR)
    for _ in range(5):
        lab.app.test_client().post("/api/v1/clean", headers=headers)

    assert len(entries(lab)) == 1


class Untouched(io.RawIOBase):
    """A body that a slow sender never finishes."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        raise AssertionError("the body was read")


def test_the_body_of_who_may_not_is_not_waited_for(lab: Lab) -> None:
    headers = {**lab.token(Role.VIEWER), "Content-Type": "application/json"}
    body = {"wsgi.input": Untouched(), "CONTENT_LENGTH": "100000"}
    answer = lab.app.test_client().post("/api/v1/switch", headers=headers, environ_overrides=body)

    assert answer.status_code == 403
    assert (newest(lab).action, newest(lab).target) == (Action.SWITCH, Target(Kind.MODEL))


def test_a_body_that_is_nested_too_deep_is_refused_and_recorded(lab: Lab) -> None:
    headers = {**lab.token(Role.OPERATOR), "Content-Type": "application/json"}
    answer = lab.app.test_client().post("/api/v1/switch", data="[" * 100_000, headers=headers)

    assert answer.status_code in (400, 422)
    assert newest(lab).result is Result.REFUSED


# Secrets


def test_no_secret_gets_in(lab: Lab) -> None:
    lab.controller.changed(instances=(instance(owner="anna"),))
    lab.browser().sign_in("My-Typed-Password1", "battery staple")
    lab.browser().sign_in("olga", "battery staple")
    browser = lab.signed_in(Role.ADMINISTRATOR)
    browser.post("/account/tokens", {"label": "ci", "scope": "viewer", "days": "30"})
    browser.post("/account/password", {"old": PASSWORD, "new": "battery staple", "again": "battery staple"})
    link = re.search(r"key=([\w-]+)", browser.post("/people/invitations", {"role": "viewer", "hours": "24"}).text)
    assert link is not None
    fields = {"key": link[1], "name": "nina", "password": "battery staple", "again": "battery staple"}
    lab.browser().post("/invitation", fields)
    browser.post("/instances/i1/ask", {"prompt": "what is a secret"})
    headers = lab.token(Role.ADMINISTRATOR)
    lab.app.test_client().post("/api/v1/instances/i1/ask", json={"prompt": "what is a secret"}, headers=headers)

    kept = repr(entries(lab)) + browser.get("/audit").text + browser.get("/audit.csv").text
    assert len(entries(lab)) > 5
    for secret in (*SECRETS, link[1], headers["Authorization"].split()[1], browser.cookie()):
        assert secret not in kept, secret


# When the database fails


def test_an_emergency_is_begun_and_recorded_later_while_the_database_fails(lab: Lab) -> None:
    headers = lab.token(Role.ADMINISTRATOR)
    lab.app.test_client().get("/api/v1/status", headers=headers)
    lab.database.close()

    assert lab.app.test_client().post("/api/v1/emergency", headers=headers).status_code == 202
    page = lab.app.test_client().get("/audit", headers=headers)
    assert page.status_code == 503
    assert "data-store-problem" in page.text

    lab.database.open()
    assert (newest(lab).action, newest(lab).doer.name) == (Action.EMERGENCY, "anna")


# The page, the table, the JSON


@pytest.fixture
def busy_lab(lab: Lab) -> Lab:
    """Some entries: three sign-ins, a clean, a refused one, a failed sign-in, a switch."""
    lab.signed_in(Role.OPERATOR).post("/clean")
    lab.signed_in(Role.VIEWER).post("/clean")
    lab.browser().sign_in("olga", "wrong password")
    body = {"mode": "transformers", "model": MODEL.id}
    lab.app.test_client().post("/api/v1/switch", json=body, headers=lab.token(Role.OPERATOR))
    return lab


def tomorrow() -> str:
    return (date.today() + timedelta(days=2)).isoformat()


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("person=olga", ["switch", "clean", "sign_in"]),
        ("person=-", ["sign_in"]),
        ("group=server", ["clean", "clean"]),
        ("result=refused", ["sign_in", "clean"]),
        ("target=qwen3", ["switch"]),
        ("person=olga&group=signing", ["sign_in"]),
        (f"from={tomorrow()}", []),
        (f"to={tomorrow()}&target=QWEN", ["switch"]),
        ("to=2020-01-01", []),
        ("person=nina", []),
    ],
)
def test_page_table_and_json_find_the_same(busy_lab: Lab, query: str, found: list[str]) -> None:
    headers = busy_lab.token(Role.ADMINISTRATOR)
    client = busy_lab.app.test_client()

    page = client.get(f"/audit?{query}", headers=headers)
    table = list(csv.DictReader(io.StringIO(client.get(f"/audit.csv?{query}", headers=headers).text)))
    document = client.get(f"/api/v1/audit?{query}", headers=headers).json

    assert page.status_code == 200
    assert re.findall(r'data-act="(\w+)"', page.text) == found
    assert [row["action"] for row in table] == found
    assert [entry["action"] for entry in document] == found  # type: ignore[union-attr]
    assert ('data-empty="filtered"' in page.text) is (not found)


def test_an_entry_reads_well_on_the_page(busy_lab: Lab) -> None:
    page = busy_lab.signed_in(Role.ADMINISTRATOR).get("/audit?person=olga&group=models").text

    text = " ".join(re.sub(r"<[^>]+>", " ", page.split('id="audit"')[1]).split())
    assert "olga by the token “test” · 127.0.0.1" in text
    assert f"Load model: {MODEL.id} Operation mode: Transformers" in text
    assert '<a class="audit__operation" href="/operations/op' in page


def test_a_value_that_cannot_be_meant_finds_nothing_and_a_program_is_told(busy_lab: Lab) -> None:
    headers = busy_lab.token(Role.ADMINISTRATOR)
    client = busy_lab.app.test_client()
    for query in ("group=x", "result=x", "from=yesterday", "to=9999-99-99", "from=0001-01-01", "before=-1", "before=x"):
        assert 'data-empty="filtered"' in client.get(f"/audit?{query}", headers=headers).text, query
        assert client.get(f"/api/v1/audit?{query}", headers=headers).status_code == 422, query
        assert client.get(f"/audit.csv?{query}", headers=headers).status_code == 422, query


def test_pages_follow_each_other_and_keep_the_filter(lab: Lab) -> None:
    headers = lab.token(Role.ADMINISTRATOR)
    client = lab.app.test_client()
    for _ in range(60):
        client.post("/api/v1/clean", headers=headers)

    first = client.get("/audit?group=server", headers=headers).text
    older = re.search(r'href="(/audit\?[^"]+)" data-action="older"', first)
    assert older is not None
    second = client.get(older[1].replace("&amp;", "&"), headers=headers).text

    numbers = [int(n) for n in re.findall(r'data-entry="(\d+)"', first + second)]
    assert numbers == list(range(60, 0, -1))
    assert "group=server" in older[1]
    assert 'data-action="older"' not in second
    assert 'data-action="newest"' in second


def test_htmx_gets_the_list_alone_with_the_links_of_its_filter(busy_lab: Lab) -> None:
    answer = busy_lab.signed_in(Role.ADMINISTRATOR).get("/audit?person=olga", headers=HTMX).text

    assert answer.lstrip().startswith('<div id="audit"')
    assert "<html" not in answer
    assert 'href="/audit.csv?person=olga"' in answer


def test_a_table_runs_nothing_in_a_spreadsheet(lab: Lab) -> None:
    headers = lab.token(Role.ADMINISTRATOR)
    body = {"mode": "transformers", "model": '=HYPERLINK("http://evil.example")'}
    lab.app.test_client().post("/api/v1/switch", json=body, headers=headers)
    answer = lab.app.test_client().get("/audit.csv", headers=headers)
    (row,) = csv.DictReader(io.StringIO(answer.text))

    assert row["target"] == '\'=HYPERLINK("http://evil.example")'
    assert answer.headers["Content-Disposition"] == "attachment; filename=warden-audit.csv"
    assert row["at"].endswith("Z")
    assert row["problem"] == "unknown_model"


def test_what_people_type_is_shown_as_text(lab: Lab) -> None:
    headers = lab.token(Role.ADMINISTRATOR)
    body = {"mode": "transformers", "model": "<script>alert(1)</script>", "override_reason": "<b>x</b>"}
    lab.app.test_client().post("/api/v1/switch", json=body, headers=headers)

    page = lab.app.test_client().get("/audit", headers=headers).text
    assert "<script>alert(1)" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<b>x</b>" not in page


def test_the_navigation_leads_administrators_there_alone(lab: Lab) -> None:
    for role in Role:
        assert ('href="/audit"' in lab.signed_in(role).get("/").text) is (role is Role.ADMINISTRATOR)


def test_the_one_person_of_a_warden_without_accounts_has_the_page_too(
    visitor: Visitor, app: Flask, settings: object
) -> None:
    services = app.extensions["warden"]
    assert isinstance(services, FakeServices)
    assert 'data-empty="nothing"' in visitor.get("/audit").text

    visitor.post("/clean")

    (entry,) = services.audit.entries(10)
    assert entry.doer.came is AuditChannel(AuthMethod.LOCAL.value)
    assert 'data-act="clean"' in visitor.get("/audit").text
    assert set(NAMES) == set(Role)
