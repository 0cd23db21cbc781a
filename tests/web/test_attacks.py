"""What strangers and people with little rights try over HTTP, on every address at once where that is possible."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import pytest

from tests.web.conftest import HTMX
from tests.web.fakes import FakeController, FakeServices, instance
from tests.web.people import NAMES, PASSWORD, Lab, made_lab
from tests.web.test_rights import RULES, address
from webapp import create_app
from webapp.domain.people import Permission, Role
from webapp.server.incoming import BODY_LIMIT
from webapp.settings import load_settings
from webapp.web.rights import Rule

UNSAFE = [rule for rule in RULES if rule.methods != "GET"]
SEEN = [rule for rule in RULES if "GET" in rule.methods]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One application for the walks: nothing of them changes it."""
    with made_lab(tmp_path_factory.mktemp("lab")) as made:
        made.controller.changed(instances=(instance(),))
        yield made


@pytest.fixture(autouse=True)
def nothing_happens(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each walk nobody has done anything."""
    yield
    if "shared" in request.fixturenames:
        assert request.getfixturevalue("shared").controller.calls == []


def name_of(rule: Rule) -> str:
    return f"{rule.methods} {rule.path}"


def verb(rule: Rule) -> str:
    return next(method for method in rule.methods.split() if method != "GET")


# Forms and scripts of other sites


@pytest.mark.parametrize("rule", UNSAFE, ids=name_of)
def test_what_another_sites_page_sends_with_the_persons_cookie_does_nothing(shared: Lab, rule: Rule) -> None:
    """A form and a script of another site, each kind of origin, and no origin at all but no token either."""
    browser = shared.signed_in(Role.ADMINISTRATOR)
    sent = [
        {"headers": {"Origin": "http://evil.example"}, "data": {"csrf_token": browser.csrf()}},
        {"headers": {"Origin": "null"}, "data": {"csrf_token": browser.csrf()}},
        {"headers": {"Origin": "http://localhost.evil.example"}, "data": {"csrf_token": browser.csrf()}},
        {"headers": {"Origin": "https://localhost:1"}, "data": {"csrf_token": browser.csrf()}},
        {"headers": {"Sec-Fetch-Site": "cross-site"}, "data": {"csrf_token": browser.csrf()}},
        {"headers": {"Sec-Fetch-Site": "same-site"}, "data": {"csrf_token": browser.csrf()}},
        {"data": {}},
        {"data": {"csrf_token": "guessed"}},
        {"data": "{}", "content_type": "text/plain"},
        {"json": {}},
        {"json": {}, "headers": {"X-CSRFToken": "guessed"}},
        {"json": {}, "headers": {"Origin": "http://evil.example", **HTMX}},
    ]
    for request in sent:
        answer = browser.client.open(address(rule), method=verb(rule), **request)  # type: ignore[arg-type]
        assert answer.status_code in (400, 403), request


def test_a_token_of_one_session_is_worth_nothing_in_another(lab: Lab) -> None:
    thief, victim = lab.signed_in(Role.VIEWER), lab.signed_in(Role.OPERATOR)

    answer = victim.client.post("/clean", data={"csrf_token": thief.csrf()})

    assert answer.status_code == 400
    assert lab.controller.calls == []


@pytest.mark.parametrize("rule", SEEN, ids=name_of)
def test_reading_an_address_changes_nothing(shared: Lab, rule: Rule) -> None:
    """A picture or a link of another site is a GET with the cookie."""
    browser = shared.signed_in(Role.ADMINISTRATOR)
    query = {"confirmed": "1", "mode": "transformers", "model": "Qwen/Qwen3-1.7B", "csrf_token": browser.csrf()}

    browser.client.get(address(rule), query_string=query)

    assert [person.name for person in shared.accounts.people()] == sorted(NAMES.values())


def test_no_method_is_put_on_by_a_header_or_a_field(lab: Lab) -> None:
    browser = lab.signed_in(Role.ADMINISTRATOR)

    browser.get("/clean?_method=POST", headers={"X-HTTP-Method-Override": "POST"})

    assert lab.controller.calls == []


# Names


def test_the_names_are_a_setting_and_a_proxys_header_is_none(tmp_path: Path) -> None:
    settings = load_settings(state_dir=tmp_path, trusted_hosts=("gpu.lab", ".warden.lab"))
    client = create_app(settings, FakeServices(settings, FakeController())).test_client()

    assert client.get("/", headers={"Host": "gpu.lab:8000"}).status_code == 200
    assert client.get("/", headers={"Host": "a.warden.lab"}).status_code == 200
    for host in ("localhost", "evil.example", "gpu.lab.evil.example", "warden.lab.evil.example"):
        assert client.get("/", headers={"Host": host, "X-Forwarded-Host": "gpu.lab"}).status_code == 400


# Ways out


@pytest.mark.parametrize(
    "target",
    [
        "//evil.example",
        "\\\\evil.example",
        "/\\evil.example",
        "https:evil.example",
        "https:/evil.example",
        "http://localhost@evil.example/",
        "///evil.example",
        "/\t/evil.example",
        " //evil.example",
        "\x00//evil.example",
        "javascript:alert(1)",
        "data:text/html,x",
        "//evil.example/%2f..",
        "/\r\nSet-Cookie: a=b",
    ],
)
def test_no_address_leads_to_another_site(lab: Lab, target: str) -> None:
    browser = lab.signed_in(Role.OPERATOR)
    token = browser.csrf()
    answers = [
        browser.get("/language/en", query_string={"next": target}),
        browser.get("/sign-in", query_string={"next": target}),
        browser.client.post("/clean", data={"csrf_token": token, "next": target}),
        browser.client.post(
            "/clean",
            data={"csrf_token": token},
            headers={"Referer": target.strip()[:20].encode("ascii", "replace").decode().replace("\r\n", "")},
        ),
        lab.browser().sign_in("olga", next=target),
        lab.browser().get(
            "/", headers={**HTMX, "HX-Current-URL": f"http://localhost{target}".replace("\r\n", "").replace("\x00", "")}
        ),
    ]
    for answer in answers:
        for header in ("Location", "HX-Redirect", "HX-Location"):
            lands = answer.headers.get(header, "/")
            assert re.match(r"/(?![/\\])", lands), (answer.request.path, lands)
        assert "a=b" not in answer.headers.getlist("Set-Cookie")


@pytest.mark.parametrize("target", ["/%2f%2fevil.example", "/%5c%5cevil.example", "/%09/evil.example"])
def test_what_is_encoded_stays_so_and_is_a_path_of_this_site(lab: Lab, target: str) -> None:
    assert lab.browser().sign_in("olga", next=target).location == target


# Rights


@pytest.mark.parametrize("field", ["owner", "actor", "user", "role", "is_administrator", "person_id", "state", "id"])
@pytest.mark.parametrize("rule", [rule for rule in UNSAFE if rule.path.startswith("/api/")], ids=name_of)
def test_a_field_that_names_a_person_or_a_role_gives_nothing(shared: Lab, rule: Rule, field: str) -> None:
    """A viewer stays one whatever the body says, and no body knows such a field."""
    headers = {**shared.token(Role.VIEWER), "X-Role": "administrator", "X-User": "anna", "X-Forwarded-User": "anna"}
    body = {"mode": "transformers", "model": "Qwen/Qwen3-1.7B", field: "anna"}

    answer = shared.app.test_client().open(address(rule), method=verb(rule), headers=headers, json=body)

    assert answer.status_code in ((403,) if rule.right not in (Permission.PLAN, Permission.ASK) else (403, 422))


@pytest.mark.parametrize("field", ["owner", "actor", "role", "is_administrator", "override"])
def test_an_operator_acts_as_nobody_else(lab: Lab, field: str) -> None:
    body = {"mode": "transformers", "model": "Qwen/Qwen3-1.7B"}
    headers = lab.token(Role.OPERATOR)
    client = lab.app.test_client()

    assert client.post("/api/v1/switch", headers=headers, json={**body, field: "anna"}).status_code == 422
    assert client.post("/api/v1/switch", headers=headers, json={**body, "options": {field: "x"}}).status_code == 422
    assert client.post("/api/v1/switch", headers=headers, json={**body, "override_reason": "mine"}).status_code == 403
    assert lab.controller.calls == []
    assert client.post(f"/api/v1/switch?{field}=anna", headers=headers, json=body).status_code == 202
    assert lab.controller.calls[0][1] == "olga"


def test_a_form_field_names_no_person(lab: Lab) -> None:
    lab.signed_in(Role.OPERATOR).post("/clean", {"actor": "anna", "owner": "anna", "role": "administrator"})

    assert lab.controller.calls == [("clean", "olga")]


# Bodies


def test_a_long_body_is_refused_before_it_is_looked_at(lab: Lab) -> None:
    """By each address that takes one, also by those that need none."""
    headers = lab.token(Role.ADMINISTRATOR)
    for path in ("/api/v1/clean", "/api/v1/plan", "/api/v1/emergency"):
        answer = lab.app.test_client().post(
            path, headers=headers, data=b"x" * (BODY_LIMIT + 1), content_type="application/json"
        )
        assert answer.status_code == 413
        assert answer.content_type == "application/problem+json"
    assert lab.controller.calls == []


def test_a_body_of_unknown_length_is_refused(lab: Lab) -> None:
    headers = {**lab.token(Role.ADMINISTRATOR), "Transfer-Encoding": "chunked"}

    answer = lab.app.test_client().post("/api/v1/clean", headers=headers)

    assert answer.status_code == 411
    assert lab.controller.calls == []


@pytest.mark.parametrize("rule", [rule for rule in UNSAFE if not rule.path.startswith("/api/")], ids=name_of)
def test_a_file_is_not_taken(shared: Lab, rule: Rule) -> None:
    browser = shared.browser()
    upload = {"csrf_token": browser.csrf(), "file": (BytesIO(b"x"), "x.py")}

    answer = browser.client.open(address(rule), method=verb(rule), data=upload, content_type="multipart/form-data")

    assert answer.status_code == 415


# What is shown


class Scripts(HTMLParser):
    """Collects what a page would run, and what it takes from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            text = value or ""
            if name.startswith("on") or name == "style" or name.startswith("hx-on"):
                self.found.append(f"{tag} {name}={text}")
            if name in ("href", "src", "action", "formaction") and not re.match(r"[/?#](?!/)|$", text):
                self.found.append(f"{tag} {name}={text}")
        if tag in ("style", "iframe", "object", "embed", "base") or (tag == "script" and not dict(attrs).get("src")):
            self.found.append(tag)


@pytest.mark.parametrize("rule", [rule for rule in SEEN if not rule.path.startswith("/api/")], ids=name_of)
def test_no_page_has_anything_inline_or_from_elsewhere(shared: Lab, rule: Rule) -> None:
    """So that the policy can forbid it."""
    parser = Scripts()
    answer = shared.signed_in(Role.ADMINISTRATOR).get(address(rule))
    if answer.mimetype == "text/html":
        parser.feed(answer.text)

    assert parser.found == []


@pytest.mark.parametrize("rule", RULES, ids=name_of)
def test_every_answer_has_its_headers_and_is_kept_by_nobody(shared: Lab, rule: Rule) -> None:
    clients = (shared.signed_in(Role.ADMINISTRATOR).client, shared.browser().client)
    for client, method in itertools.product(clients, rule.methods.split()):
        with client.open(address(rule), method=method) as answer:
            headers = answer.headers
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "same-origin"
        assert headers["Cache-Control"] == "no-store"
        for cookie in headers.getlist("Set-Cookie"):
            assert "HttpOnly" in cookie
            assert "SameSite=Lax" in cookie


def test_every_cookie_is_secure_under_tls(lab: Lab) -> None:
    browser = lab.browser()
    answers = [
        browser.get("/sign-in", base_url="https://localhost"),
        browser.get("/language/en", base_url="https://localhost"),
        browser.client.post(
            "/sign-in",
            data={"csrf_token": browser.csrf(), "name": "anna", "password": PASSWORD},
            base_url="https://localhost",
        ),
    ]
    cookies = [cookie for answer in answers for cookie in answer.headers.getlist("Set-Cookie")]

    assert len(cookies) >= 2
    assert all("Secure" in cookie for cookie in cookies)


@pytest.mark.parametrize("headers", [{}, HTMX])
@pytest.mark.parametrize("path", ["/", "/history", "/fragments/live", "/api/v1/status", "/healthz", "/nothing"])
def test_a_defect_shows_nothing_of_its_inside(lab: Lab, path: str, headers: dict[str, str]) -> None:
    """Also where it is in a part of every page, so that the error's own page cannot be drawn."""
    browser = lab.signed_in(Role.ADMINISTRATOR)
    lab.controller.changed(instances=(Defective(),))

    answer = browser.get(path, headers=headers)

    for inside in ("Traceback", "the inside", ".py", "RuntimeError"):
        assert inside not in answer.text


class Defective:
    """What no reading survives."""

    def __getattr__(self, name: str) -> None:
        raise RuntimeError("the inside: /home/me/secret.py")
