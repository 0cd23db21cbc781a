"""End a container that Warden did not start, after explicit confirmation, and verify on the device that its memory was
freed.
"""

from __future__ import annotations

from webapp.control.context import Context
from webapp.control.run import Outcome, Run, Undone
from webapp.control.settle import stock_by_device
from webapp.control.unloading import READING_TIMEOUT_S, Before, settle_note, settle_receipts, stop_message, sums
from webapp.domain.memory import Reading, Sample
from webapp.domain.operation import OperationState, StepName
from webapp.errors import StopFailed, UnknownContainer
from webapp.message import Message, Param
from webapp.runtimes.base import ForeignContainer, StopResult, StopStage

STEPS = (StepName.END, StepName.SETTLE)


def claims_of(context: Context, container: ForeignContainer) -> tuple[str, ...]:
    """Return the claims of ending the container: the devices on which it holds memory, and the container itself."""
    sample = context.monitor.latest()
    readings = () if sample is None else sample.readings
    return (*(r.device_id for r in readings if _holds(r, container.id)), f"container-{container.id}")


def stop_container(run: Run, container: ForeignContainer) -> Outcome:
    """End the container: the body of a ``stop_container`` operation.

    Raises:
        UnknownContainer: it no longer exists, or it is Warden's own.
        StopFailed: one of its processes survived every signal.
        EngineUnavailable: Docker does not respond.
    """
    named: dict[str, Param] = {"name": container.name}
    with run.step(StepName.END) as note:
        before = _take_stock(run.context, container)
        result = _end(run, container)
        run.undo = lambda: Undone(Message("container_not_waited", named))
        note.message = Message("stopped", {"models": container.name, "stage": result.stage.value})
    with run.step(StepName.SETTLE) as note:
        receipts = settle_receipts(run, before)
        note.message, note.state = settle_note(receipts)
    run.add_receipts(receipts)
    if not receipts:
        return Outcome(OperationState.SUCCEEDED, Message("container_ended", named))
    params = {**named, **sums(receipts)}
    if all(receipt.settled for receipt in receipts):
        return Outcome(OperationState.SUCCEEDED, Message("container_ended_freed", params))
    return Outcome(OperationState.WARNING, Message("container_ended_held", params))


def _end(run: Run, container: ForeignContainer) -> StopResult:
    host = run.context.containers
    if host is None:
        raise UnknownContainer(container=container.id)

    def on_stage(stage: StopStage) -> None:
        run.tell(StepName.END, stop_message(stage, container.name, in_container=True))

    result = host.terminate_foreign(container.id, on_stage=on_stage)
    if result.survivors:
        first = result.survivors[0]
        raise StopFailed(model=container.name, pid=first.pid, user=first.user, state=first.state)
    return result


def _take_stock(context: Context, container: ForeignContainer) -> Before:
    sample = context.monitor.fresh(READING_TIMEOUT_S)
    leaving = frozenset({container.id})
    return Before((), stock_by_device(sample, leaving), _held_bytes(sample, container.id), {}, leaving)


def _held_bytes(sample: Sample | None, container_id: str) -> dict[str, int]:
    """Return the memory of the container's processes by device, as far as the devices report it."""
    readings = () if sample is None else sample.readings
    return {
        r.device_id: sum(h.used_bytes or 0 for h in r.holders if h.container_id == container_id)
        for r in readings
        if _holds(r, container_id)
    }


def _holds(reading: Reading, container_id: str) -> bool:
    return any(holder.container_id == container_id for holder in reading.holders)
