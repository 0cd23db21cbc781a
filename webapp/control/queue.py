"""The launch queue: launches that wait for memory are stored, checked whenever something changes, and started
automatically.

A queued launch has no rights of its own: its start is the controller's ``switch`` in its owner's name, with the plan,
the claims and the check of every switch.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache

from webapp.audit.trail import queue_started
from webapp.control.context import Context, new_id
from webapp.control.elapsed import Elapsed
from webapp.control.keeping import not_stored
from webapp.control.pausing import QueuePause
from webapp.domain.instance import InstanceState
from webapp.domain.operation import Operation, OperationState
from webapp.domain.plan import SwitchRequest
from webapp.domain.planning.state import PlanningState
from webapp.domain.queue import (
    MOST_TRIES,
    SATISFIED,
    QueuedLaunch,
    QueueEntry,
    QueueState,
    QueueVerdict,
    came_back,
    check_admissible,
    check_place,
    counts_as_try,
    in_order,
    judge,
    line_up,
    may_cancel,
    next_to_start,
    still_asked,
)
from webapp.errors import (
    ForeignQueuedLaunch,
    NotCancellable,
    QueuedLaunchEnded,
    Refused,
    StoreUnavailable,
    Unavailable,
    UnknownOperation,
    UnknownQueuedLaunch,
    WardenError,
)
from webapp.message import Message
from webapp.rounds import Rounds

log = logging.getLogger(__name__)

ENDED_KEPT = 20
"""Ended launches that are kept in memory and in the store, so that people learn how theirs ended."""
STOP_S = 5.0
"""How long a stop waits for a check in progress."""


@dataclass(frozen=True)
class QueueView:
    """The queue at one moment."""

    queued: tuple[QueueEntry, ...] = ()
    """The open launches, by position."""
    ended: tuple[QueuedLaunch, ...] = ()
    """Launches that ended recently, newest first."""


class LaunchQueue(Rounds):
    """Holds the queued launches and the thread that checks them. Every change is decided and made in one locked block."""

    def __init__(
        self,
        context: Context,
        switch: Callable[[SwitchRequest, str], Operation],
        cancel: Callable[[str, str], Operation],
        find: Callable[[str], Operation],
    ) -> None:
        """``switch``, ``cancel`` and ``find`` are calls of the controller; ``find`` returns an operation by its id."""
        super().__init__("waiting", self.look, None, stop_s=STOP_S)
        self._context = context
        self._switch, self._cancel, self._find = switch, cancel, find
        self._lock = threading.Lock()
        self._launches: dict[str, QueuedLaunch] = {}
        self._pending: frozenset[str] = frozenset()
        """Launches that have not been stored yet: they have a position, but nobody sees them and nothing starts them.
        """
        self._are_read = context.queue_store is None
        """Whether the launches of an earlier Warden were read; until then the next number is unknown."""
        self._left: QueuePause | None = None
        """An emergency's pause of an earlier Warden's launches, until those are read."""
        self._elapsed = Elapsed(context.monotonic)
        self._recorded: frozenset[tuple[str, str]] = frozenset()
        """Errors that are logged already, by launch and type: the queue is checked every second."""
        self._line = QueueView()
        self._unsaved: dict[str, QueuedLaunch] = {}
        self._writing = threading.Lock()
        """Held only during a write, so that an older value of a launch never overwrites a newer one."""
        self._looking = threading.Lock()
        """Held while the queue is judged, so that an older verdict never replaces a newer one."""

    @property
    def line(self) -> QueueView:
        """The queue as of the last check; a reference, so reading it never waits."""
        return self._line

    # Life

    def start(self, left: QueuePause | None = None) -> None:
        """Resume the queue of an earlier Warden, and start checking it; ``left`` is a pause that the store may not
        have.
        """
        self._left = left
        try:
            self._read()
        except StoreUnavailable as exc:
            log.warning("the queue cannot be read yet: %s", exc)
        super().start()

    def stop(self) -> None:
        """Start nothing more, and write pending changes."""
        super().stop()
        self._save()

    def _read(self) -> None:
        """Read the launches of an earlier Warden, once. Raises StoreUnavailable."""
        if self._are_read:
            return
        assert self._context.queue_store is not None
        kept = self._context.queue_store.launches()
        with self._lock:
            self._launches = {**{launch.id: self._taken_up(launch) for launch in kept}, **self._launches}
            self._are_read = True
            if self._left is not None:
                self._pause(self._left.actor, self._left.at)
        self._publish()

    def _taken_up(self, launch: QueuedLaunch) -> QueuedLaunch:
        """Return an earlier Warden's launch as it continues here; its pause starts again, since its monotonic clock is
        lost.
        """
        if launch.is_open:
            waited_s = max(0.0, self._context.clock() - launch.created_at)
            self._elapsed.note((launch.id, "waits"), None, waited_s)
        if launch.not_before is not None:
            launch = replace(
                launch, not_before=self._context.monotonic() + self._context.settings.launch.pause_s(launch.tries)
            )
        cut_off = launch.state is QueueState.STARTING and launch.operation_id is None  # before it had an operation
        return launch.to(QueueState.WAITING) if cut_off else launch

    # People's actions

    def check(self, request: SwitchRequest, actor: str) -> None:
        """Refuse what ``take`` would refuse, without queuing anything.

        Raises NotFound, InvalidRequest, Refused (what waiting cannot change; QueueFull, AlreadyWaiting, CannotWait).
        """
        check_admissible(request, self._context.planning_state(actor=actor))
        check_place(self._launches.values(), request, actor, self._context.settings.queue.limit)

    def take(
        self, request: SwitchRequest, actor: str, *, starts_by_itself: bool, request_id: str | None = None
    ) -> QueueEntry:
        """Queue a launch; it is stored when this returns, and discarded if this raises.

        Raises:
            NotFound, InvalidRequest, Refused, CannotWait: see ``check_admissible``.
            QueueFull, AlreadyWaiting: see ``check_place``.
            NotStored: it could not be stored, so it was not queued.
        """
        check_admissible(request, self._context.planning_state(actor=actor))
        try:
            self._read()
            launch = self._enter(request, actor, starts_by_itself, request_id)
        except StoreUnavailable as exc:
            raise not_stored(exc) from exc
        try:
            judged = next(one for one in self._judge_line() if one.launch.id == launch.id)
            self._keep(launch.id, needs_place=request_id is None)  # a request with an id has its place already
        except BaseException:
            self._drop(launch.id)
            raise
        self._confirm(launch.id)
        log.info("queued launch %s: %s waits for %s", launch.id, actor, request.model_id)
        self._publish((judged,))
        self.nudge()
        return self.entry(launch.id)

    def cancel(self, launch_id: str, actor: str, *, is_administrator: bool = False) -> QueuedLaunch:
        """Remove a launch from the queue, another person's only as an administrator; a start in progress is cancelled
        with it.

        Raises UnknownQueuedLaunch, QueuedLaunchEnded, ForeignQueuedLaunch, and NotCancellable if its model is loaded
        already.
        """
        launch = self._open_one(launch_id, actor, is_administrator)
        if launch.state is QueueState.STARTING and launch.operation_id is not None:
            self._cancel(launch.operation_id, actor)
        self._end(launch_id, QueueState.CANCELLED)
        log.info("queued launch %s of %s was taken back by %s", launch_id, launch.actor, actor)
        self._show()
        return self._launches[launch_id]

    def resume(self, launch_id: str, actor: str, *, is_administrator: bool = False) -> QueueEntry:
        """Resume a launch that an emergency stop has paused; idempotent. Raises UnknownQueuedLaunch, QueuedLaunchEnded,
        ForeignQueuedLaunch.
        """
        self._open_one(launch_id, actor, is_administrator)
        with self._lock:
            if (launch := self._launches[launch_id]).is_open:
                self._put(replace(launch, paused_by=None))
        self._show()
        return self.entry(launch_id)

    def of_request(self, actor: str, request_id: str) -> QueuedLaunch | None:
        """Return the launch that ``actor`` queued under ``request_id``, open or recently ended, or ``None``.

        Raises StoreUnavailable: an earlier Warden's launches are not known yet.
        """
        self._read()
        sent = (actor, request_id)
        return next((launch for launch in self._launches.values() if (launch.actor, launch.request_id) == sent), None)

    def is_stored(self, launch_id: str) -> bool:
        """Return whether the store has the present state of a launch: cancelling and resuming act first."""
        return launch_id not in self._unsaved

    def start_now(self, launch_id: str, actor: str, *, is_administrator: bool = False) -> Operation:
        """Start a queued launch at a person's request, regardless of its position.

        Raises UnknownQueuedLaunch, QueuedLaunchEnded, ForeignQueuedLaunch, and what ``switch`` raises: it then stays
        queued.
        """
        launch = self._open_one(launch_id, actor, is_administrator)
        request = self._request_of(launch)
        if not self._move(launch, _starting):
            raise _ended(self._launches[launch_id])
        try:
            operation = self._switch(request, launch.actor)
        except Exception:
            self._back(launch_id)
            self._show()
            raise
        self._began(launch_id, operation)
        self._show()
        return operation

    def pause(self, actor: str) -> None:
        """Pause the automatic start of all queued launches for ``actor``'s emergency stop; never waits."""
        with self._lock:
            self._pause(actor)
            if not self._are_read:
                self._left = QueuePause(actor, math.inf)  # an earlier Warden's launches are all older
        self.nudge()

    def write_again(self) -> None:
        """Have every launch written again, since the database was recreated; never waits."""
        with self._lock:
            self._unsaved = {**self._launches}
        self.nudge()

    def _pause(self, actor: str, at: float = math.inf) -> None:
        """Pause the launches that were queued at or before ``at``; the lock is held."""
        for launch in in_order(self._launches.values()):
            if launch.starts_by_itself and launch.paused_by is None and launch.created_at <= at:
                self._put(replace(launch, paused_by=actor))

    # Launches

    def _enter(
        self, request: SwitchRequest, actor: str, starts_by_itself: bool, request_id: str | None
    ) -> QueuedLaunch:
        limit = self._context.settings.queue.limit
        with self._lock:
            check_place(self._launches.values(), request, actor, limit)
            launch = QueuedLaunch(
                id=new_id(),
                number=1 + max((launch.number for launch in self._launches.values()), default=0),
                request=request,
                actor=actor,
                created_at=self._context.clock(),
                starts_by_itself=starts_by_itself,
                request_id=request_id,
            )
            self._launches = {**self._launches, launch.id: launch}
            self._pending |= {launch.id}
        return launch

    def _keep(self, launch_id: str, *, needs_place: bool) -> None:
        """Store the present value of a launch that has not been confirmed yet. Raises NotStored."""
        store = self._context.queue_store

        def write() -> None:
            with self._writing:
                if store is not None and (launch := self._launches.get(launch_id)) is not None:
                    store.save(launch, ENDED_KEPT)

        self._context.keeper.now(write, in_request=needs_place)

    def _confirm(self, launch_id: str) -> None:
        """Make a stored launch visible, and let it start."""
        self._elapsed.note((launch_id, "waits"), None)
        with self._lock:
            self._pending -= {launch_id}

    def _drop(self, launch_id: str) -> None:
        """Discard a launch that was not accepted; a late write of it is deleted."""
        with self._lock:
            self._launches = {key: value for key, value in self._launches.items() if key != launch_id}
            self._unsaved.pop(launch_id, None)
            self._pending -= {launch_id}
        if (store := self._context.queue_store) is not None:
            self._context.keeper.later(f"queued launch {launch_id}", lambda: store.drop(launch_id))

    def _open(self) -> tuple[QueuedLaunch, ...]:
        """Return the open launches that are confirmed, in order of arrival."""
        return in_order(launch for launch in self._launches.values() if launch.id not in self._pending)

    def _open_one(self, launch_id: str, actor: str, is_administrator: bool) -> QueuedLaunch:
        launch = self._launches.get(launch_id)
        if launch is None or launch_id in self._pending:
            raise UnknownQueuedLaunch(ticket=launch_id)
        if not launch.is_open:
            raise _ended(launch)
        if not may_cancel(launch, actor, is_administrator):
            raise ForeignQueuedLaunch(ticket=launch_id, actor=launch.actor)
        return launch

    def _put(self, launch: QueuedLaunch) -> None:
        """Replace a launch; the lock is held."""
        if self._launches.get(launch.id) == launch:
            return
        self._launches = {**self._launches, launch.id: launch}
        self._unsaved[launch.id] = launch

    # Checking

    def look(self) -> None:
        """Settle starts that have ended, start what fits, notify people; costs nothing while the queue is empty."""
        try:
            self._read()
            if self._open() or self._line.queued:
                self._look()
        except StoreUnavailable as exc:
            log.warning("the queue cannot be read yet: %s", exc)
        finally:
            self._save()

    def _look(self) -> None:
        self._each(self._open(), self._settle_start)
        self._each(self._open(), self._expire)
        self._end_without_right()
        passed: set[str] = set()
        while (one := next_to_start(self._look_at_line(), passed)) is not None and not self._stopping.is_set():
            passed.add(one.launch.id)  # one that cannot start after all is tried again at the next check
            self._start(one)

    def _each(self, launches: Iterable[QueuedLaunch], act: Callable[[QueuedLaunch], None]) -> None:
        """Call ``act`` with each launch; an unexpected error of one does not affect the others."""
        for launch in launches:
            try:
                act(launch)
            except Exception as exc:  # noqa: BLE001 - one item of a loop; recorded
                self._record(launch, exc)

    def _record(self, launch: QueuedLaunch, exc: Exception) -> None:
        """Log an unexpected error, once for each launch and type."""
        kind = (launch.id, type(exc).__name__)
        if kind not in self._recorded:
            self._recorded = frozenset(known for known in self._recorded if known[0] in self._launches) | {kind}
            log.error("queued launch %s: its check failed", launch.id, exc_info=exc)

    def _show(self) -> None:
        """Publish and store a person's change. The queue is judged later, so no other launch can make this call fail."""
        self._publish()
        self._save()
        self.nudge()

    def _look_at_line(self) -> tuple[QueueEntry, ...]:
        """Judge all open launches on one reading, apply the verdicts, and publish the queue."""
        with self._looking:
            judged = {one.launch.id: one for one in self._judge_line() if one.launch.id not in self._pending}
            now = self._context.clock()
            self._each((one.launch for one in judged.values()), lambda launch: self._note(judged[launch.id], now))
            return self._publish(judged.values())

    def _judge_line(self) -> tuple[QueueEntry, ...]:
        """Judge all open launches on one reading, including unconfirmed ones, which have a position too."""
        running, planning_state = self._context.state.running, self._context.planning_state()
        return line_up(self._launches.values(), lambda launch, held: self._judge(launch, held, planning_state, running))

    def _judge(
        self,
        launch: QueuedLaunch,
        held: frozenset[str],
        planning_state: PlanningState,
        running: Mapping[str, Operation],
    ) -> QueueVerdict:
        """Judge one launch; if that fails, it waits, holds nothing, and says why.

        For an unconfirmed launch the error is raised, so it is not accepted.
        """
        try:
            return judge(launch, held, planning_state, running)
        except Exception as exc:
            if launch.id in self._pending:
                raise
            self._record(launch, exc)
            return QueueVerdict(Message("waits_unjudged", {"detail": type(exc).__name__}))

    def _note(self, one: QueueEntry, now: float) -> None:
        """Mark a launch ready, revoke that if it no longer fits, and end one that can never start or is loaded already."""
        launch = one.launch
        if one.is_over:
            there = one.why is not None and one.why.code == SATISFIED
            self._give_up(launch, QueueState.STARTED if there else QueueState.FAILED, one.why)
        elif launch.state is QueueState.READY and not one.fits:
            self._move(launch, lambda t: t.to(QueueState.WAITING, told_at=None))
        elif launch.state is QueueState.WAITING and one.fits and not launch.starts_by_itself:
            self._move(launch, lambda t: t.to(QueueState.READY, told_at=now))
            log.info("queued launch %s of %s: it fits now", launch.id, launch.actor)

    def _move(self, seen: QueuedLaunch, change: Callable[[QueuedLaunch], QueuedLaunch]) -> bool:
        """Replace a launch, unless it has changed since it was ``seen`` or is being started; return whether it was."""
        with self._lock:
            if self._launches.get(seen.id) != seen or seen.state is QueueState.STARTING:
                return False
            self._put(change(seen))
            return True

    def _publish(self, judged: Iterable[QueueEntry] = ()) -> tuple[QueueEntry, ...]:
        """Publish the queue: the present open launches with their newest verdicts, and the recently ended ones."""
        with self._lock:
            known = {one.launch.id: one for one in (*self._line.queued, *judged)}
            unjudged = Message("waits_judgement")
            line = tuple(
                replace(known.get(launch.id) or QueueEntry(launch, place, unjudged), launch=launch, place=place)
                for place, launch in enumerate(self._open(), 1)
            )
            waiting = in_order(self._launches.values())
            ended = sorted((t for t in self._launches.values() if not t.is_open), key=_ended_at, reverse=True)
            self._launches = {t.id: t for t in (*waiting, *ended[:ENDED_KEPT])}
            self._elapsed.keep([(t.id, what) for t in waiting for what in ("waits", "told")])
            self._line = QueueView(line, tuple(ended[:ENDED_KEPT]))
        return line

    def entry(self, launch_id: str) -> QueueEntry:
        """Return a launch as last judged; one that has left the queue since is placed at its end and fits nowhere."""
        line = self._line.queued
        found = next((one for one in line if one.launch.id == launch_id), None)
        return found or QueueEntry(self._launches[launch_id], len(line) + 1, Message("waits_judgement"))

    # Starting

    def _request_of(self, launch: QueuedLaunch) -> SwitchRequest:
        """Return what a start would request now: on the devices that were found for it, if it fits."""
        queued = self.entry(launch.id)
        fitting = queued.request if queued.fits else None
        return fitting or still_asked(launch.request, self._context.planning_state())

    def _start(self, one: QueueEntry) -> None:
        """Start the launch whose turn it is, unless it was cancelled or paused while it was judged."""
        launch = one.launch
        if self._may_load(launch.actor) is not True or not self._move(launch, _starting):
            return
        try:
            operation = self._switch(one.request or launch.request, launch.actor)
        except (Refused, Unavailable) as exc:
            log.info("queued launch %s is not started: %s", launch.id, exc)
            self._back(launch.id)
        except WardenError as exc:
            self._end(launch.id, QueueState.FAILED, exc.message)
        except Exception as exc:  # noqa: BLE001 - one item of a loop; recorded
            self._record(launch, exc)
            self._end(launch.id, QueueState.FAILED, Message("unexpected"))  # else it would be started again and again
        else:
            self._context.record(queue_started(launch, self._context.clock(), operation.id))
            self._began(launch.id, operation)

    def _may_load(self, actor: str) -> bool | None:
        """Return whether a person may load models, since people's rights change; ``None`` if that is unknown now."""
        try:
            return self._context.may_switch(actor)
        except StoreUnavailable as exc:
            log.info("whether %s may load models is not known: %s", actor, exc)
            return None

    def _began(self, launch_id: str, operation: Operation) -> None:
        """Note the operation of a start, and cancel it if the launch was cancelled or paused in the meantime."""
        with self._lock:
            launch = self._launches[launch_id]
            wanted = launch.state is QueueState.STARTING and launch.paused_by is None
            if launch.state is QueueState.STARTING:
                self._put(replace(launch, operation_id=operation.id))
        log.info("queued launch %s of %s is started: operation %s", launch_id, launch.actor, operation.id)
        if not wanted:
            self._cancel_unwanted(operation, launch.paused_by or launch.actor)

    def _cancel_unwanted(self, operation: Operation, actor: str) -> None:
        try:
            self._cancel(operation.id, actor)
        except (NotCancellable, UnknownOperation) as exc:
            log.info("operation %s is not cancelled: %s", operation.id, exc)

    def _back(self, launch_id: str, **changes: object) -> None:
        """Put a launch that was being started back in its position."""
        with self._lock:
            launch = self._launches[launch_id]
            if launch.state is QueueState.STARTING:
                self._put(launch.to(QueueState.WAITING, operation_id=None, **changes))

    def _end(self, launch_id: str, state: QueueState, outcome: Message | None = None) -> None:
        """End a launch, unless it has ended already."""
        now = self._context.clock()
        with self._lock:
            launch = self._launches[launch_id]
            if launch.is_open:
                self._put(launch.ended(state, now, outcome))

    def _settle_start(self, launch: QueuedLaunch) -> None:
        """Apply the result of a start whose operation has ended."""
        operation = self._operation_of(launch) if launch.state is QueueState.STARTING else None
        if operation is None or operation.is_running:
            return
        if operation.state in (OperationState.SUCCEEDED, OperationState.WARNING) or self._runs(operation):
            self._end(launch.id, QueueState.STARTED)
        elif came_back(operation):
            self._come_back(launch, operation)
        else:
            cancelled = operation.state is OperationState.CANCELLED
            self._end(launch.id, QueueState.CANCELLED if cancelled else QueueState.FAILED, _without_log(operation))

    def _operation_of(self, launch: QueuedLaunch) -> Operation | None:
        if launch.operation_id is None:
            return None
        try:
            return self._find(launch.operation_id)
        except StoreUnavailable:
            return None  # the next check asks again
        except UnknownOperation:
            self._back(launch.id)  # it was never stored
            return None

    def _runs(self, operation: Operation) -> bool:
        """Return whether the model of an interrupted operation is loaded all the same: ready models are adopted."""
        instance = self._context.state.instances.get(operation.instance_id or "")
        return instance is not None and instance.state is InstanceState.READY

    def _come_back(self, launch: QueuedLaunch, operation: Operation) -> None:
        """Put a launch back in its position after a start that found no room: after a doubling pause, and only a few
        times.
        """
        if not counts_as_try(operation):
            self._back(launch.id)
            return
        tries = launch.tries + 1
        if tries >= MOST_TRIES:
            self._end(launch.id, QueueState.FAILED, _without_log(operation))
            return
        self._back(
            launch.id, tries=tries, not_before=self._context.monotonic() + self._context.settings.launch.pause_s(tries)
        )
        log.info("queued launch %s waits on: operation %s found no room", launch.id, operation.id)

    def _expire(self, launch: QueuedLaunch) -> None:
        """End a launch that has waited too long, or whose owner was notified and did not start it."""
        settings, elapsed = self._context.settings, self._elapsed
        wait_s, waits, told = settings.queue.wait_hours * 3600, (launch.id, "waits"), (launch.id, "told")
        elapsed.note(waits, None)
        elapsed.note(told, launch.told_at)
        if launch.told_at is not None and elapsed.seconds(told, launch.told_at) > settings.queue.hold_s:
            self._give_up(launch, QueueState.EXPIRED, Message("ticket_not_fetched", {"seconds": settings.queue.hold_s}))
        elif elapsed.seconds(waits, None) > wait_s:
            self._give_up(launch, QueueState.EXPIRED, Message("ticket_waited_long", {"seconds": wait_s}))

    def _end_without_right(self) -> None:
        """End the launches of people who lost the right to load models: they would block the queue, and a new account
        of the same name would inherit them.
        """
        may_load = cache(self._may_load)  # asks once a person

        def end(launch: QueuedLaunch) -> None:
            if may_load(launch.actor) is False:
                self._give_up(launch, QueueState.FAILED, Message("ticket_without_right", {"actor": launch.actor}))

        self._each(self._open(), end)

    def _give_up(self, launch: QueuedLaunch, state: QueueState, why: Message | None) -> None:
        """End a launch that waits, unless it has changed or is being started."""
        now = self._context.clock()
        if self._move(launch, lambda t: t.ended(state, now, why)):
            log.info("queued launch %s of %s has ended: %s", launch.id, launch.actor, why.code if why else state.value)

    # Writing

    def _save(self) -> None:
        """Store changed launches; those that cannot be stored now are retried at the next check."""
        with self._writing:
            with self._lock:
                unsaved = {key: launch for key, launch in self._unsaved.items() if key not in self._pending}
                self._unsaved = {key: launch for key, launch in self._unsaved.items() if key in self._pending}
            written: set[str] = set()
            try:
                written.update(launch.id for launch in unsaved.values() if self._is_written(launch))
            except StoreUnavailable as exc:  # no further attempts: each would wait for the store
                log.warning("queued launches were not stored: %s", exc)
            with self._lock:
                left = {key: launch for key, launch in unsaved.items() if key not in written}
                self._unsaved = {**left, **self._unsaved}
            if self._context.pause_mark is not None:
                self._context.pause_mark.clear(self._has_stored_all)

    def _has_stored_all(self) -> bool:
        """Return whether the store has the present value of every launch and operation."""
        return self._are_read and not self._unsaved and self._context.journal.has_all

    def _is_written(self, launch: QueuedLaunch) -> bool:
        """Store a launch; log an error that concerns only this one and return False. Raises StoreUnavailable."""
        try:
            if self._context.queue_store is not None:
                self._context.queue_store.save(launch, ENDED_KEPT)
        except StoreUnavailable:
            raise
        except Exception as exc:  # noqa: BLE001 - one item of a loop; recorded
            self._record(launch, exc)
            return False
        return True


def _ended_at(launch: QueuedLaunch) -> float:
    return launch.ended_at or 0.0


def _starting(launch: QueuedLaunch) -> QueuedLaunch:
    """Return a launch as it is being started, which ends a pause."""
    return launch.to(QueueState.STARTING, operation_id=None, told_at=None, paused_by=None)


def _ended(launch: QueuedLaunch) -> QueuedLaunchEnded:
    return QueuedLaunchEnded(ticket=launch.id, model=launch.request.model_id, state=launch.state.value)


def _without_log(operation: Operation) -> Message | None:
    """Return why an operation failed, without the lines of its log."""
    error = operation.error
    return None if error is None else Message(error.code, {k: v for k, v in error.params.items() if k != "log"})
