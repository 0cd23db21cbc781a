"""The images of the Docker tests, built only from Debian's and Python's packages and kept under ``build/``.

Both use one root file system (Debian, Python 3.11, the libraries that vLLM links to). In one image ``vllm`` is the
stand-in; in the other it is the real vLLM for the CPU, whose packages are in a folder of this machine, mounted at
``/opt/vllm``: an image with them would have 3.6 GB.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.engine.dockerd import BUILD, PrivateEngine

HERE = Path(__file__).parent
REQUIREMENTS = HERE / "requirements.txt"
STANDIN_PROGRAM = HERE.parent / "standin" / "vllm"
STANDIN = "warden-test/vllm-standin:1"
REAL = "warden-test/vllm-cpu:0.32.0"
SITE = BUILD / "vllm-site"
SITE_MOUNT = f"{SITE}:/opt/vllm:ro"
PACKAGES = ("python3", "libnuma1", "libgomp1")
SUITE = "bookworm"
RECIPE_LABEL = "recipe"
PYTHON = (3, 11)
"""Python's version in the image; compiled packages are installed by a Python of the same version."""
REAL_PROGRAM = """#!/usr/bin/python3
import runpy
import sys
sys.argv[1:2] = ["--model"]  # for "serve": the command of that name asks for a package called vllm, and this one is vllm-cpu
if __name__ == "__main__":
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__", alter_sys=True)
"""


def why_not_real() -> str | None:
    """Return why the real vLLM cannot be installed here; ``None`` if it can."""
    if sys.version_info[:2] != PYTHON:
        return "the packages of the real vLLM are installed by Python 3.11, which the image has"
    return None


def why_not_made() -> str | None:
    """Return why no root file system can be built here; ``None`` if one can."""
    return None if shutil.which("mmdebstrap") else "not installed: mmdebstrap"


def build() -> None:
    """Build the parts of the images, each once; a second caller waits for the first."""
    _timed("root file system", root_file_system)
    if why_not_real() is None:
        _timed("vLLM's packages", site)


def root_file_system() -> Path:
    """Return the archive of the root file system; it is built if missing."""
    recipe = " ".join((SUITE, *PACKAGES))
    path = BUILD / f"rootfs-{_digest(recipe)}.tar"
    with _locked("rootfs"):
        if not path.exists():
            part = path.with_suffix(".part")
            _run(
                [
                    "mmdebstrap",
                    "--quiet",
                    "--format=tar",
                    "--variant=minbase",
                    f"--include={','.join(PACKAGES)}",
                    SUITE,
                    str(part),
                ]
            )
            part.rename(path)
    return path


def site() -> Path:
    """Return the folder with vLLM's packages; they are installed if missing or outdated."""
    recipe = _digest(REQUIREMENTS.read_text())
    stamp = SITE / ".recipe"
    with _locked("vllm-site"):
        if not stamp.exists() or stamp.read_text() != recipe:
            shutil.rmtree(SITE, ignore_errors=True)
            pip = [sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-deps"]
            _run([*pip, "--target", str(SITE), "-r", str(REQUIREMENTS)])
            stamp.write_text(recipe)
    return SITE


def load_standin(engine: PrivateEngine) -> str:
    """Load the stand-in's image into an engine and return its name."""
    return _load(engine, STANDIN, STANDIN_PROGRAM.read_text())


def load_real(engine: PrivateEngine) -> str:
    """Load the image of the real vLLM into an engine and return its name; its containers need ``SITE_MOUNT``."""
    site()
    return _load(engine, REAL, REAL_PROGRAM, "ENV PYTHONPATH=/opt/vllm")


def _load(engine: PrivateEngine, image: str, program: str, *changes: str) -> str:
    """Import the root file system with ``program`` as ``vllm``, unless the engine already has it."""
    archive = root_file_system()
    recipe = _digest(archive.name, program, *changes)
    if engine.image_label(image, RECIPE_LABEL) == recipe:
        return image
    own = BUILD / f"{image.rpartition('/')[2].replace(':', '-')}-{os.getpid()}.tar"
    try:
        shutil.copyfile(archive, own)
        _add_program(own, program.encode())
        all_changes = ('ENTRYPOINT ["vllm","serve"]', f"LABEL {RECIPE_LABEL}={recipe}", *changes)
        engine.cli("import", *(f"--change={change}" for change in all_changes), str(own), image, timeout_s=120)
    finally:
        own.unlink(missing_ok=True)
    return image


def _add_program(archive: Path, program: bytes) -> None:
    with tarfile.open(archive, "a") as tar:
        entry = tarfile.TarInfo("./usr/local/bin/vllm")
        entry.mode, entry.size = 0o755, len(program)
        tar.addfile(entry, io.BytesIO(program))


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def _run(command: list[str]) -> None:
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command[:4])} … failed:\n{result.stdout[-2000:]}\n{result.stderr[-4000:]}")


@contextmanager
def _locked(name: str) -> Iterator[None]:
    BUILD.mkdir(exist_ok=True)
    with (BUILD / f"{name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _timed(what: str, make: Callable[[], object]) -> None:
    began = time.monotonic()
    make()
    sys.stdout.write(f"{what}: {time.monotonic() - began:.0f} s\n")
