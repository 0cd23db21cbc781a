"""The history: operations as rows, and the choices of the filter."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from webapp.domain.operation import Operation, OperationValues, Receipt
from webapp.message import Message
from webapp.web import formats, words
from webapp.web.operations.presenters.operations import (
    AGAINST_THE_ESTIMATE,
    STATE_SIGNS,
    OperationView,
    ResultLine,
    operation_view,
)
from webapp.web.operations.query import OperationsQuery
from webapp.web.phrases import Choice
from webapp.web.translate import gettext as _
from webapp.web.translate import ngettext
from webapp.web.words import names


@dataclass(frozen=True)
class HistoryRow:
    """One operation. ``receipt`` is left out if the sentence includes it already."""

    operation: OperationView
    when: str
    moment: str
    receipt: ResultLine | None
    risk: str | None
    """Who loaded against the estimate, if anybody did."""


@dataclass(frozen=True)
class HistoryView:
    """A page of the history. ``older`` is the query of the next one."""

    query: OperationsQuery
    running: tuple[HistoryRow, ...]
    ended: tuple[HistoryRow, ...]
    older: str | None
    problem: str | None
    """The reason if earlier operations cannot be shown."""

    @property
    def count(self) -> str:
        """The number of operations shown, as text."""
        shown = len(self.running) + len(self.ended)
        return ngettext("%(num)s operation shown", "%(num)s operations shown", shown)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show."""
        return not self.running and not self.ended


@dataclass(frozen=True)
class FilterView:
    """The choices of each field; the first one matches everything."""

    kinds: tuple[Choice, ...]
    actors: tuple[Choice, ...]
    models: tuple[Choice, ...]
    states: tuple[Choice, ...]


def history_view(
    query: OperationsQuery,
    running: Iterable[Operation],
    ended: Sequence[Operation],
    page: int,
    now: float,
    problem: Message | None = None,
) -> HistoryView:
    """Return a page of ``page`` operations; an additional one in ``ended`` means that there are older ones.

    ``now`` is in seconds since the epoch.
    """
    shown = ended[:page]
    return HistoryView(
        query=query,
        running=tuple(_row(operation, now) for operation in running),
        ended=tuple(_row(operation, now) for operation in shown),
        older=query.address(shown[-1].id) if len(ended) > page else None,
        problem=None if problem is None else words.say(problem),
    )


def filter_view(query: OperationsQuery, values: OperationValues) -> FilterView:
    """Return the choices: the values in the store, and the selected value even without a match."""
    return FilterView(
        kinds=_choices(query.kind, values.kinds, lambda kind: words.word(names.KINDS, kind)),
        actors=_choices(query.actor, values.actors, str),
        models=_choices(query.model, values.models, str),
        states=_choices(query.state, values.states, _state_label),
    )


def _choices(chosen: str, values: Sequence[str], label: Callable[[str], str]) -> tuple[Choice, ...]:
    listed = [str(value) for value in values]
    if chosen and chosen not in listed:
        listed.append(chosen)
    return (
        Choice("", _("all"), not chosen),
        *(Choice(value, label(value), value == chosen) for value in listed),
    )


def _state_label(state: str) -> str:
    sign = next((sign for member, sign in STATE_SIGNS.items() if member == state), "")
    return f"{sign} {words.word(names.OPERATION_STATES, state)}".strip()


def _row(operation: Operation, now: float) -> HistoryRow:
    return HistoryRow(
        operation=operation_view(operation),
        when=formats.moment(operation.started_at, now),
        moment=formats.full_moment(operation.started_at),
        receipt=None if _says_receipt(operation) else receipt_sum(operation.receipts),
        risk=next((words.say(f.message) for f in operation.findings if f.message.code == AGAINST_THE_ESTIMATE), None),
    )


def _says_receipt(operation: Operation) -> bool:
    return operation.outcome is not None and "freed_bytes" in operation.outcome.params


def receipt_sum(receipts: Sequence[Receipt]) -> ResultLine | None:
    """Return all receipts of an operation as one sentence, ``None`` if there are none."""
    if not receipts:
        return None
    freed = [receipt.freed_bytes for receipt in receipts if receipt.freed_bytes is not None]
    if len(freed) < len(receipts):
        return ResultLine(_("How much memory was freed is unknown."), ok=False)
    expected = [receipt.expected_bytes for receipt in receipts if receipt.expected_bytes is not None]
    text = _(
        "%(freed)s of %(expected)s freed in %(time)s.",
        freed=formats.size(sum(freed)),
        expected=formats.size(sum(expected) if len(expected) == len(receipts) else None),
        time=formats.duration(max(receipt.seconds for receipt in receipts)),
    )
    return ResultLine(text, all(receipt.settled and not receipt.still_held_by for receipt in receipts))
