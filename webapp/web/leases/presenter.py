"""Leases on the page: the terms in a row, the two dialogs, and the banner with a person's requests and notices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from webapp.control.contract import Snapshot
from webapp.domain.idle import LAST_MINUTE_S, idle_minutes
from webapp.domain.instance import Instance, InstanceState
from webapp.message import Message
from webapp.web import formats, words
from webapp.web.leases import form as lease_form
from webapp.web.phrases import Choice, short_name
from webapp.web.translate import gettext as _
from webapp.web.versions import Versioned

MINUTE_S = 60
SHOWN_LIMIT = 5
"""How many notices the page shows at once; the newest are shown."""


@dataclass(frozen=True)
class Viewer:
    """The viewer's part of the cache key. People without instances share one rendering."""

    own: frozenset[str] = frozenset()
    """The viewer's instances."""
    given: frozenset[str] = frozenset()
    """Instances that were released for the viewer."""

    @classmethod
    def of(cls, actor: str, snapshot: Snapshot) -> Viewer:
        """Return the viewer for ``actor``."""
        instances = snapshot.instances
        return cls(
            frozenset(i.id for i in instances if i.owner == actor),
            frozenset(i.id for i in instances if i.owner != actor and i.lease.is_given_to(actor)),
        )


@dataclass(frozen=True)
class RowContext:
    """The time, the viewer and the server's rules that a row depends on."""

    onlooker: Viewer = field(default_factory=Viewer)
    now: float = 0.0
    idle_minutes: float = 0.0
    idle_unload_at: Mapping[str, float] = field(default_factory=dict)
    """When instances will be unloaded for being idle, by id."""


@dataclass(frozen=True)
class LeaseView:
    """The terms in a row. Moments are in seconds since the epoch."""

    reason: str
    until: float | None
    is_over: bool
    idle_words: str
    """The idle time after which it is unloaded; empty if it is not."""
    goes_at: float | None
    """Set in the last minute before it is unloaded for being idle."""
    asker: str
    asked_at: float | None
    is_own: bool
    must_ask: bool
    """Whether it is another person's and leased or busy, so that unloading it needs a release request."""
    is_ready: bool

    @property
    def is_shown(self) -> bool:
        """Whether there is anything to show or to set."""
        return bool(self.reason or self.until or self.idle_words or self.asker or (self.is_own and self.is_ready))


def lease_view(instance: Instance, view: RowContext) -> LeaseView:
    """Return the terms of ``instance`` for its row."""
    lease, now = instance.lease, view.now
    own = instance.id in view.onlooker.own
    goes_at = view.idle_unload_at.get(instance.id)
    held = lease.runs(now) or instance.may_be_busy
    return LeaseView(
        reason=lease.reason,
        until=lease.until,
        is_over=lease.is_over(now),
        idle_words=_idle_words(instance, view),
        goes_at=goes_at if goes_at is not None and goes_at - now <= LAST_MINUTE_S else None,
        asker=lease.asked.asker if lease.asked else "",
        asked_at=lease.asked.asked_at if lease.asked else None,
        is_own=own,
        must_ask=held and instance.is_live and not own and instance.id not in view.onlooker.given,
        is_ready=instance.state in (InstanceState.READY, InstanceState.SILENT),
    )


def _idle_words(instance: Instance, view: RowContext) -> str:
    minutes = idle_minutes(instance, view.idle_minutes)
    if minutes is None or instance.state is not InstanceState.READY:
        return ""
    return _("unloads after %(time)s idle", time=formats.whole_duration(minutes * MINUTE_S))


def lease_choices(chosen: str, now: float, *, as_it_is: bool = False) -> tuple[Choice, ...]:
    """Return the choices of the lease's end; those that are past today are left out, unless chosen."""
    labels = {
        lease_form.NONE: _("no lease"),
        "1h": _("1 hour"),
        "2h": _("2 hours"),
        lease_form.TO_EVENING: _("until 18:00"),
        lease_form.TO_MORNING: _("until tomorrow, 9:00"),
        lease_form.AT_TIME: _("until a time…"),
    }
    if as_it_is:
        labels = {lease_form.AS_IT_IS: _("keep as is"), **labels}
    passed = set() if lease_form.evening_is_ahead(now) else {lease_form.TO_EVENING}
    return tuple(
        Choice(value, label, value == chosen)
        for value, label in labels.items()
        if value not in passed or value == chosen
    )


def idle_choices(chosen: str, server_minutes: float) -> tuple[Choice, ...]:
    """Return the choices of the idle time after which a model is unloaded."""
    server = formats.whole_duration(server_minutes * MINUTE_S) if server_minutes else _("never")
    labels = {
        "": _("%(time)s (server)", time=server),
        "0": _("never"),
        "15": formats.whole_duration(15 * MINUTE_S),
        "60": formats.whole_duration(60 * MINUTE_S),
    }
    if chosen not in labels and lease_form.is_number(chosen):
        labels[chosen] = formats.whole_duration(float(chosen) * MINUTE_S)
    return tuple(Choice(value, label, value == chosen) for value, label in labels.items())


@dataclass(frozen=True)
class LeaseDialog:
    """The terms of a loaded model, for its owner to change."""

    id: str
    model: str
    view: LeaseView
    leases: tuple[Choice, ...]
    idles: tuple[Choice, ...]


