"""axe-core, downloaded once from the npm registry to ``build/``: finds problems for people with assistive
technology."""

from __future__ import annotations

import base64
import hashlib
import io
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from tests.engine.dockerd import BUILD

VERSION = "4.14.1"
SHA512 = "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ=="
"""Hash of the package in the registry's index."""
SCRIPT = BUILD / f"axe-core-{VERSION}.js"
SERIOUS = frozenset({"serious", "critical"})
FETCH_S = 120


def why_missing() -> str | None:
    """Return why axe is unavailable; ``None`` if it is available, after a download if needed."""
    if SCRIPT.exists():
        return None
    npm = shutil.which("npm")
    if npm is None:
        return "axe-core needs npm once: install it, or put the package's axe.min.js at " + str(SCRIPT)
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", f"axe-core@{VERSION}", "--silent", "--pack-destination", folder]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=FETCH_S, check=False)
        packed = next(Path(folder).glob("axe-core-*.tgz"), None)
        if done.returncode != 0 or packed is None:
            return f"npm could not fetch axe-core {VERSION}: {done.stderr.strip()[-300:]}"
        _unpack(packed.read_bytes())
    return None


def _unpack(package: bytes) -> None:
    found = base64.b64encode(hashlib.sha512(package).digest()).decode()
    assert found == SHA512, f"the package axe-core {VERSION} is not the one that was looked at: sha512-{found}"
    with tarfile.open(fileobj=io.BytesIO(package)) as archive:
        script = archive.extractfile("package/axe.min.js")
        assert script is not None
        BUILD.mkdir(exist_ok=True)
        SCRIPT.write_bytes(script.read())


def complaints(page: Page) -> list[str]:
    """Return axe's serious and critical findings on the current page, one line per element."""
    page.evaluate(SCRIPT.read_text())
    result: dict[str, Any] = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{violation['impact']} {violation['id']}: {violation['help']} at {' '.join(map(str, node['target']))}"
        for violation in result["violations"]
        if violation["impact"] in SERIOUS
        for node in violation["nodes"]
    ]
