"""Load evicted models again: in a rollback, after an interrupted switch, or on a click."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from webapp.control.context import Context, new_id, side_by_side, spec_again
from webapp.control.launching import launch_undisturbed, measure
from webapp.control.run import Outcome, Run
from webapp.control.settle import free_by_device
from webapp.control.unloading import READING_TIMEOUT_S, note_stop
from webapp.domain.instance import ANSWERING, InstanceState
from webapp.domain.memory import Sample
from webapp.domain.model import CachedModel
from webapp.domain.modes import Mode
from webapp.domain.operation import Evicted, Finding, Operation, OperationState, StepName, StepState
from webapp.domain.plan import SwitchRequest
from webapp.domain.planning.planner import plan_switch, refusal_of
from webapp.domain.returning import at_revision
from webapp.errors import AlreadyLoaded, Busy, Cancelled, Superseded, WardenError
from webapp.message import Message, Param
from webapp.runtimes.base import LaunchSpec

log = logging.getLogger(__name__)

STEPS = (StepName.LAUNCH,)
PATIENCE_S = 300.0
"""How long after the start an interrupted model waits for its mode, the cache and the readings before it is left to a
click.
"""
DYING_S = 30.0
"""How long a model that was found running may still be about to end: its stop had begun when Warden was killed."""


def restore(run: Run, owed: Sequence[Evicted], step: StepName, *, planned: bool) -> tuple[Finding, ...]:
    """Load models again one after the other, each as it ran; returns one line each, and a restored model is no longer
    owed.

    ``planned`` checks with the plan whether it fits; a rollback does not, since the model ran there a moment ago.

    Raises:
        Superseded, Cancelled: the remaining models stay owed.
    """
    findings = []
    for evicted in owed:
        finding = _restore(run, evicted, step, planned=planned)
        findings.append(finding)
        if finding.ok:
            rest = tuple(o for o in run.operation.to_restore if o.instance_id != evicted.instance_id)
            run.context.journal.record(run.change(to_restore=rest))
    return tuple(findings)


def _restore(run: Run, evicted: Evicted, step: StepName, *, planned: bool) -> Finding:
    """Restore one model; an error becomes a line of the result, so that the next one gets its turn."""
    try:
        return _launch_again(run, evicted, step, planned=planned)
    except (Superseded, Cancelled):
        raise
    except WardenError as exc:
        code = exc.code
    except Exception as exc:
        log.exception("%s could not be brought back", evicted.model_id)
        code = type(exc).__name__
    return Finding(Message("restore_failed_because", {"model": evicted.model_id, "code": code}), ok=False)


def _launch_again(run: Run, evicted: Evicted, step: StepName, *, planned: bool) -> Finding:
    """Launch an evicted model again and return its line. Raises WardenError."""
    context, name = run.context, {"model": evicted.model_id}
    listed = context.planning_state().models.get(evicted.model_id)
    if listed is None:
        return Finding(Message("restore_model_gone", name), ok=False)
    model = at_revision(listed, evicted.revision)
    if model is None:
        revision: dict[str, Param] = {**name, "revision": evicted.revision}
        return Finding(Message("restore_revision_gone", revision), ok=False)
    sample = context.monitor.fresh(READING_TIMEOUT_S)
    if planned:
        try:
            _refuse(context, evicted, model, sample)
        except AlreadyLoaded:
            return Finding(Message("restore_not_needed", name))
    elif (short := _short_of(sample, evicted)) is not None:
        return Finding(Message("restore_no_memory", {**name, "missing_bytes": short}), ok=False)

    def spec(fresh: Sample | None) -> LaunchSpec:
        return spec_again(evicted, model, fresh, context.calibration, new_id=new_id(), operation_id=run.id)

    again = launch_undisturbed(
        run,
        evicted.mode,
        spec(sample),
        lambda: spec(context.monitor.fresh(READING_TIMEOUT_S)),
        step=step,
        lease=evicted.lease,
    )
    measure(run, again)
    return Finding(Message("restored", name))


def _refuse(context: Context, evicted: Evicted, model: CachedModel, sample: Sample | None) -> None:
    """Raise the refusal of a plan that launches it on the same devices, in addition to all that is loaded."""
    planning_state = context.planning_state(sample)
    planning_state = replace(planning_state, models={**planning_state.models, model.id: model})
    request = SwitchRequest(evicted.mode, model.id, evicted.options, devices=evicted.devices, keep_others=True)
    plan = plan_switch(request, planning_state, with_ways_out=False)
    if (error := refusal_of(plan, planning_state)) is not None:
        raise error


def _short_of(sample: Sample | None, evicted: Evicted) -> int | None:
    """Return the shortfall on a device for what the model held there; ``None`` if there is none or it is unknown."""
    free = free_by_device(sample)
    missing = [held - free[d] for d, held in evicted.held_bytes.items() if d in free]
    worst = max(missing, default=0)
    return worst if worst > 0 else None


def load_again(run: Run) -> Outcome:
    """Load all models that the operation owes: the body of a ``restore`` operation."""
    owed = run.operation.to_restore
    with run.step(StepName.LAUNCH) as note:
        _clear_dead(run.context, owed)
        findings = restore(run, owed, StepName.LAUNCH, planned=True)
        run.add_findings(*findings)
        failed = [e for e, finding in zip(owed, findings, strict=True) if not finding.ok]
        note.message = restored_message(owed, failed)
        if failed:
            note.state = StepState.WARNING
    states = (OperationState.FAILED if len(failed) == len(owed) else OperationState.WARNING) if failed else None
    return Outcome(states or OperationState.SUCCEEDED, note.message)


def restored_message(owed: Sequence[Evicted], failed: Sequence[Evicted]) -> Message:
    """Return the message about a restoration: it names the models that could not be loaded again, else those that were."""
    return Message("restore_failed" if failed else "rolled_back", {"models": names(failed or owed)})


def names(evicted: Sequence[Evicted]) -> str:
    """Return the models' names in one line."""
    return ", ".join(each.model_id for each in evicted)


