"""The founding table, with every boundary exact to the byte."""

from __future__ import annotations

import pytest

from webapp.domain.memory import Level, level_of
from webapp.domain.modes import Mode, Precision
from webapp.domain.recommend import Mark, recommend
from webapp.domain.units import gib
from webapp.message import Message

OK = (Mode.VLLM, Precision.FP16, 2048, 4, Mark.OK)
LIMITED_VLLM = (Mode.VLLM, Precision.FP16, 1024, 2, Mark.LIMITED)
TRANSFORMERS = (Mode.TRANSFORMERS, Precision.FP16, 1024, 1, Mark.LIMITED)
INT8 = (Mode.TRANSFORMERS, Precision.INT8, 512, 1, Mark.LIMITED)


@pytest.mark.parametrize(
    ("free_bytes", "row"),
    [
        (gib(80), OK),
        (gib(8), OK),
        (gib(8) - 1, LIMITED_VLLM),
        (gib(6), LIMITED_VLLM),
        (gib(6) - 1, TRANSFORMERS),
        (gib(4), TRANSFORMERS),
        (gib(4) - 1, INT8),
        (0, INT8),
        (-1, INT8),
    ],
)
def test_each_boundary_belongs_to_the_row_above_it(free_bytes: int, row: tuple[object, ...]) -> None:
    advice = recommend(free_bytes)
    assert (advice.mode, advice.precision, advice.max_tokens, advice.batch_size, advice.mark) == row


def test_where_vllm_cannot_be_chosen_the_figures_hold_for_transformers_and_the_reason_is_given() -> None:
    advice = recommend(gib(9), vllm_unavailable=Message("why"))
    assert (advice.mode, advice.usable_mode) == (Mode.VLLM, Mode.TRANSFORMERS)
    assert (advice.max_tokens, advice.batch_size) == (2048, 4)
    assert [reason.code for reason in advice.reasons] == ["advice_free", "advice_vllm_unavailable", "why"]


@pytest.mark.parametrize(
    ("free_bytes", "level"),
    [
        (gib(4), Level.GOOD),
        (gib(4) - 1, Level.LOW),
        (gib(2), Level.LOW),
        (gib(2) - 1, Level.CRITICAL),
        (0, Level.CRITICAL),
    ],
)
def test_memory_levels_change_at_four_and_two_gib(free_bytes: int, level: Level) -> None:
    assert level_of(free_bytes) is level
