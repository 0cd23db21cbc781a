"""Warden as a package: the source distribution of this checkout, a wheel built from it, and environments with it."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import venv
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]


def build_sdist(folder: Path) -> Path:
    """Build the source distribution in ``folder``; the checkout is only read."""
    _hatchling(ROOT, "sdist", folder)
    (built,) = folder.glob("*.tar.gz")
    return built


def build_wheel(folder: Path) -> Path:
    """Build the wheel in ``folder``, from a source distribution, as ``pip`` does if there is no wheel."""
    with tarfile.open(build_sdist(folder)) as archive:
        archive.extractall(folder / "source", filter="data")
    (source,) = (folder / "source").iterdir()
    _hatchling(source, "wheel", folder)
    (built,) = folder.glob("*.whl")
    return built


def _hatchling(source: Path, target: str, folder: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(folder)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


class Installation:
    """A virtual environment with the wheel and its declared dependencies, but without the tests' other packages."""

    def __init__(self, folder: Path, wheel: Path, extras: tuple[str, ...] = ()) -> None:
        """Create it; the libraries are links to the installed ones, so nothing is downloaded."""
        venv.create(folder, symlinks=True)
        self.bin = folder / "bin"
        (self.packages,) = folder.glob("lib/python*/site-packages")
        for distribution in needed(wheel, extras):
            self._link(distribution)
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        pip = [sys.executable, "-m", "pip", "--python", str(self.bin / "python"), "install", "--quiet"]
        subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True, env=environment)

    def _link(self, distribution: metadata.Distribution) -> None:
        for name in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            link = self.packages / name
            if not link.is_symlink():
                link.symlink_to(Path(str(distribution.locate_file(name))))


def needed(wheel: Path, extras: tuple[str, ...]) -> Iterator[metadata.Distribution]:
    """Yield the installed distributions that the wheel with ``extras`` needs, directly or indirectly."""
    (own,) = metadata.distributions(path=[str(wheel)])
    pending = list(_requirements(own, extras))
    seen: set[str] = set()
    while pending:
        requirement = pending.pop()
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        distribution = metadata.distribution(requirement.name)
        assert requirement.specifier.contains(distribution.version, prereleases=True), f"{requirement} is not installed"
        yield distribution
        pending.extend(_requirements(distribution, requirement.extras))


def _requirements(distribution: metadata.Distribution, extras: Iterable[str]) -> Iterator[Requirement]:
    for requirement in map(Requirement, distribution.requires or ()):
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": name}) for name in ("", *extras)):
            yield requirement
