"""Compiles the translation catalogues when a wheel is built, even an editable one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CatalogueHook(BuildHookInterface[Any]):
    """Write a ``.mo`` file next to each ``.po`` file, as ``make`` does."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile before the files are collected."""
        for source in Path(self.root, "webapp", "translations").glob("*/LC_MESSAGES/*.po"):
            with source.open("rb") as file:
                catalogue = read_po(file, locale=source.parents[1].name)
            with source.with_suffix(".mo").open("wb") as file:
                write_mo(file, catalogue)
