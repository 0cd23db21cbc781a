"""Each part of a device's memory has a colour: a bar without one is drawn black."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from webapp.domain.memory import LedgerKind

CSS = Path(__file__).parents[3] / "static" / "css"


@pytest.mark.parametrize("kind", LedgerKind)
def test_each_kind_of_memory_has_a_colour_in_bar_and_legend(kind: LedgerKind) -> None:
    rules = (CSS / "components" / "ledger.css").read_text()
    tokens = (CSS / "tokens.css").read_text()

    (fill,) = re.findall(rf"\.fill-{kind}(?:, [^{{]+)? {{\s*fill: var\((--c-[a-z]+)\)", rules)
    assert tokens.count(f"{fill}: #") == 2  # light and dark
    assert f".dot--{kind} " in rules