def _clear_dead(context: Context, owed: Sequence[Evicted]) -> None:
    """Remove instances that died while stopping from the list: they return under another id. A failed removal does not
    hold up the others.
    """
    listed = (context.state.instances.get(evicted.instance_id) for evicted in owed)
    dead = [instance for instance in listed if instance is not None and instance.state is InstanceState.DEAD]
    results = side_by_side(lambda i: context.runtime(i).terminate(i.id, ask=False), dead, "clear")
    for instance, result in zip(dead, results, strict=True):
        note_stop(context, instance, result)


class CutOff:
    """Loads models again that interrupted switches of an earlier Warden had unloaded, once all that this depends on has
    responded.

    An emergency stop makes it forget all of them, so that nothing that a person has just ended is restored
    automatically.
    """

    def __init__(self, context: Context, begin: Callable[[Operation, tuple[Evicted, ...]], object]) -> None:
        """``begin`` starts the operation that loads some models that another one owes; it may raise a refusal."""
        self._context = context
        self._begin = begin
        self._lock = threading.Lock()
        """Held during a round, which waits for nothing, so that a forgotten model is not started a moment later."""
        self._waiting: dict[str, tuple[Evicted, ...]] = {}
        self._since = 0.0
        self._lived: frozenset[str] = frozenset()
        """Instances that were seen alive: such a model is owed if it ended because of its old stop, and not if a person
        removed it.
        """

    def expect(self, operations: Sequence[Operation]) -> None:
        """Take over the models that ``operations`` owe; ``look`` restores them."""
        self._since = self._context.monotonic()
        self._waiting = {operation.id: operation.to_restore for operation in operations if operation.to_restore}
        owed = (evicted for operation in operations for evicted in operation.to_restore)
        self._lived = frozenset(evicted.instance_id for evicted in owed if self._lives(evicted))

    def forget(self) -> None:
        """Start nothing more: owed models can be restored with one click. Never waits."""
        with self._lock:
            self._waiting = {}

    def look(self, silent: frozenset[Mode]) -> None:
        """Start what is possible; ``silent`` are the modes whose instances are not known yet. Never waits."""
        with self._lock:
            self._look(silent)

    def _look(self, silent: frozenset[Mode]) -> None:
        if not self._waiting or not self._context.state.accepting:
            return
        waited_s = self._context.monotonic() - self._since
        for operation_id, owed in list(self._waiting.items()):
            lives = tuple(e for e in owed if self._lives(e))
            self._lived |= {e.instance_id for e in lives}
            due = tuple(e for e in owed if e not in lives)
            ready = tuple(e for e in due if self._is_ready(e, silent))
            self._waiting[operation_id] = owed
            if ready and self._try(operation_id, ready):
                self._waiting[operation_id] = tuple(e for e in owed if e not in ready)
            if waited_s > DYING_S and lives:
                self._waiting[operation_id] = tuple(e for e in self._waiting[operation_id] if e not in lives)
        is_over = waited_s > PATIENCE_S
        self._waiting = {} if is_over else {name: owed for name, owed in self._waiting.items() if owed}

    def _lives(self, evicted: Evicted) -> bool:
        instance = self._context.state.instances.get(evicted.instance_id)
        return instance is not None and instance.state in ANSWERING

    def _is_ready(self, evicted: Evicted, silent: frozenset[Mode]) -> bool:
        context = self._context
        is_read = context.catalog.latest().scanned_at is not None and not context.monitor.is_stale()
        return is_read and evicted.mode not in silent and context.mode_problems().get(evicted.mode) is None

    def _try(self, operation_id: str, ready: tuple[Evicted, ...]) -> bool:
        """Return whether nothing more is to be done for it."""
        owing = next((o for o in self._context.state.recent if o.id == operation_id), None)
        still = () if owing is None else tuple(e for e in ready if self._is_owed(e, owing))
        if owing is None or not still:
            return True  # another caller was quicker
        try:
            self._begin(owing, still)
        except Busy:
            return False
        except WardenError as exc:
            log.warning("what operation %s had unloaded is not loaded again: %s", operation_id, exc)
        return True

    def _is_owed(self, evicted: Evicted, owing: Operation) -> bool:
        """Return whether it is still to be restored; of instances that were seen alive only those that died on their
        own, since they had been told to stop.
        """
        if evicted.instance_id not in self._lived:
            return evicted in owing.to_restore
        instance = self._context.state.instances.get(evicted.instance_id)
        return instance is not None and instance.state is InstanceState.DEAD
