"""At the start: mark interrupted operations, adopt live instances, remove broken ones. Every check has a deadline."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

from webapp.control.context import Context, Expired, known_instances, side_by_side, within
from webapp.control.unloading import not_removed, note_stop
from webapp.domain.instance import ANSWERING, Instance, InstanceState
from webapp.domain.modes import Mode
from webapp.domain.operation import Finding, Operation, OperationKind, OperationState
from webapp.errors import EngineMissing, EngineUnavailable
from webapp.message import Message, Param
from webapp.runtimes.base import Discovered, Leftover, Runtime, StopResult

log = logging.getLogger(__name__)

DISCOVER_DEADLINE_S = 10.0
REMOVE_DEADLINE_S = 30.0
LATE_INTERVAL_S = 5.0
"""How often a runtime that did not respond at the start is tried again."""
LATE_STOP_S = 2.0
RECENT = 20


@dataclass(frozen=True)
class Reconciled:
    """The findings of the start, one line each, and the runtimes that did not respond: their instances are not known
    yet.
    """

    findings: tuple[Finding, ...]
    unanswered: tuple[Runtime, ...] = ()
    cut_off: tuple[Operation, ...] = ()
    """The operations that an earlier Warden did not finish; the models that they owe may be alive still, and about to
    end.
    """


def reconcile(context: Context, *, discover_s: float = DISCOVER_DEADLINE_S) -> Reconciled:
    """Update the state to match what is running. The runtimes are queried concurrently, each for at most
    ``discover_s``.
    """
    cut_off = context.journal.cut_off()
    runtimes = tuple(context.runtimes.values())
    taken = _take_in_all(context, runtimes, discover_s)
    findings = tuple(finding for one in taken for finding in one.findings)
    abandoned = {operation.id: _abandoned(context, operation, findings) for operation in cut_off}
    whole = tuple(abandoned.values())
    abandoned = {operation.id: _without_living(context, operation) for operation in whole}
    for operation in abandoned.values():
        context.journal.record(operation)
    recent = {operation.id: operation for operation in context.journal.recent(RECENT)}
    context.state_store.set_recent({**recent, **abandoned}.values())
    for finding in findings:
        log.info("found at the start: %s %s", finding.message.code, dict(finding.message.params))
    unanswered = tuple(runtime for one in taken for runtime in one.unanswered)
    return Reconciled(findings, unanswered, whole)


class LateRuntimes:
    """Queries runtimes that were silent at the start, until each has answered once; its instances are then adopted."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._waiting: tuple[Runtime, ...] = ()
        self._tried_at = 0.0
        self._thread: threading.Thread | None = None

    def expect(self, runtimes: tuple[Runtime, ...]) -> None:
        """Start querying ``runtimes``."""
        self._waiting, self._tried_at = runtimes, self._context.monotonic()

    @property
    def silent(self) -> frozenset[Mode]:
        """Return the modes whose instances are not known yet."""
        return frozenset(runtime.mode for runtime in self._waiting)

    def look(self) -> None:
        """Query again, if it is time, in a separate thread: a call that hangs holds up nobody. Never waits."""
        trying = self._thread is not None and self._thread.is_alive()
        if not self._waiting or trying or self._context.monotonic() - self._tried_at < LATE_INTERVAL_S:
            return
        self._tried_at = self._context.monotonic()
        self._thread = threading.Thread(target=self._try, name="warden-late", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop querying; waits a few seconds at most for the round in progress."""
        self._waiting = ()
        if self._thread is not None:
            self._thread.join(LATE_STOP_S)

    def _try(self) -> None:
        taken = _take_in_all(self._context, self._waiting, DISCOVER_DEADLINE_S)
        still = tuple(runtime for one in taken for runtime in one.unanswered)
        self._waiting = tuple(runtime for runtime in self._waiting if runtime in still)
        for finding in (f for one in taken if not one.unanswered for f in one.findings):
            log.info("found late: %s %s", finding.message.code, dict(finding.message.params))


def _take_in_all(context: Context, runtimes: Sequence[Runtime], discover_s: float) -> list[Reconciled]:
    results = side_by_side(lambda runtime: _take_in(context, runtime, discover_s), runtimes, "take-in")
    return [
        _unanswered(runtime) if isinstance(result, Exception) else result
        for runtime, result in zip(runtimes, results, strict=True)
    ]


def _unanswered(runtime: Runtime) -> Reconciled:
    unreachable = Finding(Message("runtime_unreachable", {"mode": runtime.mode.value}), ok=False)
    return Reconciled((unreachable,), (runtime,))


def _discover(runtime: Runtime) -> tuple[Discovered, ...] | EngineUnavailable:
    try:
        return runtime.discover()
    except EngineUnavailable as exc:
        return exc


def _take_in(context: Context, runtime: Runtime, discover_s: float) -> Reconciled:
    """Adopt live instances and remove broken ones. A runtime that does not answer is left alone: no answer is not
    "nothing".
    """
    answer = within(discover_s, lambda expired: _discover(runtime), "discover")
    if isinstance(answer, EngineMissing):
        return Reconciled((), (runtime,))  # a server without Docker is nothing to report
    if answer is None or isinstance(answer, EngineUnavailable):
        return _unanswered(runtime)
    known = known_instances(context)
    found = [f for f in answer if f.instance.id not in known]  # late: some may have been started in the meantime
    adopted = [f for f in found if f.adoptable]
    for one in adopted:
        lease = context.leases.kept(one.instance.id)
        context.state_store.put(replace(one.instance, adopted=True, adopted_at=context.clock(), lease=lease))
    broken = [f for f in found if not f.adoptable]
    removed = within(REMOVE_DEADLINE_S, lambda expired: _remove(context, runtime, broken, expired), "remove")
    leftovers = within(REMOVE_DEADLINE_S, lambda expired: _reap(context, runtime, expired), "reap")
    unreachable = Finding(Message("runtime_unreachable", {"mode": runtime.mode.value}), ok=False)
    findings = (
        *(_adopted(one.instance) for one in adopted),
        *([unreachable] if removed is None else removed),
        *([unreachable] if leftovers is None else (Finding(left.message, left.ok) for left in leftovers)),
    )
    return Reconciled(findings)


def _adopted(instance: Instance) -> Finding:
    """Return the finding for an adopted instance; one that ended while Warden was not running stays listed with its
    reason until it is removed.
    """
    if instance.state is InstanceState.DEAD:
        reason = None if instance.problem is None else instance.problem.code
        return Finding(Message("found_dead", {"model": instance.model_id, "reason": reason}), ok=False)
    return Finding(Message("adopted", {"model": instance.model_id}))


def _remove(context: Context, runtime: Runtime, broken: list[Discovered], expired: Expired) -> list[Finding]:
    def end(one: Discovered) -> StopResult:
        if expired.is_set():
            raise TimeoutError
        return runtime.terminate(one.instance.id, ask=False)

    results = side_by_side(end, broken, "remove")
    return [_removed(context, one, result) for one, result in zip(broken, results, strict=True)]


def _removed(context: Context, one: Discovered, result: StopResult | Exception) -> Finding:
    """Return the finding for a removed instance; one that may still be alive is listed as stuck, so that it can be
    ended from the page.
    """
    params: dict[str, Param] = {
        "model": one.instance.model_id,
        "reason": None if one.reason is None else one.reason.code,
    }
    if isinstance(result, StopResult) and result.not_removed:
        return not_removed(one.instance)
    if isinstance(result, StopResult) and not result.survivors:
        return Finding(Message("removed_half_started", params))
    if isinstance(result, Exception):
        log.error("what was left of %s could not be removed", one.instance.id, exc_info=result)
    context.state_store.put(one.instance)
    note_stop(context, one.instance, result)
    return Finding(Message("removal_failed", params), ok=False)


def _reap(context: Context, runtime: Runtime, expired: Expired) -> tuple[Leftover, ...]:
    return () if expired.is_set() else runtime.reap(lambda: known_instances(context))


def _without_living(context: Context, operation: Operation) -> Operation:
    """Return the operation as listed: models that were found running are not offered for loading."""
    living = {i.id for i in context.state.instances.values() if i.state in ANSWERING}
    return replace(operation, to_restore=tuple(e for e in operation.to_restore if e.instance_id not in living))


def _abandoned(context: Context, operation: Operation, findings: tuple[Finding, ...]) -> Operation:
    """Return the operation as interrupted: the step that was running has failed, later steps never started.

    A switch whose model is running owes nothing: its evictions served their purpose.
    """
    closed = operation.closed(OperationState.ABANDONED, context.clock(), Message("abandoned"))
    made = context.state.instances.get(operation.instance_id or "")
    is_made = made is not None and made.state in ANSWERING and operation.kind is OperationKind.SWITCH
    owed = () if is_made else operation.to_restore
    return replace(closed, findings=(*operation.findings, *findings), to_restore=owed)
