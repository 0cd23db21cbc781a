"""Brings both catalogues up to date with the program's texts: ``make words``.

New texts are added (Russian, the source, is filled in; its plurals and English are left open, which a test reports), texts that are
gone are dropped, and the order is settled so that a change of one text is a change of one entry. Further catalogues named on the command
line (``scripts/words.py OTHER.po``) lend their translations, each to the language that its header names.
"""

from __future__ import annotations

import sys
from pathlib import Path

from babel.messages.catalog import Catalog, Message
from babel.messages.extract import DEFAULT_KEYWORDS, extract_from_dir
from babel.messages.frontend import parse_mapping_cfg
from babel.messages.pofile import read_po, write_po

ROOT = Path(__file__).parents[1]
KEYWORDS = {**DEFAULT_KEYWORDS, "N_": None, "NN_": (1, 2)}
LANGUAGES = ("ru", "en")
SOURCE = "ru"

Text = str | tuple[str, ...]


def main() -> None:
    """Write the catalogues and say what is still open in them."""
    found = _extract()
    lent = [_read(Path(name)) for name in sys.argv[1:]]
    for language in LANGUAGES:
        path = ROOT / "webapp" / "translations" / language / "LC_MESSAGES" / "messages.po"
        known = _read(path)
        sources = [known, *(catalog for catalog in lent if str(catalog.locale) == language)]
        opened = _write(path, known, found, sources)
        sys.stdout.write(f"{path.relative_to(ROOT)}: {len(found)} texts, {len(opened)} open\n")
        sys.stdout.writelines(f"  {text}\n" for text in opened)


def _extract() -> dict[Text, set[str]]:
    """Every text of the program with the files that hold it."""
    with (ROOT / "babel.cfg").open(encoding="utf-8") as file:
        methods, options = parse_mapping_cfg(file)
    found: dict[Text, set[str]] = {}
    for name, _, text, _, _ in extract_from_dir(ROOT, methods, options, keywords=KEYWORDS):
        found.setdefault(text, set()).add(name)
    return found


def _read(path: Path) -> Catalog:
    with path.open("rb") as file:
        return read_po(file)


def _write(path: Path, known: Catalog, found: dict[Text, set[str]], sources: list[Catalog]) -> list[str]:
    catalog = Catalog(locale=known.locale, header_comment=known.header_comment, fuzzy=False)
    catalog.mime_headers = known.mime_headers
    catalog.project, catalog.version = "warden", "1"
    opened = []
    for text, files in sorted(found.items(), key=lambda item: (sorted(item[1]), str(item[0]))):
        translation = _translation(text, sources, str(known.locale))
        catalog.add(text, translation, locations=[(name, 0) for name in sorted(files)])
        if not all(translation if isinstance(translation, tuple) else (translation,)):
            opened.append(str(text))
    with path.open("wb") as file:
        write_po(file, catalog, width=100000, include_lineno=False)
    return opened


def _translation(text: Text, sources: list[Catalog], language: str) -> Text:
    for source in sources:
        message: Message | None = source.get(text if isinstance(text, str) else text[0])
        if message is not None and message.id == text and any(message.string):
            return message.string
    if isinstance(text, tuple):
        return ("",) * {"ru": 3, "en": 2}[language]
    return text if language == SOURCE else ""


if __name__ == "__main__":
    main()
