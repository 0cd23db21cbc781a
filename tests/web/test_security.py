"""Strangers: pages of other sites, other names, other people's forms."""

from __future__ import annotations

from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.web.conftest import HTMX, Visitor
from tests.web.fakes import FakeController, FakeServices
from webapp import create_app
from webapp.settings import load_settings

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.mark.parametrize(
    "path", ["/", "/nothing", "/healthz", "/api/v1/status", "/static/js/app.js", "/fragments/live"]
)
def test_every_answer_carries_the_policy(client: FlaskClient, path: str) -> None:
    with client.get(path) as answer:
        headers = answer.headers

    assert headers["Content-Security-Policy"] == POLICY
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"


@pytest.mark.parametrize("host", ["localhost", "localhost:9000", "127.0.0.1:8000", "[::1]:8000", "LOCALHOST"])
def test_the_page_answers_to_its_own_names(client: FlaskClient, host: str) -> None:
    assert client.get("/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "..", "a..b"]
)
@pytest.mark.parametrize("path", ["/", "/api/v1/status", "/healthz", "/fragments/live", "/nothing"])
def test_a_rebound_name_gets_nothing_but_a_clear_text(client: FlaskClient, host: str, path: str) -> None:
    answer = client.get(path, headers={"Host": host})

    assert answer.status_code == 400
    assert "WARDEN_TRUSTED_HOSTS" in answer.text
    assert "gpu-0" not in answer.text


@pytest.mark.parametrize(
    "path",
    ["/clean", "/switch", "/emergency", "/demo", "/instances/i1/unload", "/containers/c/stop", "/operations/o/cancel"],
)
def test_a_form_without_the_token_does_nothing(client: FlaskClient, controller: FakeController, path: str) -> None:
    answer = client.post(path, data={"confirmed": "1"})

    assert answer.status_code == 400
    assert "Форма устарела" in answer.text
    assert controller.calls == []


def test_htmx_is_told_of_a_missing_token_in_the_status_line(client: FlaskClient) -> None:
    answer = client.post("/clean", headers=HTMX)

    assert answer.status_code == 400
    assert answer.text.startswith('<p class="say')


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://["},
        {"Origin": "http://localhost:9999"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_another_sites_page_commands_nothing(
    visitor: Visitor, controller: FakeController, headers: dict[str, str]
) -> None:
    form = visitor.post("/clean", headers=headers)
    json = visitor.client.post("/api/v1/emergency", headers=headers)

    assert (form.status_code, json.status_code) == (403, 403)
    assert json.json is not None
    assert json.json["code"] == "cross_site"
    assert controller.calls == []


def test_the_pages_own_origin_is_welcome(visitor: Visitor) -> None:
    headers = {"Origin": "http://localhost:8000", "Host": "localhost:8000", "Sec-Fetch-Site": "same-origin"}

    assert visitor.post("/clean", headers=headers).status_code == 303
    assert visitor.client.post("/api/v1/clean", headers=headers).status_code == 202


@pytest.mark.parametrize(
    "mimetype", ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain"]
)
def test_the_json_interface_takes_no_form(client: FlaskClient, controller: FakeController, mimetype: str) -> None:
    answer = client.post("/api/v1/clean", data=b"", content_type=mimetype)

    assert answer.status_code == 403
    assert controller.calls == []


def test_a_large_form_is_refused(visitor: Visitor) -> None:
    assert visitor.post("/clean", {"x": "y" * 270_000}).status_code == 413


def test_the_session_cookie_is_kept_from_scripts_and_other_sites(client: FlaskClient) -> None:
    cookie = client.get("/").headers["Set-Cookie"]

    assert cookie.startswith("warden_session_")
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie


def test_two_servers_behind_two_tunnels_keep_their_sessions_apart(tmp_path: Path) -> None:
    names = set()
    for folder in ("one", "two"):
        settings = load_settings(state_dir=tmp_path / folder)
        app = create_app(settings, FakeServices(settings, FakeController()))
        names.add(app.test_client().get("/").headers["Set-Cookie"].partition("=")[0])

    assert len(names) == 2


@pytest.mark.parametrize(
    ("target", "lands"),
    [
        ("/?mode=vllm", "/?mode=vllm"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("https://evil.example/", "/"),
        ("/%5c/evil", "/%5c/evil"),
        ("javascript:alert(1)", "/"),
        ("", "/"),
        ("/\t/evil.example", "/"),
    ],
)
def test_the_language_switch_leads_nowhere_else(client: FlaskClient, target: str, lands: str) -> None:
    answer = client.get("/language/en", query_string={"next": target})

    assert answer.status_code == 303
    assert answer.location == lands


def test_the_chosen_language_is_kept(client: FlaskClient) -> None:
    client.get("/language/en", headers={"Accept-Language": "ru"})

    assert '<html lang="en"' in client.get("/", headers={"Accept-Language": "ru"}).text
    assert client.get("/language/de").status_code == 404


@pytest.mark.parametrize(("asked", "got"), [("en-US,en;q=0.9", "en"), ("de,ru;q=0.5", "ru"), ("de", "ru"), ("", "ru")])
def test_the_browser_chooses_the_language(client: FlaskClient, asked: str, got: str) -> None:
    assert f'<html lang="{got}"' in client.get("/", headers={"Accept-Language": asked}).text


@pytest.mark.parametrize("language", ["ru", "en"])
@pytest.mark.parametrize(("path", "status"), [("/nothing", 404), ("/switch", 405)])
def test_an_error_is_a_designed_page_in_both_languages(
    client: FlaskClient, language: str, path: str, status: int
) -> None:
    answer = client.get(path, headers={"Accept-Language": language})

    assert answer.status_code == status
    assert f'<html lang="{language}"' in answer.text
    assert f'data-error="{status}"' in answer.text
