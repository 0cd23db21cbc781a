"""Writes who may call what into docs/rights.md: ``make rights``."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "rights.md"

sys.path.insert(0, str(ROOT))


def main() -> None:
    """Write the matrix."""
    from webapp import create_app  # noqa: PLC0415  found by the path above
    from webapp.settings import Settings  # noqa: PLC0415
    from webapp.web.rights import rights_markdown  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:
        app = create_app(Settings(state_dir=Path(folder)))
        PAGE.write_text(rights_markdown(app), encoding="utf-8")


if __name__ == "__main__":
    main()
