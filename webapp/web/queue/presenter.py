"""The launch queue: the place of each launch, what it waits for, and its news for its person."""

from __future__ import annotations

from dataclasses import dataclass

from webapp.control.contract import Snapshot
from webapp.domain.queue import SATISFIED, QueuedLaunch, QueueEntry, QueueState
from webapp.web import words
from webapp.web.phrases import SUCCESS, WARNING, options_line, short_name
from webapp.web.translate import gettext as _
from webapp.web.words import names

ENDED_STAYS_S = 600.0
"""How long the page shows the result of a launch that has left the queue."""
UNLUCKY = frozenset({QueueState.FAILED, QueueState.EXPIRED})
TONES = {QueueState.READY: "good", QueueState.STARTING: "accent"}


@dataclass(frozen=True)
class QueueRow:
    """One queued launch. ``news`` is the text of its person's browser notification, ``news_key`` makes it unique."""

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
class EndedQueueRow:
    """A launch that left the queue without a start: it expired or failed, or its model is loaded already."""

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
class QueueSection:
    """The region: queued launches, and those that just left the queue without a start."""

    rows: tuple[QueueRow, ...]
    ended: tuple[EndedQueueRow, ...]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show."""
        return not self.rows and not self.ended


def waiting_view(snapshot: Snapshot, now: float) -> QueueSection:
    """Return the region at ``now`` (seconds since the epoch)."""
    lately = (
        t
        for t in snapshot.waited
        if (t.state in UNLUCKY or _is_satisfied(t)) and now - (t.ended_at or 0) < ENDED_STAYS_S
    )
    return QueueSection(tuple(queue_row(queued) for queued in snapshot.waiting), tuple(map(_ended, lately)))


def queue_row(queued: QueueEntry) -> QueueRow:
    """Return the row of one queued launch."""
    launch, request = queued.launch, queued.launch.request
    return QueueRow(
        id=launch.id,
        place=queued.place,
        model=request.model_id,
        options=" · ".join((words.word(names.MODES, request.mode), options_line(request.options))),
        actor=launch.actor,
        since=launch.created_at,
        state=launch.state.value,
        state_word=words.word(names.QUEUE_STATES, launch.state),
        tone="warn" if launch.paused_by else TONES.get(launch.state, "plain"),
        why=_why(queued),
        behind=_behind(queued),
        how=_how(launch),
        paused=_paused(launch),
        can_start=launch.state is QueueState.READY,
        news=_news(launch),
        news_key=f"{launch.id}-{launch.state}",
    )


def _why(queued: QueueEntry) -> str:
    if queued.launch.state is not QueueState.WAITING:
        return ""
    if queued.why is not None:
        return words.say(queued.why)
    return "" if queued.launch.paused_by is None else _("There is room.")


def _behind(queued: QueueEntry) -> str:
    """Return who is ahead in the queue, and whether that is all that the launch waits for."""
    other = queued.behind
    if other is None or queued.launch.state is QueueState.STARTING:
        return ""
    if queued.why is None:
        return _(
            "There is room, but %(actor)s joined the queue for the same device earlier (%(model)s).",
            actor=other.actor,
            model=short_name(other.request.model_id),
        )
    return _("Ahead in the queue: %(actor)s, %(model)s.", actor=other.actor, model=short_name(other.request.model_id))


def _how(launch: QueuedLaunch) -> str:
    if launch.state is QueueState.STARTING:
        return ""
    return _("starts automatically") if launch.starts_by_itself else _("notify only")


def _paused(launch: QueuedLaunch) -> str:
    if launch.paused_by is None or launch.state is QueueState.STARTING:
        return ""
    return _(
        "Paused by an emergency clean-up that %(actor)s started. It will not start until somebody resumes it.",
        actor=launch.paused_by,
    )


def _news(launch: QueuedLaunch) -> str:
    model = short_name(launch.request.model_id)
    if launch.state is QueueState.READY:
        return _("%(model)s fits now and can be started.", model=model)
    return _("There is room for %(model)s; it is starting.", model=model) if launch.state is QueueState.STARTING else ""


def _is_satisfied(launch: QueuedLaunch) -> bool:
    return launch.outcome is not None and launch.outcome.code == SATISFIED


def _ended(launch: QueuedLaunch) -> EndedQueueRow:
    why = "" if launch.outcome is None else words.say(launch.outcome)
    word = words.word(names.QUEUE_STATES, launch.state)
    satisfied, model = _is_satisfied(launch), short_name(launch.request.model_id)
    news = (
        why if satisfied else _("%(model)s could not be loaded from the queue: %(why)s", model=model, why=why or word)
    )
    return EndedQueueRow(
        id=launch.id,
        model=launch.request.model_id,
        actor=launch.actor,
        sign=SUCCESS if satisfied else WARNING,
        state_word=_("already loaded") if satisfied else word,
        why=why,
        ended_at=launch.ended_at or 0,
        news=news,
        news_key=f"{launch.id}-{launch.state}",
    )
