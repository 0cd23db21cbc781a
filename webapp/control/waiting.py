"""Requests that wait for room: a line that is kept in the store, looked at whenever something has changed, and started by itself.

A ticket has no rights of its own: its start is the controller's own ``switch`` in its person's name, with the plan, the claims
and the check that every switch has.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from webapp.control.audit import ticket_started
from webapp.control.parts import Parts
from webapp.control.switching import new_id
from webapp.domain.instance import InstanceState
from webapp.domain.operation import Operation, OperationState
from webapp.domain.plan import SwitchRequest
from webapp.domain.waiting import (
    MOST_TRIES,
    Queued,
    Ticket,
    TicketState,
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
    AlreadyLoaded,
    ForeignTicket,
    NotCancellable,
    Refused,
    StoreUnavailable,
    TicketEnded,
    Unavailable,
    UnknownOperation,
    UnknownTicket,
    WardenError,
)
from webapp.message import Message

log = logging.getLogger(__name__)

ENDED_KEPT = 20
"""Ended tickets that are kept at hand and in the store, so that a person learns how theirs ended."""
STOP_S = 5.0
"""How long a stop waits for a look under way."""


@dataclass(frozen=True)
class Line:
    """The tickets at one moment. ``version`` rises with every change that a page shows."""

    queued: tuple[Queued, ...] = ()
    """The open ones, in their places."""
    ended: tuple[Ticket, ...] = ()
    """Those that ended lately, newest first."""
    version: int = 0


@dataclass(frozen=True)
class Calls:
    """What the line asks of the controller."""

    switch: Callable[[SwitchRequest, str], Operation]
    cancel: Callable[[str, str], Operation]
    operation: Callable[[str], Operation]


class Waiting:
    """Holds the tickets, and the thread that looks at them. Every change is decided and made in one locked block."""

    def __init__(self, parts: Parts, calls: Calls) -> None:
        self._parts = parts
        self._calls = calls
        self._lock = threading.Lock()
        self._tickets: dict[str, Ticket] = {}
        self._line = Line()
        self._unsaved: dict[str, Ticket] = {}
        self._writing = threading.Lock()
        """Held during a write alone, so that an older value of a ticket is never written over a newer one."""
        self._looking = threading.Lock()
        """Held while the line is judged, so that an older judgement is never shown after a newer one."""
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def line(self) -> Line:
        """The tickets as last looked at; a reference, so reading it never waits."""
        return self._line

    # Life

    def start(self) -> None:
        """Take up what was waiting when an earlier Warden ended, and begin to look."""
        with self._lock:
            self._tickets = {ticket.id: ticket for ticket in self._kept()}
            for ticket in in_order(self._tickets.values()):
                if ticket.state is TicketState.STARTING and ticket.operation_id is None:
                    self._put(ticket.to(TicketState.WAITING))  # cut off before it had an operation
        self._wake.set()
        self._thread = threading.Thread(target=self._run, name="warden-waiting", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Start nothing more, and write what is left."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(STOP_S)
            self._thread = None
        self._save()

    def nudge(self) -> None:
        """Look soon: something may have changed. Never waits."""
        self._wake.set()

    def _kept(self) -> tuple[Ticket, ...]:
        if self._parts.tickets is None:
            return ()
        try:
            return self._parts.tickets.tickets()
        except StoreUnavailable as exc:
            log.warning("requests that were waiting cannot be read: %s", exc)
            return ()

    # What a person does

    def take(self, request: SwitchRequest, actor: str, *, starts_by_itself: bool) -> Queued:
        """Take a ticket; it is in the store when this returns.

        Raises:
            NotFound, InvalidRequest, Refused, CannotWait: see ``check_admissible``.
            QueueFull, AlreadyWaiting: see ``check_place``.
            StoreUnavailable: it could not be kept, so it was not taken.
        """
        check_admissible(request, self._parts.world(actor=actor))
        ticket = self._enter(request, actor, starts_by_itself)
        try:
            self._write()
        except StoreUnavailable:
            if self._drop(ticket.id):
                raise
        self._look_at_line()
        self._wake.set()
        return self._queued(ticket.id)

    def cancel(self, ticket_id: str, actor: str, *, is_administrator: bool) -> Ticket:
        """Take a ticket back; one that is being started takes its operation along.

        Raises UnknownTicket, TicketEnded, ForeignTicket, and NotCancellable where its model is there already.
        """
        ticket = self._find(ticket_id, actor, is_administrator)
        if ticket.state is TicketState.STARTING and ticket.operation_id is not None:
            self._calls.cancel(ticket.operation_id, actor)
        self._end(ticket_id, TicketState.CANCELLED)
        log.info("ticket %s of %s was taken back by %s", ticket_id, ticket.actor, actor)
        self._settle_line()
        return self._tickets[ticket_id]

    def resume(self, ticket_id: str, actor: str, *, is_administrator: bool) -> Queued:
        """Let a ticket go on that an emergency has paused; idempotent. Raises UnknownTicket, TicketEnded, ForeignTicket."""
        self._find(ticket_id, actor, is_administrator)
        with self._lock:
            if (ticket := self._tickets[ticket_id]).is_open:
                self._put(replace(ticket, paused_by=None))
        self._settle_line()
        self._wake.set()
        return self._queued(ticket_id)

    def start_now(self, ticket_id: str, actor: str, *, is_administrator: bool) -> Operation:
        """Start a ticket because a person says so, whoever is before it; it may be refused for all that a switch may.

        Raises UnknownTicket, TicketEnded, ForeignTicket, and what ``switch`` raises; the ticket then waits on.
        """
        ticket = self._find(ticket_id, actor, is_administrator)
        request = self._request_of(ticket)
        if not self._move(ticket, _starting):
            raise _ended(self._tickets[ticket_id])
        try:
            operation = self._calls.switch(request, ticket.actor)
        except Exception:
            self._back(ticket_id)
            self._settle_line()
            raise
        self._began(ticket_id, operation)
        self._settle_line()
        return operation

    def pause(self, actor: str) -> None:
        """Let nothing start by itself that waits now: an emergency of ``actor`` begins. Never waits."""
        with self._lock:
            for ticket in in_order(self._tickets.values()):
                if ticket.starts_by_itself and ticket.paused_by is None:
                    self._put(replace(ticket, paused_by=actor))
        self._wake.set()

    # Tickets

    def _enter(self, request: SwitchRequest, actor: str, starts_by_itself: bool) -> Ticket:
        limit = self._parts.settings.ticket_limit
        with self._lock:
            check_place(self._tickets.values(), request, actor, limit)
            ticket = Ticket(
                id=new_id(),
                number=1 + max((ticket.number for ticket in self._tickets.values()), default=0),
                request=request,
                actor=actor,
                created_at=self._parts.clock(),
                starts_by_itself=starts_by_itself,
            )
            self._put(ticket)
        log.info("ticket %s: %s waits for %s", ticket.id, actor, request.model_id)
        return ticket

    def _drop(self, ticket_id: str) -> bool:
        """Forget a ticket that could not be kept; False when it has been started meanwhile and stays."""
        with self._lock:
            if self._tickets[ticket_id].state not in (TicketState.WAITING, TicketState.READY):
                return False
            self._tickets = {key: value for key, value in self._tickets.items() if key != ticket_id}
            self._unsaved.pop(ticket_id, None)
            return True

    def _find(self, ticket_id: str, actor: str, is_administrator: bool) -> Ticket:
        ticket = self._tickets.get(ticket_id)
        if ticket is None:
            raise UnknownTicket(ticket=ticket_id)
        if not ticket.is_open:
            raise _ended(ticket)
        if not may_cancel(ticket, actor, is_administrator):
            raise ForeignTicket(ticket=ticket_id, actor=ticket.actor)
        return ticket

    def _put(self, ticket: Ticket) -> None:
        """Enter a value; under the lock."""
        if self._tickets.get(ticket.id) == ticket:
            return
        self._tickets = {**self._tickets, ticket.id: ticket}
        self._unsaved[ticket.id] = ticket

    # Looking

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.wait()
            self._wake.clear()
            if self._stop.is_set():
                return
            try:
                self.look()
            except Exception:  # the top of the thread: the next look may go well
                log.exception("a look at the waiting requests failed")

    def look(self) -> None:
        """Settle what has ended, start what fits, and tell whom it concerns; costs nothing while nobody waits."""
        if in_order(self._tickets.values()) or self._line.queued:
            self._settle_starts()
            self._expire()
            self._end_without_right()
            while (one := next_to_start(self._look_at_line())) is not None and not self._stop.is_set():
                if not self._start(one):
                    break  # the world is not as it was judged: look again when something changes
            self._look_at_line()
        self._save()

    def _settle_line(self) -> None:
        self._look_at_line()
        self._save()

    def _look_at_line(self) -> tuple[Queued, ...]:
        """Judge every open ticket on one reading, tell whom that concerns, and make the line readable."""
        with self._looking:
            running, world = self._parts.board.state.running, self._parts.world()
            queued = line_up(self._tickets.values(), lambda ticket, held: judge(ticket, held, world, running))
            for one in queued:
                self._note(one, world.now)
            return self._publish(queued)

    def _note(self, one: Queued, now: float) -> None:
        """Tell a person that it fits, take that back where it does so no more, and end what waits in vain."""
        ticket = one.ticket
        if one.is_over:
            there = one.why is not None and one.why.code == AlreadyLoaded.code
            self._move(ticket, lambda t: t.ended(TicketState.STARTED if there else TicketState.FAILED, now, one.why))
        elif ticket.state is TicketState.READY and not one.fits:
            self._move(ticket, lambda t: t.to(TicketState.WAITING, told_at=None))
        elif ticket.state is TicketState.WAITING and one.fits and not ticket.starts_by_itself:
            self._move(ticket, lambda t: t.to(TicketState.READY, told_at=now))
            log.info("ticket %s of %s: it fits now", ticket.id, ticket.actor)

    def _move(self, seen: Ticket, change: Callable[[Ticket], Ticket]) -> bool:
        """Replace a ticket that is not being started, unless it is not as it was seen any more."""
        with self._lock:
            if self._tickets.get(seen.id) != seen or seen.state is TicketState.STARTING:
                return False
            self._put(change(seen))
            return True

    def _publish(self, queued: tuple[Queued, ...]) -> tuple[Queued, ...]:
        """Make the line readable with the newest values of the tickets; those that have ended leave it."""
        with self._lock:
            tickets = self._tickets
            newest = (replace(one, ticket=tickets[one.ticket.id]) for one in queued if one.ticket.id in tickets)
            still = [one for one in newest if one.ticket.is_open]
            line = tuple(replace(one, place=place) for place, one in enumerate(still, 1))
            ended = sorted((t for t in tickets.values() if not t.is_open), key=lambda t: t.ended_at or 0, reverse=True)
            self._tickets = {t.id: t for t in (*in_order(tickets.values()), *ended[:ENDED_KEPT])}
            if (line, tuple(ended[:ENDED_KEPT])) != (self._line.queued, self._line.ended):
                self._line = Line(line, tuple(ended[:ENDED_KEPT]), self._line.version + 1)
        return line

    def _queued(self, ticket_id: str) -> Queued:
        """A ticket as last judged; one that was not yet stands at the end and fits nowhere."""
        line = self._line.queued
        found = next((one for one in line if one.ticket.id == ticket_id), None)
        return found or Queued(self._tickets[ticket_id], len(line) + 1, Message("waits_judgement"))

    # Starting

    def _request_of(self, ticket: Ticket) -> SwitchRequest:
        """What would be started now: as asked, on the devices that were found for it where that fits."""
        queued = self._queued(ticket.id)
        fitting = queued.request if queued.fits else None
        return fitting or still_asked(ticket.request, self._parts.world())

    def _start(self, one: Queued) -> bool:
        """Start the ticket whose turn it is; False when it was not to be."""
        ticket = one.ticket
        if not self._may_start(ticket) or not self._move(ticket, _starting):
            return False  # taken back or paused while it was judged
        try:
            operation = self._calls.switch(one.request or ticket.request, ticket.actor)
        except (Refused, Unavailable) as exc:
            log.info("ticket %s is not started: %s", ticket.id, exc)
            self._back(ticket.id)
            return False
        except WardenError as exc:
            self._end(ticket.id, TicketState.FAILED, exc.message)
            return False
        except Exception:
            self._end(
                ticket.id, TicketState.FAILED, Message("unexpected")
            )  # a defect must not start it again and again
            raise
        self._parts.record(ticket_started(ticket, self._parts.clock(), operation.id))
        return self._began(ticket.id, operation)

    def _may_start(self, ticket: Ticket) -> bool:
        """Whether its person may load models at this moment; who may not, the next look ends."""
        try:
            return self._parts.may_switch(ticket.actor)
        except StoreUnavailable as exc:
            log.info("ticket %s is not started: %s", ticket.id, exc)
            return False

    def _began(self, ticket_id: str, operation: Operation) -> bool:
        """Note the operation; where the ticket was taken back or paused meanwhile, the operation is not wanted any more."""
        with self._lock:
            ticket = self._tickets[ticket_id]
            wanted = ticket.state is TicketState.STARTING and ticket.paused_by is None
            if ticket.state is TicketState.STARTING:
                self._put(replace(ticket, operation_id=operation.id))
        log.info("ticket %s of %s is started: operation %s", ticket_id, ticket.actor, operation.id)
        if not wanted:
            self._cancel_unwanted(operation, ticket.paused_by or ticket.actor)
        return wanted

    def _cancel_unwanted(self, operation: Operation, actor: str) -> None:
        try:
            self._calls.cancel(operation.id, actor)
        except (NotCancellable, UnknownOperation) as exc:
            log.info("operation %s is not cancelled: %s", operation.id, exc)

    def _back(self, ticket_id: str, **changes: object) -> None:
        """Let a ticket that was being started wait on in its place."""
        with self._lock:
            ticket = self._tickets[ticket_id]
            if ticket.state is TicketState.STARTING:
                self._put(ticket.to(TicketState.WAITING, operation_id=None, **changes))

    def _end(self, ticket_id: str, state: TicketState, outcome: Message | None = None) -> None:
        """End a ticket, unless it has ended already."""
        now = self._parts.clock()
        with self._lock:
            ticket = self._tickets[ticket_id]
            if ticket.is_open:
                self._put(ticket.ended(state, now, outcome))

    def _settle_starts(self) -> None:
        for ticket in in_order(self._tickets.values()):
            if ticket.state is TicketState.STARTING:
                self._settle_start(ticket)

    def _settle_start(self, ticket: Ticket) -> None:
        """See what became of a start; one without an operation was cut off before it had one, unless it is being made just now."""
        operation = self._operation_of(ticket)
        if operation is None or operation.is_running:
            return
        if operation.state in (OperationState.SUCCEEDED, OperationState.WARNING) or self._runs(operation):
            self._end(ticket.id, TicketState.STARTED)
        elif came_back(operation):
            self._come_back(ticket, operation)
        else:
            cancelled = operation.state is OperationState.CANCELLED
            self._end(ticket.id, TicketState.CANCELLED if cancelled else TicketState.FAILED, _without_log(operation))

    def _operation_of(self, ticket: Ticket) -> Operation | None:
        if ticket.operation_id is None:
            return None
        try:
            return self._calls.operation(ticket.operation_id)
        except StoreUnavailable:
            return None  # asked again at the next look
        except UnknownOperation:
            self._back(ticket.id)  # it was never written down: nothing is known of it
            return None

    def _runs(self, operation: Operation) -> bool:
        """Whether the model of an operation that was cut off is there all the same: ready models are adopted."""
        instance = self._parts.board.state.instances.get(operation.instance_id or "")
        return instance is not None and instance.state is InstanceState.READY

    def _come_back(self, ticket: Ticket, operation: Operation) -> None:
        """There was no room after all: it waits on, with a pause that doubles, and gives up in the end."""
        if not counts_as_try(operation):
            self._back(ticket.id)
            return
        settings, tries = self._parts.settings, ticket.tries + 1
        if tries >= MOST_TRIES:
            self._end(ticket.id, TicketState.FAILED, _without_log(operation))
            return
        pause_s = min(settings.cooldown_s * 2 ** (tries - 1), settings.cooldown_max_s)
        self._back(ticket.id, tries=tries, not_before=self._parts.clock() + pause_s)
        log.info("ticket %s waits on: operation %s found no room", ticket.id, operation.id)

    def _expire(self) -> None:
        """End what has waited too long, and what was told and left."""
        now, settings = self._parts.clock(), self._parts.settings
        wait_s = settings.ticket_wait_h * 3600
        for ticket in in_order(self._tickets.values()):
            if ticket.told_at is not None and now - ticket.told_at > settings.ticket_hold_s:
                self._expire_one(ticket, Message("ticket_not_fetched", {"seconds": settings.ticket_hold_s}))
            elif ticket.state is not TicketState.STARTING and now - ticket.created_at > wait_s:
                self._expire_one(ticket, Message("ticket_waited_long", {"seconds": wait_s}))

    def _end_without_right(self) -> None:
        """End what waits for people who may load models no more: it would hold its place in vain, and a namesake would find it."""
        waiting = in_order(self._tickets.values())
        for actor in sorted({ticket.actor for ticket in waiting}):
            if self._may_load_no_more(actor):
                for ticket in (one for one in waiting if one.actor == actor):
                    self._end_one_without_right(ticket)

    def _may_load_no_more(self, actor: str) -> bool:
        try:
            return not self._parts.may_switch(actor)
        except StoreUnavailable:
            return False  # asked again at the next look, and before a start

    def _end_one_without_right(self, ticket: Ticket) -> None:
        now, why = self._parts.clock(), Message("ticket_without_right", {"actor": ticket.actor})
        if self._move(ticket, lambda t: t.ended(TicketState.FAILED, now, why)):
            log.info("ticket %s has ended: %s may load models no more", ticket.id, ticket.actor)

    def _expire_one(self, ticket: Ticket, outcome: Message) -> None:
        now = self._parts.clock()
        if self._move(ticket, lambda t: t.ended(TicketState.EXPIRED, now, outcome)):
            log.info("ticket %s of %s has expired: %s", ticket.id, ticket.actor, outcome.code)

    # Writing

    def _save(self) -> None:
        """Write what has changed; what cannot be written now is tried again at the next look."""
        try:
            self._write()
        except StoreUnavailable as exc:
            log.warning("waiting requests were not written down: %s", exc)

    def _write(self) -> None:
        if self._parts.tickets is None:
            return
        with self._writing:
            with self._lock:
                unsaved, self._unsaved = self._unsaved, {}
            try:
                for ticket in unsaved.values():
                    self._parts.tickets.save_ticket(ticket, ENDED_KEPT)
            except StoreUnavailable:
                with self._lock:
                    self._unsaved = {**unsaved, **self._unsaved}
                raise


def _starting(ticket: Ticket) -> Ticket:
    """A person who starts it, or its turn, has overruled a pause."""
    return ticket.to(TicketState.STARTING, operation_id=None, told_at=None, paused_by=None)


def _ended(ticket: Ticket) -> TicketEnded:
    return TicketEnded(ticket=ticket.id, model=ticket.request.model_id, state=ticket.state.value)


def _without_log(operation: Operation) -> Message | None:
    """Why an operation failed; the lines of the log stay with it."""
    error = operation.error
    return None if error is None else Message(error.code, {k: v for k, v in error.params.items() if k != "log"})
