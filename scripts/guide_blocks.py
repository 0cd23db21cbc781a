"""Prints the code blocks of a guide's numbered sections as one shell script.

``python scripts/guide_blocks.py docs/admin-guide.md``. A block in the language ``sh`` is copied as it is. A block whose
first line is a comment with an absolute path becomes that file.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

SECTION = re.compile(r"^## (?=\d+\. )", re.MULTILINE)
OTHER_SECTION = re.compile(r"^## (?!\d+\. )", re.MULTILINE)
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (/\S+)\n")


def numbered_sections(guide: str) -> Iterator[str]:
    """Yield the text of each section whose heading begins with a number."""
    for section in SECTION.split(guide)[1:]:
        yield OTHER_SECTION.split(section)[0]


def commands(guide: str) -> Iterator[str]:
    """Yield the shell commands of the numbered sections, in order."""
    for section in numbered_sections(guide):
        yield f"echo '=== {section.partition(chr(10))[0]}'"
        for language, block in BLOCK.findall(section):
            if language == "sh":
                yield block.rstrip()
            elif named := FILE.match(block):
                yield f"cat >{named[1]} <<'END_OF_FILE'\n{block}END_OF_FILE"


if __name__ == "__main__":
    sys.stdout.write("\n".join(commands(Path(sys.argv[1]).read_text(encoding="utf-8"))) + "\n")
