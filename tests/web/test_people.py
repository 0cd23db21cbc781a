"""The pages of people: one's own account, and everybody's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.web.conftest import Visitor
from tests.web.people import PASSWORD, Lab, made_lab
from webapp.domain.people import Role


def test_without_accounts_both_pages_say_how_the_first_one_is_made(tmp_path: Path) -> None:
    with made_lab(tmp_path, people=False) as lab:
        browser = lab.browser()
        for path in ("/people", "/account"):
            assert "warden users add" in browser.get(path).text
        assert browser.post("/account/tokens", {"label": "x", "scope": "viewer", "days": "0"}).status_code == 404


def test_the_first_administrator_can_be_invited(tmp_path: Path) -> None:
    with made_lab(tmp_path, people=False) as lab:
        page = lab.browser().post("/people/invitations", {"role": "administrator", "hours": "24"}).text
        link = re.search(r"http://localhost(/invitation\?key=[\w-]+)", page)
        assert link is not None
        browser = lab.browser()
        key = link[1].partition("=")[2]
        browser.post("/invitation", {"key": key, "name": "boss", "password": PASSWORD, "again": PASSWORD})
        lab.clock.now += 1
        assert lab.browser().get("/").location == "/sign-in"
        assert browser.get("/people").status_code == 200


# One's own account


def test_a_new_password_ends_all_other_sessions(lab: Lab) -> None:
    browser, other = lab.signed_in(Role.OPERATOR), lab.signed_in(Role.OPERATOR)
    new = "another horse"

    answer = browser.post("/account/password", {"old": PASSWORD, "new": new, "again": new})

    assert answer.location == "/account"
    assert browser.get("/account").status_code == 200
    assert other.get("/").location == "/sign-in"
    assert lab.browser().sign_in("olga").status_code == 401
    assert lab.browser().sign_in("olga", new).status_code == 303


@pytest.mark.parametrize(
    ("fields", "status"),
    [({"old": "wrong horse"}, 401), ({"again": "x"}, 422), ({"new": "short", "again": "short"}, 422)],
)
def test_a_password_that_cannot_be_changed_says_why(lab: Lab, fields: dict[str, str], status: int) -> None:
    browser = lab.signed_in(Role.OPERATOR)
    whole = {"old": PASSWORD, "new": "another horse", "again": "another horse", **fields}

    answer = browser.post("/account/password", whole)

    assert answer.status_code == status
    assert "data-problem" in answer.text
    assert browser.get("/").status_code == 200


def test_who_guesses_the_password_in_an_open_browser_has_to_wait(lab: Lab) -> None:
    browser = lab.signed_in(Role.OPERATOR)
    guess = {"old": "guess", "new": "another horse", "again": "another horse", "name": "x"}

    statuses = [browser.post("/account/password", {**guess, "name": str(n)}).status_code for n in range(11)]

    assert statuses == [401] * 10 + [429]


def test_one_ends_ones_own_sessions_alone(lab: Lab) -> None:
    browser, other = lab.signed_in(Role.OPERATOR), lab.signed_in(Role.ADMINISTRATOR)
    hers = lab.accounts.sessions(lab.accounts.person("anna").id)[0].id
    mine = lab.accounts.sessions(lab.accounts.person("olga").id)[0].id

    browser.post(f"/account/sessions/{hers}/end")
    assert other.get("/").status_code == 200
    browser.post(f"/account/sessions/{mine}/end")
    assert browser.get("/").location == "/sign-in"


def test_a_token_is_shown_once(lab: Lab) -> None:
    browser = lab.signed_in(Role.OPERATOR)

    page = browser.post("/account/tokens", {"label": "nightly <b>", "scope": "viewer", "days": "30"}).text
    key = re.search(r"wdn_[\w-]{20,}", page)

    assert key is not None
    assert key[0] not in browser.get("/account").text
    assert "nightly &lt;b&gt;" in browser.get("/account").text
    answer = lab.app.test_client().get("/api/v1/status", headers={"Authorization": f"Bearer {key[0]}"})
    assert answer.status_code == 200
    (token,) = lab.accounts.tokens()
    assert (token.scope, token.expires_at) == (Role.VIEWER, lab.clock.now + 30 * 86_400)

    browser.post(f"/account/tokens/{token.id}/revoke")
    answer = lab.app.test_client().get("/api/v1/status", headers={"Authorization": f"Bearer {key[0]}"})
    assert answer.status_code == 401


@pytest.mark.parametrize(
    ("fields", "status"),
    [({"scope": "administrator"}, 403), ({"scope": "root"}, 422), ({"days": "9999"}, 422), ({"label": " "}, 422)],
)
def test_a_token_above_ones_role_is_not_made(lab: Lab, fields: dict[str, str], status: int) -> None:
    answer = lab.signed_in(Role.OPERATOR).post(
        "/account/tokens", {"label": "x", "scope": "viewer", "days": "0", **fields}
    )

    assert answer.status_code == status
    assert lab.accounts.tokens() == ()


def test_one_revokes_ones_own_tokens_alone(lab: Lab) -> None:
    lab.token(Role.ADMINISTRATOR)
    (token,) = lab.accounts.tokens()

    assert lab.signed_in(Role.OPERATOR).post(f"/account/tokens/{token.id}/revoke").status_code == 404
    assert lab.accounts.tokens() == (token,)


# Everybody's


def test_an_administrator_changes_somebodys_role_at_once(lab: Lab) -> None:
    boss, browser = lab.signed_in(Role.ADMINISTRATOR), lab.signed_in(Role.OPERATOR)

    boss.post("/people/olga/role", {"role": "viewer"})

    assert browser.post("/clean").status_code == 403
    assert 'data-person="olga" data-role="viewer"' in boss.get("/people").text


@pytest.mark.parametrize("role", ["root", "", "ADMINISTRATOR"])
def test_a_role_that_there_is_not_is_not_given(lab: Lab, role: str) -> None:
    assert lab.signed_in(Role.ADMINISTRATOR).post("/people/olga/role", {"role": role}).status_code == 422
    assert lab.accounts.person("olga").role is Role.OPERATOR


def test_a_disabled_person_is_out_at_once_and_comes_back(lab: Lab) -> None:
    boss, browser, headers = lab.signed_in(Role.ADMINISTRATOR), lab.signed_in(Role.OPERATOR), lab.token(Role.OPERATOR)

    boss.post("/people/olga/disable")

    assert browser.get("/").location == "/sign-in"
    assert lab.app.test_client().get("/api/v1/status", headers=headers).status_code == 401
    assert lab.browser().sign_in("olga").status_code == 401
    boss.post("/people/olga/enable")
    assert lab.browser().sign_in("olga").status_code == 303


def test_a_person_is_removed_and_sessions_are_ended(lab: Lab) -> None:
    boss, olga, vera = (lab.signed_in(role) for role in (Role.ADMINISTRATOR, Role.OPERATOR, Role.VIEWER))

    boss.post("/people/vera/end-sessions")
    boss.post("/people/olga/remove")

    assert (olga.get("/").location, vera.get("/").location) == ("/sign-in", "/sign-in")
    assert [person.name for person in lab.accounts.people()] == ["anna", "vera"]


def test_whom_the_proxy_names_is_disabled_instead_of_removed_and_the_page_says_so(tmp_path: Path) -> None:
    proxy: dict[str, Any] = {"proxy_user_header": "X-Forwarded-User", "trusted_proxies": ("10.0.0.1",)}
    with made_lab(tmp_path, **proxy) as lab:
        carol = lab.browser(REMOTE_ADDR="10.0.0.1", HTTP_X_FORWARDED_USER="carol")
        assert carol.get("/").status_code == 200
        boss = lab.signed_in(Role.ADMINISTRATOR)
        assert boss.get("/people").text.count("the account stays disabled") == 1

        boss.post("/people/carol/remove")

        assert "carol: the account is disabled, its tokens are revoked." in boss.get("/people").text
        assert carol.get("/").location == "/sign-in"
        assert lab.accounts.person("carol").disabled


@pytest.mark.parametrize("action", ["role", "disable", "remove"])
def test_nobody_does_it_to_an_own_account(lab: Lab, action: str) -> None:
    lab.accounts.add("boss", Role.ADMINISTRATOR, PASSWORD)

    answer = lab.signed_in(Role.ADMINISTRATOR).post(f"/people/anna/{action}", {"role": "viewer"})

    assert answer.status_code == 409
    assert "another administrator" in answer.text
    assert lab.accounts.person("anna").role is Role.ADMINISTRATOR


@pytest.mark.parametrize("role", [Role.VIEWER, Role.OPERATOR])
@pytest.mark.parametrize("name", ["olga", "vera", "anna"])
def test_nobody_rises_by_a_form_or_a_field(lab: Lab, role: Role, name: str) -> None:
    """Role escalation: by the people page, by further fields of one's own forms, and by fields of the JSON bodies."""
    browser, before = lab.signed_in(role), lab.accounts.people()
    more = {"role": "administrator", "name": name, "person": name}
    plan = {"mode": "transformers", "model": "Qwen/Qwen3-1.7B", **more, "actor": "anna"}

    assert browser.post(f"/people/{name}/role", more).status_code == 403
    assert browser.post("/people/invitations", {**more, "hours": "24"}).status_code == 403
    browser.post("/account/password", {**more, "old": PASSWORD, "new": "another horse", "again": "another horse"})
    answer = lab.app.test_client().post("/api/v1/switch", json=plan, headers=lab.token(Role.OPERATOR))

    assert answer.status_code == 422
    assert [p.role for p in lab.accounts.people()] == [p.role for p in before]
    assert lab.controller.calls == []


