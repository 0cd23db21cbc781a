"""Serves the static files: one style sheet, and URLs that change with the content, so that browsers may cache them.

The files under ``static/css`` are joined in memory when the web process starts, in the order in which ``app.css``
imports them. All files share one mark, which is in the path and not in the query, so that the relative imports of the
JavaScript modules contain it too.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from pathlib import Path
from typing import Final

from flask import Flask, Response, url_for

SHEET: Final = "css/app.css"
IMPORT: Final = re.compile(r'@import url\("([^"]+)"\);\n')
YEAR_S: Final = 365 * 24 * 3600


def init_assets(app: Flask) -> None:
    """Give templates ``asset(path)``, and let browsers cache files that are requested under the current mark."""
    folder = Path(app.static_folder or "")
    sheet = joined_sheet(folder / SHEET)
    present = content_mark(folder)

    def asset(path: str) -> str:
        return url_for("static", filename=path, mark=present)

    def send(filename: str, mark: str | None = None) -> Response:
        response = Response(sheet, mimetype="text/css") if filename == SHEET else app.send_static_file(filename)
        if mark == present:  # under an older mark a page gets the current files but must not cache them
            response.headers["Cache-Control"] = f"public, max-age={YEAR_S}, immutable"
        return response

    app.jinja_env.globals["asset"] = asset
    app.view_functions["static"] = send
    app.add_url_rule("/static/v/<mark>/<path:filename>", endpoint="static")


def joined_sheet(path: Path) -> str:
    """Return the style sheet at ``path`` with each import replaced by the imported file."""
    return IMPORT.sub(
        lambda found: (path.parent / found[1]).read_text(encoding="utf-8"), path.read_text(encoding="utf-8")
    )


def content_mark(folder: Path) -> str:
    """Return a hash of the names and contents of all files under ``folder``."""
    digest = blake2b(digest_size=6)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder)}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
