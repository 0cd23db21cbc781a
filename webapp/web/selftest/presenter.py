"""The self-test: its checks, finished or still to come, and earlier self-tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from webapp.domain.operation import Operation, StepState
from webapp.domain.selftest import Check, CheckMark, CheckName
from webapp.web import formats, words
from webapp.web.operations.presenters.operations import OperationView, operation_view
from webapp.web.phrases import FAILURE, SUCCESS, WARNING, Reason, reason_of
from webapp.web.versions import Versioned
from webapp.web.words import names

SIGNS = {CheckMark.OK: SUCCESS, CheckMark.WARNING: WARNING, CheckMark.FAILED: FAILURE, CheckMark.SKIPPED: "➖"}
RUNNING, WAITING = StepState.RUNNING, StepState.WAITING


@dataclass(frozen=True)
class CheckRow:
    """One check. ``state`` is its mark, ``running`` or ``waiting``; ``since`` is set while it runs."""

    name: str
    title: str
    state: str
    state_word: str
    sign: str
    seen: str = ""
    took: str = ""
    advice: Reason | None = None
    since: float | None = None


@dataclass(frozen=True)
class SelftestRun:
    """One self-test with its checks."""

    operation: OperationView
    checks: tuple[CheckRow, ...]


@dataclass(frozen=True)
class SelftestView(Versioned):
    """The page: the running or latest self-test, and those before it."""

    latest: SelftestRun | None
    earlier: tuple[SelftestRun, ...]
    problem: str | None
    """The reason if earlier ones cannot be shown."""

    @property
    def is_running(self) -> bool:
        """Whether one is running."""
        return self.latest is not None and self.latest.operation.is_running


def selftest_view(operations: Sequence[Operation], problem: str | None = None) -> SelftestView:
    """Return the view of self-tests, newest first."""
    runs = tuple(_run(operation) for operation in operations)
    return SelftestView(runs[0] if runs else None, runs[1:], problem)


def _run(operation: Operation) -> SelftestRun:
    return SelftestRun(operation_view(operation), tuple(_rows(operation)))


def _rows(operation: Operation) -> list[CheckRow]:
    """Return the finished checks and, while it runs, those still to come."""
    rows = [_row(check) for check in operation.checks]
    done = {check.name for check in operation.checks}
    left = [name for name in CheckName if name not in done] if operation.is_running else []
    began = operation.started_at + sum(check.seconds for check in operation.checks)
    return rows + [_coming(name, began if number == 0 else None) for number, name in enumerate(left)]


def _row(check: Check) -> CheckRow:
    return CheckRow(
        name=check.name.value,
        title=words.word(names.CHECKS, check.name),
        state=check.mark.value,
        state_word=words.word(names.CHECK_MARKS, check.mark),
        sign=SIGNS[check.mark],
        seen=words.say(check.seen),
        took="" if check.mark is CheckMark.SKIPPED else formats.duration(check.seconds),
        advice=None if check.advice is None else reason_of(check.advice),
    )


def _coming(name: CheckName, since: float | None) -> CheckRow:
    state = WAITING if since is None else RUNNING
    word = words.word(names.STEP_STATES, state)
    sign = "○" if since is None else "⏳"
    return CheckRow(name.value, words.word(names.CHECKS, name), state.value, word, sign, since=since)
