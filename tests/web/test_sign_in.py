"""Signing in: who may come in, how it ends, and what strangers try."""

from __future__ import annotations

import logging
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from argon2 import PasswordHasher
from flask import Flask

from tests.web.conftest import HTMX, Visitor
from tests.web.people import NAMES, PASSWORD, Browser, Lab, made_lab
from webapp.domain.people import Role

PROXY: dict[str, Any] = {"proxy_user_header": "X-Forwarded-User", "trusted_proxies": ("10.0.0.1", "fd00::/8")}


def invited(lab: Lab, role: Role = Role.OPERATOR) -> str:
    return lab.accounts.invite(role, 3600, "anna")


def test_without_accounts_nobody_signs_in(visitor: Visitor) -> None:
    assert visitor.get("/").status_code == 200
    assert visitor.get("/sign-in").location == "/"
    assert "sign-out" not in visitor.get("/").text


def test_with_accounts_everybody_signs_in(lab: Lab) -> None:
    browser = lab.browser()

    assert browser.get("/").location == "/sign-in"
    assert browser.get("/history?kind=clean").location == "/sign-in?next=/history?kind%3Dclean"
    assert browser.sign_in("anna").location == "/"
    assert browser.get("/").status_code == 200
    assert re.search(r'top__actor">anna<', browser.get("/history").text)


def test_the_first_administrator_ends_the_time_without_sign_in_at_once(tmp_path: Path) -> None:
    with made_lab(tmp_path, people=False) as lab:
        browser = lab.browser()
        assert browser.get("/").status_code == 200
        lab.accounts.add("boss", Role.ADMINISTRATOR, PASSWORD)
        lab.clock.now += 1
        assert browser.get("/").location == "/sign-in"


def test_a_wrong_password_says_no_more_than_that(lab: Lab) -> None:
    wrong = lab.browser().sign_in("anna", "wrong horse")
    unknown = lab.browser().sign_in("nobody", PASSWORD)

    assert wrong.status_code == unknown.status_code == 401
    assert "Wrong name or password" in wrong.text
    differs = re.compile(r'name="csrf_token" value="[^"]+"|anna|nobody|data-clock="[^"]+"')
    assert differs.sub("", wrong.text) == differs.sub("", unknown.text)
    assert "wrong horse" not in wrong.text


def test_a_sign_out_ends_it_for_the_cookie_too(lab: Lab) -> None:
    browser = lab.signed_in(Role.OPERATOR)
    stolen = browser.cookie()

    assert browser.post("/sign-out").location == "/sign-in"

    assert browser.get("/").location == "/sign-in"
    thief = lab.browser(HTTP_COOKIE=f"{cookie_name(lab.app)}={stolen}")
    assert thief.get("/").location == "/sign-in"


def cookie_name(app: Flask) -> str:
    return str(app.config["SESSION_COOKIE_NAME"])


def test_a_session_ends_when_it_is_idle_and_a_poll_does_not_keep_it(lab: Lab) -> None:
    browser = lab.signed_in(Role.VIEWER)
    lab.clock.now += 3599
    assert browser.get("/fragments/live", headers=HTMX).status_code == 200
    lab.clock.now += 1
    assert browser.get("/fragments/live", headers=HTMX).status_code == 401


# Strangers


def test_a_planted_session_is_worth_nothing_after_the_sign_in(lab: Lab) -> None:
    """Fixation: the attacker's cookie, put into the victim's browser, does not become the victim's session."""
    attacker = lab.browser()
    token = attacker.csrf()
    planted = attacker.cookie()
    victim = lab.browser()
    victim.client.set_cookie(cookie_name(lab.app), planted)

    victim.client.post("/sign-in", data={"csrf_token": token, "name": "anna", "password": PASSWORD})

    assert victim.get("/").status_code == 200
    assert victim.cookie() != planted
    assert attacker.get("/").location == "/sign-in"
    assert victim.client.post("/clean", data={"csrf_token": token}).status_code == 400


