"""The ladder of a stop: one rung after the other, each harder, until nothing is left. Workers and containers climb the same one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from webapp.runtimes.base import StageCallback, StopStage


@dataclass(frozen=True)
class Rung:
    """One way to end something: ``act`` does it and waits as long as this rung may take."""

    stage: StopStage
    act: Callable[[], object]


def climb(rungs: Sequence[Rung], is_over: Callable[[], bool], on_stage: StageCallback) -> StopStage:
    """Take rungs until ``is_over``; return the last one that was needed, the first when none was."""
    stage = rungs[0].stage
    for rung in rungs:
        if is_over():
            break
        stage = rung.stage
        on_stage(stage)
        rung.act()
    on_stage(StopStage.VERIFY)
    return stage


def nobody(stage: StopStage) -> None:
    """A ``StageCallback`` for a stop of which nobody wants to know how far it is."""
