"""One operation in full: every step with its times, every receipt with its figures."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from webapp.domain.operation import HeldBy, Operation, Receipt, Step, StepState
from webapp.web import formats, words
from webapp.web.operations.presenters.operations import OperationView, kept_log, operation_view, step_said
from webapp.web.operations.presenters.postmortem import PostMortemView, post_mortem_view
from webapp.web.phrases import where
from webapp.web.translate import gettext as _
from webapp.web.versions import Versioned
from webapp.web.words import names


@dataclass(frozen=True)
class Fact:
    """A figure or a name with its label."""

    label: str
    text: str


@dataclass(frozen=True)
class StepRow:
    """One step; ``since`` is set while it runs."""

    name: str
    word: str
    state: str
    state_word: str
    at: str
    took: str
    since: float | None
    message: str


@dataclass(frozen=True)
class HeldRow:
    """A process that still holds memory."""

    size: str
    process: str
    command: str


@dataclass(frozen=True)
class ReceiptCard:
    """The memory freed on one device."""

    title: str
    ok: bool
    verdict: str
    facts: tuple[Fact, ...]
    held: tuple[HeldRow, ...]


@dataclass(frozen=True)
class OperationPage(Versioned):
    """The page of one operation."""

    operation: OperationView
    facts: tuple[Fact, ...]
    steps: tuple[StepRow, ...]
    receipts: tuple[ReceiptCard, ...]
    post_mortem: PostMortemView | None


def operation_page(operation: Operation, listed: Collection[str] = ()) -> OperationPage:
    """Return the view of ``operation``; ``listed`` are the instances whose log can be read."""
    return OperationPage(
        operation=operation_view(operation, listed),
        facts=_facts(operation),
        steps=tuple(_step(step) for step in operation.steps),
        receipts=tuple(_receipt(receipt) for receipt in operation.receipts),
        post_mortem=post_mortem_view(operation.post_mortem, log_is_shown=kept_log(operation) is not None),
    )


def _facts(operation: Operation) -> tuple[Fact, ...]:
    ended = None if operation.ended_at is None else formats.full_moment(operation.ended_at)
    said = (
        (_("Who"), operation.actor),
        (_("Started"), formats.full_moment(operation.started_at)),
        (_("Ended"), ended),
        (_("Model"), operation.model_id),
        (_("Mode"), None if operation.mode is None else words.word(names.MODES, operation.mode)),
        (_("Device"), words.capital(where(operation.devices)) if operation.devices else None),
        (_("Unloaded to make room"), ", ".join(operation.evicted)),
        (_("Cancelled by"), operation.cancel_requested_by),
        (_("Id"), operation.id),
    )
    return tuple(Fact(label, text) for label, text in said if text)


def _step(step: Step) -> StepRow:
    running = step.state is StepState.RUNNING
    return StepRow(
        name=step.name.value,
        word=words.word(names.STEP_NAMES, step.name),
        state=step.state.value,
        state_word=words.word(names.STEP_STATES, step.state),
        at="" if step.started_at is None else formats.time_of_day(step.started_at),
        took=""
        if step.started_at is None or step.ended_at is None
        else formats.duration(step.ended_at - step.started_at),
        since=step.started_at if running else None,
        message=" · ".join(step_said(step)),
    )


def _receipt(receipt: Receipt) -> ReceiptCard:
    device = words.capital(words.device_label(receipt.device_id))
    ok = receipt.settled and receipt.freed_bytes is not None and not receipt.still_held_by
    return ReceiptCard(
        title=device if receipt.model_id is None else f"{device} · {receipt.model_id}",
        ok=ok,
        verdict=_verdict(receipt, ok=ok),
        facts=(
            Fact(_("Expected"), formats.size(receipt.expected_bytes)),
            Fact(_("Freed"), formats.size(receipt.freed_bytes)),
            Fact(_("Of that, the model"), formats.size(receipt.model_freed_bytes)),
            Fact(_("Other processes meanwhile"), _others(receipt.others_bytes)),
            Fact(_("Time taken"), formats.duration(receipt.seconds)),
        ),
        held=tuple(_held(holder) for holder in receipt.still_held_by),
    )


def _verdict(receipt: Receipt, *, ok: bool) -> str:
    if receipt.freed_bytes is None:
        return _("unknown: the device cannot be read")
    if ok:
        return _("the memory was freed")
    return _("not all of it was freed") if receipt.settled is False else _("part of it is still held")


def _others(size: int | None) -> str:
    """Return what other processes took (positive) or freed (negative) in the meantime, as text."""
    if size is None:
        return formats.unknown()
    if size == 0:
        return _("changed nothing")
    if size > 0:
        return _("took %(size)s", size=formats.size(size))
    return _("freed %(size)s", size=formats.size(-size))


def _held(holder: HeldBy) -> HeldRow:
    user = holder.user or _("unknown user")
    state = "" if holder.state is None else f" · {holder.state}"
    return HeldRow(
        size=formats.size(holder.used_bytes),
        process=_("process %(pid)s (%(user)s)", pid=holder.pid, user=user) + state,
        command=holder.command or formats.unknown(),
    )