def test_each_sign_in_has_a_key_of_its_own(lab: Lab) -> None:
    one, other = lab.signed_in(Role.OPERATOR), lab.signed_in(Role.OPERATOR)

    one.post("/sign-out")

    assert other.get("/").status_code == 200


@pytest.mark.parametrize(
    "target", ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)", "/\n/evil"]
)
def test_a_sign_in_leads_nowhere_else(lab: Lab, target: str) -> None:
    assert lab.browser().sign_in("anna", next=target).location == "/"
    page = lab.browser().get("/sign-in", query_string={"next": target}).text
    assert 'name="next" value="/"' in page
    assert lab.signed_in(Role.VIEWER).get("/sign-in", query_string={"next": target}).location == "/"


def test_who_guesses_a_password_has_to_wait(lab: Lab) -> None:
    guesser = lab.browser(REMOTE_ADDR="10.9.0.1")
    assert [guesser.sign_in("anna", f"guess number {n}").status_code for n in range(11)] == [401] * 10 + [429]

    assert guesser.sign_in("anna").status_code == 429
    assert lab.browser(REMOTE_ADDR="10.9.0.2").sign_in("ANNA ").status_code == 429
    assert lab.browser(REMOTE_ADDR="10.9.0.1").sign_in("olga").status_code == 303
    assert "Too many failed attempts" in guesser.sign_in("anna").text


def test_guesses_that_are_sent_at_once_are_no_more_than_others(tmp_path: Path) -> None:
    """What is being checked counts as failed until it has succeeded."""
    with made_lab(tmp_path, hasher=PasswordHasher(time_cost=40, memory_cost=1024, parallelism=1)) as lab:
        guessers = [lab.browser(REMOTE_ADDR=f"10.9.0.{n}") for n in range(25)]
        tokens = [guesser.csrf() for guesser in guessers]
        barrier = Barrier(len(guessers))

        def guess(number: int) -> int:
            fields = {"name": "anna", "password": f"guess {number}", "csrf_token": tokens[number]}
            barrier.wait(10)
            return guessers[number].client.post("/sign-in", data=fields).status_code

        with ThreadPoolExecutor(len(guessers)) as pool:
            statuses = Counter(pool.map(guess, range(len(guessers))))
    assert statuses == {401: 10, 429: 15}


def guessed_from(lab: Lab, address: str) -> Browser:
    """A browser at an address from which thirty sign-ins have failed."""
    guesser = lab.browser(REMOTE_ADDR=address)
    for number in range(30):
        assert guesser.sign_in(f"name{number}").status_code == 401
    return lab.browser(REMOTE_ADDR=address)


def test_nobody_is_kept_out_by_what_others_at_the_same_address_guess(lab: Lab) -> None:
    """Behind one proxy, or an ``ssh -L``, everybody has the same address."""
    neighbour = guessed_from(lab, "127.0.0.1")

    assert neighbour.sign_in("olga", "mistyped").status_code == 401
    assert neighbour.sign_in("olga").status_code == 303
    assert lab.browser(REMOTE_ADDR="127.0.0.1").sign_in("anna").status_code == 303


def test_who_guesses_names_has_less_guesses_at_each(lab: Lab) -> None:
    guesser = guessed_from(lab, "10.9.0.1")

    assert [guesser.sign_in("anna", f"guess {n}").status_code for n in range(4)] == [401] * 3 + [429]
    assert guesser.sign_in("anna").status_code == 429
    assert lab.browser(REMOTE_ADDR="10.9.0.2").sign_in("anna").status_code == 303


def test_who_knows_the_password_is_not_slowed_down(lab: Lab) -> None:
    for _ in range(12):
        assert lab.browser().sign_in("anna").status_code == 303


