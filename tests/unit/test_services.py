"""A start that would let strangers in is refused, and says with what it is not."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.web.fakes import instance
from webapp.console import explain
from webapp.control.state import ControllerState
from webapp.domain.modes import NOT_INSTALLED, Mode
from webapp.domain.operation import Operation, OperationKind, OperationState
from webapp.domain.people import Role
from webapp.errors import ConfigurationError, ModeUnavailable
from webapp.runtimes import extras
from webapp.runtimes.demo import DemoProgram
from webapp.services import Services, build_services, open_accounts, owners
from webapp.settings import Settings, load_settings, sqlite_url


def made(folder: Path, **changes: object) -> Settings:
    nowhere = {"state_dir": folder / "state", "hf_cache": folder / "cache", "docker_socket": folder / "none.sock"}
    return load_settings(**{"bind": "0.0.0.0", **nowhere, **changes})


@pytest.fixture
def started() -> Iterator[list[Services]]:
    services: list[Services] = []
    yield services
    for one in services:
        one.stop()


def test_an_open_address_without_an_administrator_is_refused_with_the_command_that_makes_one(
    tmp_path: Path, started: list[Services]
) -> None:
    started.append(build_services(made(tmp_path)))

    with pytest.raises(ConfigurationError) as caught:
        started[0].start()

    assert explain(caught.value).startswith(
        "Warden cannot start: WARDEN_BIND=0.0.0.0 cannot be used: 0.0.0.0 can be reached from"
    )
    assert "`warden users add NAME --role administrator`" in explain(caught.value)


def test_it_starts_once_there_is_one(tmp_path: Path, started: list[Services]) -> None:
    settings = made(tmp_path)
    with open_accounts(settings) as accounts:
        accounts.add("boss", Role.ADMINISTRATOR, "correct horse")
    started.append(build_services(settings))

    started[0].start()

    assert started[0].accounts.has_administrator()


def test_it_starts_where_a_trusted_proxy_says_who_comes(tmp_path: Path, started: list[Services]) -> None:
    settings = made(tmp_path, proxy_user_header="X-Forwarded-User", trusted_proxies=("10.0.0.1",))
    started.append(build_services(settings))

    started[0].start()


def test_database_where_earlier_versions_had_it_is_not_taken_for_none(
    tmp_path: Path, started: list[Services], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a new database instead there would be no accounts, and whoever is on this machine would be an administrator."""
    monkeypatch.chdir(tmp_path)
    with open_accounts(made(tmp_path, database_url=sqlite_url(tmp_path / "people of us.db"))) as accounts:
        accounts.add("boss", Role.ADMINISTRATOR, "correct horse")
    settings = made(tmp_path, bind="127.0.0.1", database_url="sqlite:///people%20of%20us.db?timeout=5")
    started.append(build_services(settings))

    with pytest.raises(ConfigurationError, match=r"people of us\.db.* move it into the state folder") as caught:
        started[0].start()

    assert caught.value.params["setting"] == "WARDEN_DATABASE_URL"
    (tmp_path / "state").mkdir(exist_ok=True)
    (tmp_path / "people of us.db").rename(tmp_path / "state" / "people of us.db")
    started[0].start()
    assert started[0].accounts.has_administrator()


@pytest.mark.parametrize("mode", list(Mode))
def test_without_its_extra_a_mode_says_which_one_to_install_and_the_other_one_works(
    tmp_path: Path, started: list[Services], monkeypatch: pytest.MonkeyPatch, mode: Mode
) -> None:
    hide(monkeypatch, mode)
    started.append(build_services(made(tmp_path, bind="127.0.0.1")))

    problems = started[0].controller.snapshot().mode_problems

    assert problems[mode] == NOT_INSTALLED[mode]
    assert all(problem != NOT_INSTALLED[other] for other, problem in problems.items() if other is not mode)


def test_without_the_extra_of_transformers_nothing_is_started_to_import_it(
    tmp_path: Path, started: list[Services], monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(monkeypatch, Mode.TRANSFORMERS)
    started.append(build_services(made(tmp_path, bind="127.0.0.1", launcher="start")))

    started[0].start()

    assert not (tmp_path / "state" / "launcher").exists()


def test_without_the_extra_of_transformers_the_demo_model_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(monkeypatch, Mode.TRANSFORMERS)

    with pytest.raises(ModeUnavailable) as caught:
        DemoProgram(tmp_path).make(lambda seconds: None)

    assert caught.value.params == {"mode": "transformers", "reason": "transformers_not_installed"}


def hide(monkeypatch: pytest.MonkeyPatch, mode: Mode) -> None:
    """Let one library of the mode be missing."""
    missing = extras.LIBRARIES[mode][-1]
    monkeypatch.setattr(extras, "are_installed", extras.are_installed.__wrapped__)  # without what is known already
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == missing else find_spec(name))


def test_who_has_models_or_operations_is_known_to_the_accounts() -> None:
    operation = Operation("o1", OperationKind.CLEAN, "ivan", OperationState.RUNNING, 1.0)

    found = owners(ControllerState(instances={"i1": instance(owner="maria")}, running={"o1": operation}))

    assert found == {"maria", "ivan"}
