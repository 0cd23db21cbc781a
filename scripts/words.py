"""Updates the Russian catalogue from the English texts in the program: ``make words``.

New texts are added without a translation, which a test reports, and unused ones are removed. The order is fixed, so
that a change of one text changes one entry.
"""

from __future__ import annotations

import sys
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.extract import DEFAULT_KEYWORDS, extract_from_dir
from babel.messages.frontend import parse_mapping_cfg
from babel.messages.pofile import read_po, write_po

ROOT = Path(__file__).parents[1]
PATH = ROOT / "webapp" / "translations" / "ru" / "LC_MESSAGES" / "messages.po"
KEYWORDS = {**DEFAULT_KEYWORDS, "N_": None, "NN_": (1, 2), "NP_": ((1, "c"), 2)}

Text = str | tuple[str, ...]
Key = tuple[str, Text]
"""A context, which is usually empty, and a text."""


def main() -> None:
    """Write the catalogue and print its untranslated texts."""
    with PATH.open("rb") as file:
        known = read_po(file)
    found = _extract()
    catalog = Catalog(locale=known.locale, header_comment=known.header_comment, fuzzy=False)
    catalog.mime_headers = known.mime_headers
    catalog.project, catalog.version = "warden", "1"
    opened = []
    for (context, text), files in sorted(found.items(), key=lambda item: (str(item[0][1]), item[0][0])):
        translation = _translation(known, context, text)
        catalog.add(text, translation, context=context or None, locations=[(name, 0) for name in sorted(files)])
        if not all(translation if isinstance(translation, tuple) else (translation,)):
            opened.append(str(text))
    with PATH.open("wb") as file:
        write_po(file, catalog, width=100000, no_location=True)
    sys.stdout.write(f"{PATH.relative_to(ROOT)}: {len(found)} texts, {len(opened)} open\n")
    sys.stdout.writelines(f"  {text}\n" for text in opened)


def _extract() -> dict[Key, set[str]]:
    """Return every text of the program with the files that contain it."""
    with (ROOT / "babel.cfg").open(encoding="utf-8") as file:
        methods, options = parse_mapping_cfg(file)
    found: dict[Key, set[str]] = {}
    for name, _, text, _, context in extract_from_dir(ROOT, methods, options, keywords=KEYWORDS):
        found.setdefault((context or "", text), set()).add(name)
    return found


def _translation(known: Catalog, context: str, text: Text) -> Text:
    message = known.get(text if isinstance(text, str) else text[0], context or None)
    if message is not None and message.id == text and (known_text := message.string):
        return known_text if isinstance(known_text, str) else tuple(known_text)
    return ("",) * 3 if isinstance(text, tuple) else ""


if __name__ == "__main__":
    main()
