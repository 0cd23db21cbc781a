"""The application over a controller in memory, and a browser without scripts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.web.answers import with_unbroken_answers
from tests.web.catalogues import compile_catalogues
from tests.web.fakes import FakeController, FakeServices, foreign, model, reading
from tests.web.people import Lab, made_lab
from webapp import create_app
from webapp.domain.units import gib
from webapp.settings import Settings, load_settings

HTMX = {"HX-Request": "true"}
MODEL = model()
FORM = {
    "mode": "transformers",
    "model": MODEL.id,
    "precision": "auto",
    "max_tokens": "2048",
    "batch_size": "1",
    "device": "gpu-0",
    "restore_on_failure": "1",
}
"""What the page sends for it."""


@pytest.fixture(scope="session", autouse=True)
def _catalogues() -> None:
    compile_catalogues()


@pytest.fixture
def controller() -> FakeController:
    return FakeController()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(state_dir=tmp_path / "state", hf_cache=tmp_path / "cache", threads=4)


@pytest.fixture
def app(settings: Settings, controller: FakeController) -> Flask:
    return with_unbroken_answers(create_app(settings, FakeServices(settings, controller)))


class Visitor:
    """A client that keeps cookies and knows its form token, as a page does."""

    def __init__(self, client: FlaskClient) -> None:
        self.client = client

    def get(self, path: str, **kwargs: Any) -> TestResponse:
        return self.client.get(path, **kwargs)

    def post(self, path: str, data: dict[str, str] | None = None, **kwargs: Any) -> TestResponse:
        """Send a form with the page's token."""
        return self.client.post(path, data={"csrf_token": self.token(), **(data or {})}, **kwargs)

    def token(self) -> str:
        found = re.search(r'name="csrf_token" value="([^"]+)"', self.client.get("/").text)
        assert found is not None
        return found[1]


@pytest.fixture
def visitor(app: Flask) -> Iterator[Visitor]:
    with app.test_client() as client:
        client.environ_base["HTTP_ACCEPT_LANGUAGE"] = "ru"
        yield Visitor(client)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with made_lab(tmp_path) as made:
        yield made


@pytest.fixture
def client(visitor: Visitor) -> FlaskClient:
    return visitor.client


@pytest.fixture
def full(controller: FakeController) -> FakeController:
    """A GPU that another person's process has filled."""
    controller.changed(readings=(reading(held=(foreign("maria", "train.py", gib(21)),)),))
    return controller