def test_a_form_of_a_stranger_signs_nobody_in_and_nobody_out(lab: Lab) -> None:
    browser = lab.signed_in(Role.OPERATOR)

    assert lab.browser().client.post("/sign-in", data={"name": "anna", "password": PASSWORD}).status_code == 400
    assert browser.client.post("/sign-out").status_code == 400
    assert browser.post("/sign-out", headers={"Origin": "http://evil.example"}).status_code == 403
    assert browser.get("/").status_code == 200


def test_a_session_in_the_json_interface_needs_the_forms_token(lab: Lab) -> None:
    browser = lab.signed_in(Role.OPERATOR)

    assert browser.client.post("/api/v1/clean").status_code == 400
    assert browser.client.post("/api/v1/clean", headers={"X-CSRFToken": browser.csrf()}).status_code == 202


def test_a_token_needs_no_form_token_and_its_cookie_counts_for_nothing(lab: Lab) -> None:
    browser = lab.signed_in(Role.ADMINISTRATOR)

    assert lab.app.test_client().post("/api/v1/clean", headers=lab.token(Role.OPERATOR)).status_code == 202
    assert browser.client.post("/api/v1/emergency", headers=lab.token(Role.OPERATOR)).status_code == 403
    assert browser.get("/api/v1/status", headers={"Authorization": "Bearer wdn_guessed"}).status_code == 401


def test_operations_are_recorded_under_the_persons_name(lab: Lab) -> None:
    lab.signed_in(Role.OPERATOR).post("/clean")
    lab.app.test_client().post("/api/v1/clean", headers=lab.token(Role.ADMINISTRATOR))

    assert [call[:2] for call in lab.controller.calls] == [("clean", "olga"), ("clean", "anna")]


@pytest.mark.parametrize(("scheme", "secure"), [("http", False), ("https", True)])
def test_the_cookie_is_secure_under_tls(lab: Lab, scheme: str, secure: bool) -> None:
    browser = lab.browser()
    fields = {"name": "anna", "password": PASSWORD}

    cookie = browser.post("/sign-in", fields, base_url=f"{scheme}://localhost").headers["Set-Cookie"]

    assert ("Secure" in cookie) is secure
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie


