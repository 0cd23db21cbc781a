"""A running operation: its steps, its cancel flag, and its right to write; and the top of its thread."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from webapp.control.context import Context, in_thread
from webapp.domain.operation import Finding, Operation, OperationState, Receipt, StepName, StepState
from webapp.errors import Cancelled, CancelledByStop, Superseded, WardenError
from webapp.message import Message

log = logging.getLogger(__name__)

LISTEN_S: Final = 0.05
"""How often a caller that waits checks whether the operation may continue."""

T = TypeVar("T")


@dataclass
class StepNote:
    """The message and state of a step at its end."""

    message: Message | None = None
    state: StepState = StepState.DONE


@dataclass(frozen=True)
class Outcome:
    """How an operation ended if nothing was raised."""

    state: OperationState
    message: Message


@dataclass(frozen=True)
class Undone:
    """The result of an undo, for the operation's end."""

    message: Message
    findings: tuple[Finding, ...] = ()


Undo = Callable[[], Undone | None]


@dataclass
class Run:
    """The handle with which an operation's thread writes. Every write raises ``Superseded`` once the operation no
    longer runs.
    """

    id: str
    context: Context
    undo: Undo | None = None
    """The undo for a failed or cancelled operation; its body sets it as soon as there is something to undo."""
    _cancelled: threading.Event = field(default_factory=threading.Event)
    _cancellable: bool = True

    def cancel(self) -> None:
        """Make the next ``check`` or ``wait`` raise; does nothing once the run is committed."""
        if self._cancellable:
            self._cancelled.set()

    @property
    def operation(self) -> Operation:
        """The present operation. Raises Superseded."""
        operation = self.context.state.running.get(self.id)
        if operation is None:
            raise Superseded(operation=self.id)
        return operation

    def check(self) -> None:
        """Raise Superseded or Cancelled if the operation must not continue."""
        operation = self.operation
        if self._cancellable and self._cancelled.is_set():
            if operation.cancel_requested_by is None:
                raise CancelledByStop
            raise Cancelled(actor=operation.cancel_requested_by)

    def wait(self, seconds: float) -> None:
        """Wait, or raise as ``check`` does as soon as there is a reason."""
        self._cancelled.wait(seconds)
        self.check()

    def wait_for(
        self,
        make: Callable[[], T],
        what: str,
        give_up: Callable[[], None] = lambda: None,
        late: WardenError | None = None,
        limit_s: float = math.inf,
    ) -> T:
        """Return the result of ``make``, or raise as ``check`` does as soon as there is a reason; raise ``late`` after
        ``limit_s``.

        ``make`` then continues in a thread of its own, and its late result is passed to ``give_up``. If the machine
        provides no thread, this waits for it.
        """
        made: list[T | Exception] = []
        lock, unwanted = threading.Lock(), threading.Event()

        def work() -> None:
            try:
                result: T | Exception = make()
            except Exception as exc:  # noqa: BLE001 - the top of a thread; the caller gets it
                result = exc
            with lock:
                made.append(result)
                is_late = unwanted.is_set()
            if is_late and not isinstance(result, Exception):
                give_up()

        deadline = self.context.monotonic() + limit_s
        thread = in_thread(work, f"{what}-{self.id}")
        try:
            while thread is not None and not made:
                thread.join(LISTEN_S)
                self.check()
                if late is not None and self.context.monotonic() > deadline:
                    raise late
        except WardenError:
            with lock:
                unwanted.set()
                is_there = bool(made) and not isinstance(made[0], Exception)
            if is_there:
                give_up()
            raise
        if isinstance(made[0], Exception):
            raise made[0]
        return made[0]

    def shield(self) -> None:
        """Forget a cancel that was received, so that the undo can wait; a second one, meant for the undo, is received
        again.
        """
        self._cancelled.clear()

    def commit(self) -> None:
        """From here on nothing is undone and cancels are ignored: the requested result exists."""
        self.undo = None
        self._cancellable = False
        self._cancelled.clear()  # a wait must last as long as requested

    def change(self, **changes: object) -> Operation:
        """Replace fields of the operation."""
        return self._update(lambda operation: replace(operation, **changes))  # type: ignore[arg-type]

    def add_receipts(self, receipts: tuple[Receipt, ...]) -> None:
        """Append receipts."""
        self._update(lambda operation: replace(operation, receipts=(*operation.receipts, *receipts)))

    def add_findings(self, *findings: Finding) -> None:
        """Append lines to the result."""
        self._update(lambda operation: replace(operation, findings=(*operation.findings, *findings)))

    def tell(self, name: StepName, message: Message | None = None, progress: float | None = None) -> None:
        """Report the progress of a running step."""
        self._update(lambda operation: operation.with_step(name, message=message, progress=progress))

    @contextmanager
    def step(self, name: StepName) -> Iterator[StepNote]:
        """Run a step: its times, its end state and its message are stored and journalled."""
        self.check()
        now = self.context.clock()
        self._record(
            lambda operation: operation.with_step(
                name, state=StepState.RUNNING, started_at=now, ended_at=None, message=None, progress=None
            )
        )
        note = StepNote()
        try:
            yield note
        except WardenError as exc:
            self._end_step(name, StepState.FAILED, exc.message)
            raise
        except Exception:
            self._end_step(name, StepState.FAILED, Message("unexpected"))
            raise
        self._end_step(name, note.state, note.message)

    def skip(self, *names: StepName) -> None:
        """Mark steps as not needed."""

        def skipped(operation: Operation) -> Operation:
            for name in names:
                operation = operation.with_step(name, state=StepState.SKIPPED)
            return operation

        self._update(skipped)

    def _end_step(self, name: StepName, state: StepState, message: Message | None) -> None:
        now = self.context.clock()
        self._record(lambda operation: operation.with_step(name, state=state, ended_at=now, message=message))

    def _update(self, change: Callable[[Operation], Operation]) -> Operation:
        return self.context.state_store.update(self.id, change)

    def _record(self, change: Callable[[Operation], Operation]) -> None:
        self.context.journal.record(self._update(change))


