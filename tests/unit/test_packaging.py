"""What the distributions hold: an installed Warden has every file that one in a checkout has."""

from __future__ import annotations

import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import webapp
from tests.engine.packages import ROOT, build_wheel, needed
from webapp.web.application import page_files

NOT_PACKED = (".mo", ".pyc")
"""What is made from other files."""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with both distributions."""
    return build_wheel(tmp_path_factory.mktemp("distributions")).parent


def wheel_of(folder: Path) -> zipfile.ZipFile:
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def files_in(folder: str) -> set[str]:
    """The checkout's files below ``folder``, relative to its top."""
    found = (path.relative_to(ROOT) for path in (ROOT / folder).rglob("*") if path.is_file())
    return {path.as_posix() for path in found if path.suffix not in NOT_PACKED and "__pycache__" not in path.parts}


def expected() -> Iterator[str]:
    yield from files_in("webapp")
    for folder in ("templates", "static"):
        yield from (f"webapp/{name}" for name in files_in(folder))
    for name in files_in("webapp/translations"):
        yield name.removesuffix(".po") + ".mo"


def test_the_wheel_holds_the_package_the_pages_files_and_the_compiled_catalogue(built: Path) -> None:
    with wheel_of(built) as wheel:
        names = {name for name in wheel.namelist() if not name.startswith("warden-")}

    assert names == set(expected())


def test_the_compiled_catalogue_has_the_russian_texts(built: Path) -> None:
    with wheel_of(built) as wheel:
        compiled = wheel.read("webapp/translations/ru/LC_MESSAGES/messages.mo")

    assert "К содержанию".encode() in compiled


def test_the_source_distribution_holds_the_tracked_folders(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}

    wanted = {name for folder in ("webapp", "templates", "static", "tests", "scripts") for name in files_in(folder)}
    assert wanted - names == set()
    assert {"LICENSE", "Makefile", "README.md", "constraints.txt", "hatch_build.py", "wsgi.py"} <= names


def test_the_version_is_the_packages_own(built: Path) -> None:
    with wheel_of(built) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith("/METADATA"))
        metadata = Parser().parsestr(wheel.read(name).decode())

    assert metadata["Version"] == webapp.__version__
    assert metadata["License-Expression"] == "Apache-2.0"


def test_a_checkout_has_the_pages_files_at_its_top() -> None:
    assert page_files() == ROOT


def test_an_installed_package_has_the_pages_files_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "templates").mkdir()
    monkeypatch.setattr("webapp.web.application.PACKAGE", tmp_path)

    assert page_files() == tmp_path


def test_everything_that_make_installs_is_locked(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    to_build = {canonicalize_name(Requirement(text).name) for text in project["build-system"]["requires"]}
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    locked = {name for name, is_locked, _ in (line.partition("==") for line in lines) if is_locked}

    installed = {canonicalize_name(distribution.name) for distribution in needed(wheel, ("all", "test"))}

    assert (installed | to_build) - locked == set()