def lease_dialog(instance: Instance, view: RowContext) -> LeaseDialog:
    """Return the dialog of an instance."""
    minutes = instance.lease.idle_minutes
    return LeaseDialog(
        id=instance.id,
        model=instance.model_id,
        view=lease_view(instance, view),
        leases=lease_choices(lease_form.AS_IT_IS, view.now, as_it_is=True),
        idles=idle_choices(lease_form.idle_choice(minutes), view.idle_minutes),
    )


@dataclass(frozen=True)
class ReleaseDialog:
    """The release request to another person."""

    id: str
    model: str
    owner: str
    reasons: tuple[str, ...]
    """Why the model is not simply unloaded."""
    presence: str
    silence: str
    pending: str
    """Shown instead of the form if a request is pending already."""
    may_override: bool


def release_dialog(
    instance: Instance, snapshot: Snapshot, actor: str, now: float, silence_s: float, *, may_override: bool
) -> ReleaseDialog:
    """Return the dialog with which ``actor`` requests the release of an instance."""
    owner, present = instance.owner, instance.owner in snapshot.present
    return ReleaseDialog(
        id=instance.id,
        model=instance.model_id,
        owner=owner,
        reasons=tuple(_why_not(instance, now)),
        presence=_("%(owner)s has the page open and will see the request.", owner=owner)
        if present
        else _("%(owner)s is away: the request will wait.", owner=owner),
        silence=_(
            "If there is no answer for %(time)s while the model is idle and not leased, it counts as released.",
            time=formats.whole_duration(silence_s),
        ),
        pending=_pending(instance, actor),
        may_override=may_override,
    )


def _why_not(instance: Instance, now: float) -> Iterator[str]:
    lease = instance.lease
    if lease.until is not None and lease.runs(now):
        until = formats.moment(lease.until, now)
        left = formats.whole_duration(lease.until - now)
        yield _("Leased until %(until)s (%(left)s left).", until=until, left=left)
    if lease.reason:
        yield _("Purpose: %(reason)s.", reason=lease.reason)
    if instance.in_flight:
        yield _("The model is answering now.")
    elif instance.in_flight is None:
        yield _("It is unknown whether the model is answering now.")


def _pending(instance: Instance, actor: str) -> str:
    asked = instance.lease.asked
    if instance.owner == actor:
        return _("This model is yours: you can unload it.")
    if asked is None:
        return ""
    if asked.asker == actor:
        return _("You have already asked. The answer will appear on this page.")
    return _("%(asker)s is already asking for this model. Wait for the owner’s answer.", asker=asked.asker)


@dataclass(frozen=True)
class AskRow:
    """A release request to the person."""

    instance_id: str
    asker: str
    model: str
    why: str
    asked_at: float


@dataclass(frozen=True)
class NoticeRow:
    """A notice to the person."""

    number: int
    text: str
    at: float


@dataclass(frozen=True)
class GoingRow:
    """A model of the person that somebody else is about to unload."""

    operation_id: str
    actor: str
    models: str
    acts_at: float
    """When it will be unloaded; seconds since the epoch."""
    can_stop: bool


@dataclass(frozen=True)
class Banner(Versioned):
    """The requests and notices to one person, on every page."""

    going: tuple[GoingRow, ...]
    asks: tuple[AskRow, ...]
    notices: tuple[NoticeRow, ...]
    keeping: tuple[str, ...] = ()
    """Why Warden cannot store anything, and what to do, one sentence each."""
    is_watched: bool = False
    """Whether the person has models loaded or in progress, so that news may come at any moment."""


def banner(snapshot: Snapshot, actor: str) -> Banner:
    """Return the banner of ``actor``."""
    told = [notice for notice in snapshot.notices if notice.to == actor]
    return Banner(
        going=tuple(_going(snapshot, actor)),
        asks=tuple(_asks(snapshot, actor)),
        notices=tuple(NoticeRow(n.number, words.say(n.message), n.at) for n in reversed(told[-SHOWN_LIMIT:])),
        keeping=tuple(_keeping(snapshot.store_problem)),
        is_watched=actor in {one.owner for one in snapshot.instances} | {one.actor for one in snapshot.running},
    )


def _keeping(problem: Message | None) -> Iterator[str]:
    if problem is None:
        return
    yield words.say(problem)
    yield _(
        "New leases, queue places and loads are refused. Unloading, cleaning and the emergency clean-up "
        "work and are recorded later."
    )
    if problem.params.get("lost"):
        yield words.say(Message("keeping_lost", {"count": problem.params["lost"]}))


def _going(snapshot: Snapshot, actor: str) -> Iterator[GoingRow]:
    """Yield the person's models that are about to be unloaded: owners are told at once, not only afterwards."""
    for operation in snapshot.running:
        grace = operation.grace
        if grace is None or not operation.is_in_grace or operation.cancel_requested_by is not None:
            continue
        own = [i.model_id for i in snapshot.instances if i.id in grace.instances and i.owner == actor]
        if own:
            models = ", ".join(map(short_name, own))
            yield GoingRow(operation.id, operation.actor, models, grace.until, actor in grace.owners)


def _asks(snapshot: Snapshot, actor: str) -> Iterator[AskRow]:
    for instance in snapshot.instances:
        asked = instance.lease.asked
        if asked is not None and instance.owner == actor:
            yield AskRow(instance.id, asked.asker, short_name(instance.model_id), asked.why, asked.asked_at)