def carry_out(run: Run, body: Callable[[Run], Outcome]) -> None:
    """Run an operation's body to its end: the top of its thread. Whatever happens, the operation ends and its claims
    are released.
    """
    clock = run.context.clock
    try:
        outcome = _guarded(run, body)
        ended = run.context.state_store.end(
            run.id, lambda o: o.closed(outcome.state, clock(), outcome.message, running=StepState.SKIPPED)
        )
    except Superseded:
        log.info("operation %s was taken over", run.id)
        return
    run.context.journal.record(ended)
    log.info("operation %s (%s) ended: %s", ended.id, ended.kind, ended.state)


def _guarded(run: Run, body: Callable[[Run], Outcome]) -> Outcome:
    try:
        with run.context.monitor.faster():
            return body(run)
    except Superseded:
        raise
    except Cancelled as exc:
        return _undone(run, OperationState.CANCELLED, exc.message)
    except WardenError as exc:
        log.warning("operation %s failed: %s", run.id, exc)
        return _undone(run, OperationState.FAILED, exc.message)
    except Exception as exc:
        log.exception("operation %s failed unexpectedly", run.id)
        return _undone(run, OperationState.FAILED, Message("unexpected", {"detail": type(exc).__name__}))


def _undone(run: Run, state: OperationState, error: Message) -> Outcome:
    """Roll back. A failing rollback is reported without masking the original error."""
    run.shield()
    run.change(error=error)
    message = _how_far(run.operation)
    if run.undo is not None:
        try:
            undone = run.undo()
        except Superseded:
            raise
        except Cancelled:
            undone = Undone(Message("rollback_cancelled"))
        except Exception as exc:
            log.exception("operation %s could not be undone", run.id)
            undone = Undone(Message("undo_failed", {"detail": str(exc)}))
        if undone is not None:
            message = undone.message
            run.add_findings(*undone.findings)
    return Outcome(state, message)


ACTING = (StepName.UNLOAD, StepName.CLEAN, StepName.LAUNCH, StepName.CREATE, StepName.END)
"""The steps that change something."""


def _how_far(operation: Operation) -> Message:
    """Return the message of an operation without an undo: whether it changed anything before it ended."""
    begun = any(step.name in ACTING and step.started_at is not None for step in operation.steps)
    return Message("ended_early" if begun else "nothing_changed")
