"""The requests that wait for room: their places, what each waits for, and what a person should hear of them."""

from __future__ import annotations

from dataclasses import dataclass

from webapp.control.contract import Snapshot
from webapp.domain.waiting import SATISFIED, Queued, Ticket, TicketState
from webapp.web import words
from webapp.web.presenters.common import SUCCESS, WARNING, options_line, short_name
from webapp.web.translate import gettext as _

ENDED_STAYS_S = 600.0
"""For this long the page says of a ticket that waits no more how it ended."""
UNLUCKY = frozenset({TicketState.FAILED, TicketState.EXPIRED})
TONES = {TicketState.READY: "good", TicketState.STARTING: "accent"}


@dataclass(frozen=True)
class TicketRow:
    """One request that waits. ``news`` is what its person is told where the browser may; ``news_key`` names it once."""

    id: str
    place: int
    model: str
    options: str
    actor: str
    since: float
    state: str
    state_word: str
    tone: str
    why: str
    behind: str
    how: str
    paused: str
    can_start: bool
    news: str
    news_key: str


@dataclass(frozen=True)
class EndedRow:
    """One that waits no more and was not started: in vain, or because its model is there already."""

    id: str
    model: str
    actor: str
    sign: str
    state_word: str
    why: str
    ended_at: float
    news: str
    news_key: str


@dataclass(frozen=True)
class WaitingView:
    """The region: who waits, and whose ticket ended a moment ago without a start."""

    rows: tuple[TicketRow, ...]
    ended: tuple[EndedRow, ...]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show."""
        return not self.rows and not self.ended


def waiting_view(snapshot: Snapshot, now: float) -> WaitingView:
    """Return the region at ``now`` (seconds since the epoch)."""
    lately = (
        t
        for t in snapshot.waited
        if (t.state in UNLUCKY or _is_satisfied(t)) and now - (t.ended_at or 0) < ENDED_STAYS_S
    )
    return WaitingView(tuple(ticket_row(queued) for queued in snapshot.waiting), tuple(map(_ended, lately)))


def ticket_row(queued: Queued) -> TicketRow:
    """Return one request that waits."""
    ticket, request = queued.ticket, queued.ticket.request
    return TicketRow(
        id=ticket.id,
        place=queued.place,
        model=request.model_id,
        options=" · ".join((words.word(words.MODES, request.mode), options_line(request.options))),
        actor=ticket.actor,
        since=ticket.created_at,
        state=ticket.state.value,
        state_word=words.word(words.TICKET_STATES, ticket.state),
        tone="warn" if ticket.paused_by else TONES.get(ticket.state, "plain"),
        why=_why(queued),
        behind=_behind(queued),
        how=_how(ticket),
        paused=_paused(ticket),
        can_start=ticket.state is TicketState.READY,
        news=_news(ticket),
        news_key=f"{ticket.id}-{ticket.state}",
    )


def _why(queued: Queued) -> str:
    if queued.ticket.state is not TicketState.WAITING:
        return ""
    if queued.why is not None:
        return words.say(queued.why)
    return "" if queued.ticket.paused_by is None else _("There is room.")


def _behind(queued: Queued) -> str:
    """Whose ticket goes first; where nothing else is in the way, that is all it waits for."""
    other = queued.behind
    if other is None or queued.ticket.state is TicketState.STARTING:
        return ""
    if queued.why is None:
        return _(
            "There is room, but %(actor)s has waited longer for the same device (%(model)s).",
            actor=other.actor,
            model=short_name(other.request.model_id),
        )
    return _("Before it: %(actor)s, %(model)s.", actor=other.actor, model=short_name(other.request.model_id))


def _how(ticket: Ticket) -> str:
    if ticket.state is TicketState.STARTING:
        return ""
    return _("starts by itself") if ticket.starts_by_itself else _("only tells")


def _paused(ticket: Ticket) -> str:
    if ticket.paused_by is None or ticket.state is TicketState.STARTING:
        return ""
    return _(
        "Paused by the emergency clean-up of %(actor)s. It does not start by itself until somebody lets it go on.",
        actor=ticket.paused_by,
    )


def _news(ticket: Ticket) -> str:
    model = short_name(ticket.request.model_id)
    if ticket.state is TicketState.READY:
        return _("%(model)s fits now and can be started.", model=model)
    return (
        _("There is room for %(model)s, it is starting.", model=model) if ticket.state is TicketState.STARTING else ""
    )


def _is_satisfied(ticket: Ticket) -> bool:
    return ticket.outcome is not None and ticket.outcome.code == SATISFIED


def _ended(ticket: Ticket) -> EndedRow:
    why = "" if ticket.outcome is None else words.say(ticket.outcome)
    word = words.word(words.TICKET_STATES, ticket.state)
    satisfied, model = _is_satisfied(ticket), short_name(ticket.request.model_id)
    news = why if satisfied else _("%(model)s waited in vain: %(why)s", model=model, why=why or word)
    return EndedRow(
        id=ticket.id,
        model=ticket.request.model_id,
        actor=ticket.actor,
        sign=SUCCESS if satisfied else WARNING,
        state_word=_("already loaded") if satisfied else word,
        why=why,
        ended_at=ticket.ended_at or 0,
        news=news,
        news_key=f"{ticket.id}-{ticket.state}",
    )
