"""Warden as a package index would have it: a source distribution of this checkout, and the wheel that is built from it."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

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
