"""Operations: the card of a running one with its steps, and the short lines of those that ended."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from webapp.domain.operation import (
    Finding,
    HeldBy,
    Operation,
    OperationKind,
    OperationState,
    Receipt,
    Step,
    StepState,
)
from webapp.domain.units import MIB
from webapp.web import formats, words
from webapp.web.launch.form import LaunchForm
from webapp.web.operations.presenters.troubles import TroubleView, operation_trouble
from webapp.web.phrases import FAILURE, SUCCESS, WARNING, short_name
from webapp.web.translate import gettext as _
from webapp.web.words import names

KIND_SIGNS = {
    OperationKind.SWITCH: "🔄",
    OperationKind.UNLOAD: "⏏️",
    OperationKind.CLEAN: "🧹",
    OperationKind.EMERGENCY: "🚨",
    OperationKind.DEMO: "✨",
    OperationKind.STOP_CONTAINER: "🛑",
    OperationKind.SELFTEST: "🔎",
    OperationKind.RESTORE: "↩️",
}
STATE_SIGNS = {
    OperationState.RUNNING: "⏳",
    OperationState.SUCCEEDED: SUCCESS,
    OperationState.WARNING: WARNING,
    OperationState.FAILED: FAILURE,
    OperationState.CANCELLED: WARNING,
    OperationState.ABANDONED: WARNING,
}
TONES = {
    OperationState.RUNNING: "plain",
    OperationState.SUCCEEDED: "good",
    OperationState.WARNING: "warn",
    OperationState.FAILED: "bad",
    OperationState.CANCELLED: "warn",
    OperationState.ABANDONED: "warn",
}
FOREIGN_SHOWN = 6
WORTH_SAYING_BYTES = 64 * MIB
"""Changes of other processes below this are noise."""
AGAINST_THE_ESTIMATE = "loaded_anyway"


@dataclass(frozen=True)
class StepView:
    """One step; ``since`` is set while it runs."""

    name: str
    word: str
    state: str
    state_word: str
    detail: str
    since: float | None


@dataclass(frozen=True)
class ResultLine:
    """One line of a result. ``sign`` is for results that are neither success nor failure."""

    text: str
    ok: bool
    sign: str = ""


@dataclass(frozen=True)
class OperationView:
    """An operation, running or ended."""

    id: str
    kind: str
    sign: str
    title: str
    actor: str
    state: str
    state_word: str
    state_sign: str
    tone: str
    started_at: float
    ended_at: float | None
    took: str
    steps: tuple[StepView, ...]
    percent: int | None
    sentence: str
    lines: tuple[ResultLine, ...]
    receipts: tuple[ResultLine, ...]
    log: str | None
    log_of: str | None
    """The instance that it starts, as long as its log can be read."""
    trouble: TroubleView | None
    """What can be done about its failure, or about what it left behind."""
    is_explained: bool
    """Whether its page explains how its model ran out of memory."""
    can_cancel: bool
    can_end_rollback: bool
    restorable: str
    """The models that one click loads again; empty if there are none."""
    acts_at: float | None = None
    """When it begins to unload other people's models, in seconds since the epoch; until then it can be stopped."""
    owners: tuple[str, ...] = ()
    """The owners of these models, who may stop it until then."""
    again: str | None = None
    """The query that loads the unloaded model again."""

    @property
    def is_running(self) -> bool:
        """Whether it is still running."""
        return self.state == OperationState.RUNNING


def operation_view(operation: Operation, listed: Collection[str] = ()) -> OperationView:
    """Return the view of an operation; ``listed`` are the instances that the page knows."""
    return OperationView(
        id=operation.id,
        kind=operation.kind.value,
        sign=KIND_SIGNS[operation.kind],
        title=_title(operation),
        actor=operation.actor,
        state=operation.state.value,
        state_word=words.word(names.OPERATION_STATES, operation.state),
        state_sign=STATE_SIGNS[operation.state],
        tone=TONES[operation.state],
        started_at=operation.started_at,
        ended_at=operation.ended_at,
        took="" if operation.ended_at is None else formats.duration(operation.ended_at - operation.started_at),
        steps=tuple(_step_view(step) for step in _shown_steps(operation)),
        percent=_percent(operation),
        sentence=_sentence(operation),
        lines=tuple(_finding_line(finding) for finding in operation.findings),
        receipts=tuple(_receipt_line(receipt) for receipt in operation.receipts),
        log=kept_log(operation),
        log_of=operation.instance_id if operation.is_running and operation.instance_id in listed else None,
        trouble=operation_trouble(operation),
        is_explained=operation.post_mortem is not None,
        can_cancel=_can_cancel(operation),
        can_end_rollback=operation.is_running and operation.is_undoing,
        restorable=_restorable(operation),
        acts_at=operation.grace.until if operation.grace is not None and operation.is_in_grace else None,
        owners=operation.grace.owners if operation.grace is not None and operation.is_in_grace else (),
        again=_again(operation),
    )


def _again(operation: Operation) -> str | None:
    """Return the query that loads the unloaded model again and keeps the others."""
    if operation.kind is not OperationKind.UNLOAD or operation.state not in (
        OperationState.SUCCEEDED,
        OperationState.WARNING,
    ):
        return None
    return None if operation.request is None else LaunchForm.of(operation.request).query


def _is_emergency(operation: Operation) -> bool:
    return operation.kind is OperationKind.EMERGENCY


