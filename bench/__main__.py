"""``python -m bench`` runs all measurements, ``python -m bench NAME`` one; options are passed on to it."""

from __future__ import annotations

import importlib
import sys
from itertools import dropwhile, takewhile
from pathlib import Path


def main() -> int:
    """Run the named measurement, or all of them."""
    known = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_"))
    names = list(takewhile(lambda word: not word.startswith("-"), sys.argv[1:])) or known
    options = list(dropwhile(lambda word: not word.startswith("-"), sys.argv[1:]))
    if unknown := [name for name in names if name not in known]:
        sys.stderr.write(f"There is no measurement {', '.join(unknown)}; there are: {', '.join(known)}.\n")
        return 2
    for name in names:
        measure = importlib.import_module(f"bench.{name}").main
        measure(options) if options else measure()
    return 0


if __name__ == "__main__":
    sys.exit(main())
