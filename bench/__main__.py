"""``python -m bench`` lists the measurements, ``python -m bench NAME`` runs one."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path


def main() -> int:
    """Run the measurement that was named, or all of them."""
    known = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_"))
    names = sys.argv[1:] or known
    if unknown := [name for name in names if name not in known]:
        sys.stderr.write(f"There is no measurement {', '.join(unknown)}; there are: {', '.join(known)}.\n")
        return 2
    for name in names:
        importlib.import_module(f"bench.{name}").main()
    return 0


if __name__ == "__main__":
    sys.exit(main())
