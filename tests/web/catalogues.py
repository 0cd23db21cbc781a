"""Compiles the committed catalogues, so that the tests hold without a make before them."""

from __future__ import annotations

import os
from pathlib import Path

from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po

FOLDER = Path(__file__).parents[2] / "webapp" / "translations"


def compile_catalogues() -> None:
    """Write each ``.mo`` that is older than its ``.po``."""
    for source in FOLDER.glob("*/LC_MESSAGES/*.po"):
        target = source.with_suffix(".mo")
        if target.exists() and target.stat().st_mtime >= source.stat().st_mtime:
            continue
        with source.open("rb") as file:
            catalogue = read_po(file, locale=source.parents[1].name)
        draft = target.with_suffix(f".{os.getpid()}.new")  # tests run side by side
        with draft.open("wb") as file:
            write_mo(file, catalogue)
        draft.replace(target)