def _title(operation: Operation) -> str:
    kind = words.word(names.KINDS, operation.kind)
    if operation.model_id is None:
        return kind
    target = short_name(operation.model_id)
    if operation.kind is OperationKind.SWITCH:
        return f"{kind} → {target} · {words.word(names.MODES, operation.mode)}"
    return f"{kind}: {target}"


def _shown_steps(operation: Operation) -> tuple[Step, ...]:
    """Return the steps; those that were not needed are left out once the operation has ended."""
    return tuple(step for step in operation.steps if operation.is_running or step.state is not StepState.SKIPPED)


def _step_view(step: Step) -> StepView:
    return StepView(
        name=step.name.value,
        word=words.word(names.STEP_NAMES, step.name),
        state=step.state.value,
        state_word=words.word(names.STEP_STATES, step.state),
        detail=_step_detail(step),
        since=step.started_at if step.state is StepState.RUNNING else None,
    )


def _step_detail(step: Step) -> str:
    if step.state is StepState.SKIPPED:
        return words.word(names.STEP_STATES, step.state)
    # the sentence of a failure is shown below the steps
    failed = step.state is StepState.FAILED
    said = [words.word(names.STEP_STATES, step.state)] if failed else list(step_said(step))
    if step.started_at is not None and step.ended_at is not None:
        said.append(formats.duration(step.ended_at - step.started_at))
    return " · ".join(said)


def step_said(step: Step) -> Iterator[str]:
    """Yield the step's message, and its progress unless the message contains it."""
    if step.message is not None:
        yield words.clause(step.message).removesuffix(".")
    says_percent = step.message is not None and step.message.params.get("percent") is not None
    if step.progress is not None and step.state is StepState.RUNNING and not says_percent:
        yield str(formats.percent(100 * step.progress))


def _percent(operation: Operation) -> int | None:
    """Return the progress: finished steps plus the share of the running one."""
    if not operation.is_running or not operation.steps:
        return None
    current = operation.current_step
    done = sum(step.state not in (StepState.WAITING, StepState.RUNNING) for step in operation.steps)
    share = 0.0 if current is None or current.progress is None else current.progress
    return round(100 * (done + share) / len(operation.steps))


def _sentence(operation: Operation) -> str:
    if operation.cancel_requested_by is not None and operation.is_running:
        return _("%(actor)s asked to cancel; cleaning up.", actor=operation.cancel_requested_by)
    if operation.is_running:
        return _running_sentence(operation)
    said = [words.say(message) for message in (operation.error, operation.outcome) if message is not None]
    return " ".join(said) or words.capital(words.word(names.OPERATION_STATES, operation.state))


def _running_sentence(operation: Operation) -> str:
    if operation.error is not None:
        return words.say(operation.error)
    if operation.is_in_grace:
        return _("Nothing has changed yet: you can still stop this.")
    if operation.kind is OperationKind.SWITCH and operation.evicted:
        return _(
            "Unloaded: %(models)s. If loading fails, they are restored.",
            models=", ".join(short_name(model) for model in operation.evicted),
        )
    if operation.kind is OperationKind.EMERGENCY:
        return _("Stopping everything that Warden started. Other people’s processes are left alone.")
    return ""


def _finding_line(finding: Finding) -> ResultLine:
    sign = WARNING if finding.message.code == AGAINST_THE_ESTIMATE else ""
    return ResultLine(words.say(finding.message), finding.ok, sign)


def _restorable(operation: Operation) -> str:
    if operation.is_running:
        return ""
    return ", ".join(short_name(evicted.model_id) for evicted in operation.to_restore)


def _can_cancel(operation: Operation) -> bool:
    """Whether a cancel would have an effect: the operation can be undone and is not being cancelled."""
    done = operation.cancel_requested_by is not None or operation.is_committed or operation.is_undoing
    return operation.is_running and not done and not _is_emergency(operation)


def _receipt_line(receipt: Receipt) -> ResultLine:
    if receipt.freed_bytes is None:
        device = words.capital(words.device_label(receipt.device_id))
        return ResultLine(
            _("%(device)s: how much was freed is unknown, the device cannot be read", device=device), ok=False
        )
    text = _(
        "%(device)s: %(freed)s of %(expected)s freed in %(time)s",
        device=words.capital(words.device_label(receipt.device_id)),
        freed=formats.size(receipt.freed_bytes),
        expected=formats.size(receipt.expected_bytes),
        time=formats.duration(receipt.seconds),
    )
    if receipt.others_bytes is not None and receipt.others_bytes >= WORTH_SAYING_BYTES:
        text = _("%(receipt)s; others took %(taken)s meanwhile", receipt=text, taken=formats.size(receipt.others_bytes))
    held = "; ".join(_held(holder) for holder in receipt.still_held_by[:FOREIGN_SHOWN])
    if not held:
        return ResultLine(text, receipt.settled)
    return ResultLine(_("%(receipt)s. Still held: %(holders)s", receipt=text, holders=held), ok=False)


def _held(holder: HeldBy) -> str:
    return _(
        "%(size)s by process %(pid)s (%(user)s)",
        size=formats.size(holder.used_bytes),
        pid=holder.pid,
        user=holder.user or formats.unknown(),
    )


def kept_log(operation: Operation) -> str | None:
    """Return the last lines of the log in the operation's error."""
    log = None if operation.error is None else operation.error.params.get("log")
    return log if isinstance(log, str) and log.strip() else None