def test_an_invitation_is_shown_once_and_taken_back(lab: Lab) -> None:
    boss = lab.signed_in(Role.ADMINISTRATOR)
    page = boss.post("/people/invitations", {"role": "viewer", "hours": "72"}).text
    link = re.search(r"/invitation\?key=[\w-]+", page)
    assert link is not None
    assert link[0] not in boss.get("/people").text
    (invitation,) = lab.accounts.invitations()

    boss.post(f"/people/invitations/{invitation.id}/drop")

    assert lab.browser().get(link[0]).status_code == 404


@pytest.mark.parametrize("fields", [{"role": "root", "hours": "24"}, {"role": "viewer", "hours": "100000"}])
def test_an_invitation_that_cannot_be_meant_is_not_made(lab: Lab, fields: dict[str, str]) -> None:
    assert lab.signed_in(Role.ADMINISTRATOR).post("/people/invitations", fields).status_code == 422
    assert lab.accounts.invitations() == ()


def test_a_persons_name_is_shown_as_text(tmp_path: Path) -> None:
    with made_lab(tmp_path) as lab:
        browser = lab.browser()
        browser.sign_in('"><script>alert(1)</script>', "x")
        page = browser.sign_in('"><script>alert(1)</script>', "x").text
        assert "<script>alert" not in page


@pytest.mark.parametrize("path", ["/people", "/account", "/sign-in", "/invitation"])
def test_english_has_no_russian_left(lab: Lab, path: str) -> None:
    lab.token(Role.ADMINISTRATOR)
    browser = lab.browser() if path in ("/sign-in", "/invitation") else lab.signed_in(Role.ADMINISTRATOR)
    key = lab.accounts.invite(Role.OPERATOR, 86_400, "anna")

    page = browser.get(path, query_string={"key": key, "next": "/history"}).text.replace("Русский", "")

    assert not re.search("[а-яё]", page, re.IGNORECASE)


def test_the_local_person_sees_the_people_page_in_the_navigation(visitor: Visitor) -> None:
    assert 'href="/people"' in visitor.get("/").text
