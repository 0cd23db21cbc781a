"""The escalation of a stop, shared by workers and containers: each step is harsher than the one before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from webapp.runtimes.base import StageCallback, StopStage


@dataclass(frozen=True)
class StopStep:
    """One way to end something: ``act`` does it and waits for as long as the step may take."""

    stage: StopStage
    act: Callable[[], object]


def escalate(steps: Sequence[StopStep], is_over: Callable[[], bool], on_stage: StageCallback) -> StopStage:
    """Take steps until ``is_over``; return the stage of the last step needed, or of the first if none was."""
    stage = steps[0].stage
    for step in steps:
        if is_over():
            break
        stage = step.stage
        on_stage(stage)
        step.act()
    on_stage(StopStage.VERIFY)
    return stage


def ignore_stages(stage: StopStage) -> None:
    """Do nothing: a ``StageCallback`` for stops whose progress is not reported."""
