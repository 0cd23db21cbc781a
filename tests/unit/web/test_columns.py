"""Lines of templates, style sheets and scripts end at 120 columns, as those of the program do."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[3]
COLUMNS = 120
WRITTEN = ("templates/**/*.html", "static/css/**/*.css", "static/js/*.js")
"""All but what others wrote (``static/vendor``) and the icon, whose drawing is one long path."""


def test_no_line_is_longer() -> None:
    files = [path for pattern in WRITTEN for path in sorted(ROOT.glob(pattern))]
    longer = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in files
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if len(line) > COLUMNS
    ]

    assert len(files) > 100
    assert longer == []
