"""Addresses of static files that change with their content, so that a browser may keep them for ever."""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Final

from flask import Flask, Response, request, url_for

YEAR_S: Final = 365 * 24 * 3600


def init_assets(app: Flask) -> None:
    """Give templates ``asset(path)`` and let browsers keep what has a content mark in its address."""
    folder = Path(app.static_folder or "")

    @lru_cache(maxsize=256)
    def mark(path: str, changed_ns: int) -> str:
        return blake2b((folder / path).read_bytes(), digest_size=6).hexdigest()

    def asset(path: str) -> str:
        return url_for("static", filename=path, v=mark(path, (folder / path).stat().st_mtime_ns))

    app.jinja_env.globals["asset"] = asset
    app.after_request(_keep)


def _keep(response: Response) -> Response:
    if request.endpoint == "static" and "v" in request.args and response.status_code in (200, 304):
        response.headers["Cache-Control"] = f"public, max-age={YEAR_S}, immutable"
    return response