def test_nothing_secret_is_logged(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    key = invited(lab)
    headers = lab.token(Role.ADMINISTRATOR)
    browser = lab.signed_in(Role.ADMINISTRATOR)
    lab.browser().sign_in(PASSWORD, "typed into the wrong field")
    lab.app.test_client().get("/api/v1/status", headers=headers)
    lab.app.test_client().post("/api/v1/nothing", headers=headers)
    lab.browser().get(f"/invitation?key={key}")
    page = browser.post("/account/tokens", {"label": "x", "scope": "viewer", "days": "30"}).text
    shown = re.search(r"wdn_[\w-]+", page)

    assert shown is not None
    for secret in (key, headers["Authorization"].split()[1], shown[0], PASSWORD, "typed into", browser.cookie()):
        assert secret not in caplog.text


# The proxy


def proxied(lab: Lab, name: str | None, address: str = "10.0.0.1", **headers: str) -> Browser:
    named = {} if name is None else {"HTTP_X_FORWARDED_USER": name}
    return lab.browser(REMOTE_ADDR=address, **named, **headers)


def test_a_trusted_proxy_says_who_comes(tmp_path: Path) -> None:
    with made_lab(tmp_path, **PROXY) as lab:
        assert ">olga<" in proxied(lab, "olga").get("/").text
        assert ">carol@lab<" in proxied(lab, "carol@lab", "fd00::7").get("/").text
        assert lab.accounts.person("carol@lab").role is Role.VIEWER
        assert proxied(lab, "carol@lab").get("/people").status_code == 403
        assert proxied(lab, None).get("/").location == "/sign-in"


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.2", "::1", "garbage"])
def test_the_header_from_anywhere_else_is_ignored(tmp_path: Path, address: str) -> None:
    with made_lab(tmp_path, **PROXY) as lab:
        spoofed = proxied(lab, "anna", address, HTTP_X_FORWARDED_FOR="10.0.0.1")

        assert spoofed.get("/").location == "/sign-in"
        assert spoofed.get("/api/v1/status").status_code == 401


def test_without_the_setting_the_header_is_nothing(lab: Lab) -> None:
    assert proxied(lab, "anna").get("/").location == "/sign-in"


@pytest.mark.parametrize("name", ["anna, olga", "anna\\", "ан́на", "a b", "x" * 65, "../anna"])
def test_a_name_that_is_none_signs_nobody_in(tmp_path: Path, name: str) -> None:
    with made_lab(tmp_path, **PROXY) as lab:
        assert proxied(lab, name.encode().decode("latin-1")).get("/").location == "/sign-in"
        assert len(lab.accounts.people()) == len(NAMES)


@pytest.mark.parametrize(
    "came", [{"REMOTE_ADDR": "127.0.0.1"}, {"REMOTE_ADDR": "127.8.9.1"}, {"REMOTE_ADDR": "::1"}, {"REMOTE_ADDR": ""}]
)
def test_without_accounts_who_works_on_the_machine_itself_is_its_person(tmp_path: Path, came: dict[str, str]) -> None:
    with made_lab(tmp_path, people=False) as lab:
        assert lab.browser(**came).get("/people").status_code == 200


@pytest.mark.parametrize(
    "came",
    [
        {"REMOTE_ADDR": "10.0.0.7"},
        {"HTTP_X_FORWARDED_FOR": "10.0.0.7"},
        {"HTTP_FORWARDED": "for=10.0.0.7"},
        {"REMOTE_ADDR": "", "HTTP_X_FORWARDED_FOR": "127.0.0.1"},
    ],
)
def test_without_accounts_who_comes_by_a_proxy_or_another_socket_is_nobody_and_told_why(
    tmp_path: Path, came: dict[str, str]
) -> None:
    with made_lab(tmp_path, people=False) as lab:
        browser = lab.browser(**came)
        assert browser.get("/").location == "/sign-in"
        assert "warden users add NAME --role administrator" in browser.get("/sign-in").text
        assert browser.get("/api/v1/status").status_code == 401
        assert lab.browser().get("/").status_code == 200
    with made_lab(tmp_path / "people") as lab:
        assert "warden users add" not in lab.browser(**came).get("/sign-in").text


def test_with_a_proxy_nobody_is_the_local_person(tmp_path: Path) -> None:
    with made_lab(tmp_path, people=False, **PROXY) as lab:
        assert lab.browser().get("/").location == "/sign-in"
        assert ">carol<" in proxied(lab, "carol").get("/").text


def test_only_known_people_come_in_where_newcomers_have_no_role(tmp_path: Path) -> None:
    with made_lab(tmp_path, **PROXY, proxy_default_role="none") as lab:
        assert proxied(lab, "carol").get("/").location == "/sign-in"
        assert proxied(lab, "olga").get("/").status_code == 200


def test_what_the_proxy_says_comes_before_a_cookie_and_its_forms_need_their_token(tmp_path: Path) -> None:
    with made_lab(tmp_path, **PROXY) as lab:
        browser = proxied(lab, "olga")
        assert browser.client.post("/clean").status_code == 400
        assert browser.client.post("/api/v1/clean").status_code == 400
        assert browser.post("/clean").status_code == 303
        assert lab.controller.calls[0][:2] == ("clean", "olga")


def test_behind_a_proxy_the_guessers_own_address_waits(tmp_path: Path) -> None:
    with made_lab(tmp_path, **PROXY, sign_in_failures=2) as lab:
        guesser = proxied(lab, None, HTTP_X_FORWARDED_FOR="1.2.3.4, 10.7.7.7")
        for number in range(6):
            assert guesser.sign_in(f"name{number}").status_code == 401
        pretends = proxied(lab, None, HTTP_X_FORWARDED_FOR="9.9.9.9, 10.7.7.7")
        assert pretends.sign_in("anna", "guess").status_code == 401
        assert pretends.sign_in("anna").status_code == 429
        assert proxied(lab, None, HTTP_X_FORWARDED_FOR="10.8.8.8").sign_in("anna").status_code == 303


# Invitations


def test_an_invitation_makes_an_account_and_signs_in(lab: Lab) -> None:
    browser, key = lab.browser(), invited(lab)
    assert "operator" in browser.get(f"/invitation?key={key}").text

    made = browser.post("/invitation", {"key": key, "name": "new", "password": PASSWORD, "again": PASSWORD})

    assert made.location == "/"
    assert ">new<" in browser.get("/").text
    assert lab.browser().get(f"/invitation?key={key}").status_code == 404


def test_an_invitation_gives_its_own_role_whatever_is_sent(lab: Lab) -> None:
    fields = {"name": "new", "password": PASSWORD, "again": PASSWORD, "role": "administrator", "scope": "administrator"}

    lab.browser().post("/invitation", {"key": invited(lab, Role.VIEWER), **fields})

    assert lab.accounts.person("new").role is Role.VIEWER


@pytest.mark.parametrize(
    ("fields", "status", "sentence"),
    [
        ({"again": "other horse"}, 422, "do not match"),
        ({"password": "short", "again": "short"}, 422, "at least 10|needs 10"),
        ({"name": "Anna"}, 409, "taken"),
        ({"name": "a b"}, 422, "Name"),
    ],
)
def test_what_cannot_be_meant_keeps_the_invitation(
    lab: Lab, fields: dict[str, str], status: int, sentence: str
) -> None:
    key = invited(lab)
    whole = {"key": key, "name": "new", "password": PASSWORD, "again": PASSWORD, **fields}

    answer = lab.browser().post("/invitation", whole)

    assert answer.status_code == status
    assert re.search(sentence, answer.text)
    assert len(lab.accounts.invitations()) == 1


# A database that fails


def test_while_the_database_fails_an_emergency_works_for_who_was_there_and_nobody_else_comes_in(lab: Lab) -> None:
    known, unseen, stranger = lab.signed_in(Role.ADMINISTRATOR), lab.signed_in(Role.ADMINISTRATOR), lab.browser()
    token = known.csrf()
    assert known.get("/people").status_code == 200
    lab.database.close()

    assert known.get("/").status_code == 200
    assert known.get("/people").status_code == 503
    emergency = known.client.post("/emergency", data={"csrf_token": token, "confirmed": "1"})
    assert emergency.status_code == 303
    assert unseen.get("/").status_code == 503
    assert stranger.get("/").location == "/sign-in"
    assert stranger.sign_in("anna").status_code == 503


def test_a_name_that_the_proxy_says_is_no_token_while_the_database_fails(tmp_path: Path) -> None:
    with made_lab(tmp_path, **PROXY) as lab:
        assert proxied(lab, "anna").get("/people").status_code == 200
        lab.database.close()

        assert proxied(lab, "anna").get("/").status_code == 200
        for key in ("anna", "proxy anna"):
            answer = lab.app.test_client().post("/api/v1/emergency", headers={"Authorization": f"Bearer {key}"})
            assert answer.status_code == 503
        assert lab.controller.calls == []


def test_an_invitation_of_a_demoted_administrator_opens_nothing(lab: Lab) -> None:
    lab.accounts.add("boss", Role.ADMINISTRATOR, PASSWORD)
    key = lab.accounts.invite(Role.ADMINISTRATOR, 3600, "anna")
    lab.accounts.set_role("anna", Role.VIEWER)

    fields = {"key": key, "name": "nina", "password": PASSWORD, "again": PASSWORD}
    assert lab.browser().get(f"/invitation?key={key}").status_code == 404
    assert lab.browser().post("/invitation", fields).status_code == 404
    assert [person.name for person in lab.accounts.people()] == ["anna", "boss", "olga", "vera"]
