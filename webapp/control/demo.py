"""Create the demo model: the body of a ``demo`` operation."""

from __future__ import annotations

from webapp.control.run import Outcome, Run
from webapp.domain.operation import OperationState, StepName
from webapp.errors import DemoFailed
from webapp.message import Message

STEPS = (StepName.CREATE,)
CLAIM = "demo"
"""The claim of a demo operation, so that two clicks start only one."""
RESCAN_TIMEOUT_S = 10.0


def make_demo(run: Run) -> Outcome:
    """Create the demo model in the cache and wait until the catalogue lists it.

    Raises:
        ModeUnavailable: the libraries that write a model are not installed.
        DemoFailed: the files could not be written.
    """
    with run.step(StepName.CREATE) as note:
        model_id = run.context.demo.make(run.wait)
        run.context.catalog.rescan(RESCAN_TIMEOUT_S)
        if not any(model.id == model_id for model in run.context.catalog.latest().models):
            raise DemoFailed(detail=f"{model_id} does not appear in the cache")
        note.message = Message("demo_made", {"model": model_id})
    return Outcome(OperationState.SUCCEEDED, Message("demo_done", {"model": model_id}))
