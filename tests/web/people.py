"""An application with accounts: one person of each role, and browsers that are signed in as them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from argon2 import PasswordHasher
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.web.answers import with_unbroken_answers
from tests.web.fakes import FakeController, FakeServices
from webapp import create_app
from webapp.audit.trail import Audit
from webapp.auth.accounts import Accounts, SessionLimits
from webapp.auth.passwords import Passwords
from webapp.domain.people import Role
from webapp.settings import load_settings
from webapp.store.audit import AuditRepository
from webapp.store.database import Database
from webapp.store.people import PeopleRepository

PASSWORD = "correct horse"
NAMES = {Role.VIEWER: "vera", Role.OPERATOR: "olga", Role.ADMINISTRATOR: "anna"}
PAGE = {"Accept": "text/html"}
HOUR = 3600.0
QUICK = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def made_accounts(database: Database, clock: Clock, hasher: PasswordHasher = QUICK) -> Iterator[Accounts]:
    """Give accounts over a real database, with hashes that cost nothing unless ``hasher`` makes them."""
    database.open()
    try:
        yield Accounts(
            PeopleRepository(database), Passwords(hasher), SessionLimits(HOUR, 10 * HOUR), clock, monotonic=clock
        )
    finally:
        database.close()


@dataclass
class Lab:
    """The application, its accounts and its clock. ``browser`` gives a new browser."""

    app: Flask
    controller: FakeController
    accounts: Accounts
    clock: Clock
    database: Database
    """Closing it is a database that fails."""
    audit: Audit

    def browser(self, **environ: str) -> Browser:
        client = self.app.test_client()
        client.environ_base["HTTP_ACCEPT_LANGUAGE"] = "en"
        client.environ_base["HTTP_ACCEPT"] = "text/html"
        client.environ_base.update(environ)
        return Browser(client)

    def signed_in(self, role: Role) -> Browser:
        browser = self.browser()
        assert browser.sign_in(NAMES[role]).status_code == 303
        return browser

    def token(self, role: Role, scope: Role | None = None) -> dict[str, str]:
        """The header of an API token of the person with ``role``."""
        key = self.accounts.add_token(self.accounts.person(NAMES[role]), "test", scope or role, None)
        return {"Authorization": f"Bearer {key}"}


class Browser:
    """Keeps cookies, and fills the forms of the page that it was shown last."""

    def __init__(self, client: FlaskClient) -> None:
        self.client = client

    def get(self, path: str, **kwargs: Any) -> TestResponse:
        return self.client.get(path, **kwargs)

    def post(self, path: str, data: dict[str, str] | None = None, **kwargs: Any) -> TestResponse:
        return self.client.post(path, data={"csrf_token": self.csrf(), **(data or {})}, **kwargs)

    def sign_in(self, name: str, password: str = PASSWORD, **fields: str) -> TestResponse:
        return self.post("/sign-in", {"name": name, "password": password, **fields})

    def csrf(self) -> str:
        for path in ("/sign-in", "/account", "/people"):
            if found := re.search(r'name="csrf_token" value="([^"]+)"', self.client.get(path).text):
                return found[1]
        raise AssertionError("no form")

    def cookie(self) -> str:
        cookies = self.client._cookies or {}
        (cookie,) = [c for c in cookies.values() if c.key.startswith("warden_session")]
        return cookie.value


@contextmanager
def made_lab(folder: Path, *, people: bool = True, hasher: PasswordHasher = QUICK, **changes: Any) -> Iterator[Lab]:
    """Give an application with one person of each role."""
    settings = load_settings(state_dir=folder / "state", hf_cache=folder / "cache", threads=4, **changes)
    clock, controller, database = Clock(), FakeController(), Database(f"sqlite:///{folder / 'warden.db'}")
    with made_accounts(database, clock, hasher) as accounts:
        if people:
            for role, name in NAMES.items():
                accounts.add(name, role, PASSWORD)
        audit = Audit(AuditRepository(database), keep_s=HOUR)
        app = with_unbroken_answers(
            create_app(settings, FakeServices(settings, controller, accounts=accounts, audit=audit))
        )
        yield Lab(app, controller, accounts, clock, database, audit)
