"""A request in a language, over a controller in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.web.catalogues import compile_catalogues
from tests.web.fakes import FakeController, FakeServices
from webapp import create_app
from webapp.settings import load_settings


@pytest.fixture(scope="session", autouse=True)
def _catalogues() -> None:
    compile_catalogues()


@pytest.fixture
def speak(tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Begin a request in a language."""
    settings = load_settings(state_dir=tmp_path)
    app = create_app(settings, FakeServices(settings, FakeController()))
    with ExitStack() as stack:

        def begin(code: str) -> None:
            stack.close()  # one at a time: a request inside another shares its language
            stack.enter_context(app.test_request_context(headers={"Accept-Language": code}))

        yield begin


@pytest.fixture
def russian(speak: Callable[[str], None]) -> None:
    speak("ru")


@pytest.fixture
def english(speak: Callable[[str], None]) -> None:
    speak("en")
