"""How a model ran out of memory: the likely cause with its figures, the holders, and what would have fitted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from webapp.domain.memory import HolderKind
from webapp.domain.plan import SwitchRequest
from webapp.domain.postmortem import Account, HolderLine, PostMortem, cause_message
from webapp.domain.units import MIB
from webapp.web import formats, words
from webapp.web.launch.form import LaunchForm
from webapp.web.phrases import options_line, where
from webapp.web.translate import gettext as _
from webapp.web.words import names

LEAST_BYTES: Final = 5 * MIB
"""Smaller changes are not shown: the table's two decimals would round them to zero."""


@dataclass(frozen=True)
class AccountRow:
    """A line of the table. ``tone`` is the kind of holder: own, ours, foreign, rest or free."""

    name: str
    detail: str
    before: str
    after: str
    change: str
    tone: str


@dataclass(frozen=True)
class AccountTable:
    """One device's table."""

    device_id: str
    title: str
    rows: tuple[AccountRow, ...]


@dataclass(frozen=True)
class FitLink:
    """A configuration that would have fitted; ``query`` fills the form with it."""

    text: str
    options: str
    query: str


@dataclass(frozen=True)
class PostMortemView:
    """The section about running out of memory."""

    cause: str
    cause_word: str
    sentence: str
    phase: str
    at: str
    before_head: str
    after_head: str
    tables: tuple[AccountTable, ...]
    fit: FitLink | None
    log: str | None


def post_mortem_view(report: PostMortem | None, *, log_is_shown: bool = False) -> PostMortemView | None:
    """Return the view of a report, without its log if the page shows the same lines already."""
    if report is None:
        return None
    return PostMortemView(
        cause=report.cause.value,
        cause_word=words.word(names.CAUSES, report.cause),
        sentence=words.say(cause_message(report)),
        phase=words.word(names.PHASES, report.phase),
        at=formats.full_moment(report.taken_at),
        before_head=formats.time_of_day(report.since),
        after_head=formats.time_of_day(report.taken_at),
        tables=tuple(_table(account) for account in report.accounts),
        fit=fit_link(report),
        log=None if log_is_shown or not report.log else "\n".join(report.log),
    )


def fit_link(report: PostMortem) -> FitLink | None:
    """Return a configuration that would have fitted, or ``None``."""
    way = report.way_out
    return None if way is None else FitLink(words.say(way.message), request_line(way.request), asking_for(way.request))


def request_line(request: SwitchRequest) -> str:
    """Return a request in one line: mode, options, devices."""
    said = [words.word(names.MODES, request.mode), options_line(request.options)]
    if request.devices:
        said.append(where(request.devices))
    return " · ".join(said)


def asking_for(request: SwitchRequest) -> str:
    """Return the query that fills the form with a request."""
    return LaunchForm.of(request).query


def _table(account: Account) -> AccountTable:
    return AccountTable(
        device_id=account.device_id,
        title=words.capital(words.device_label(account.device_id)),
        rows=tuple(_rows(account)),
    )


def _rows(account: Account) -> Iterator[AccountRow]:
    for line in account.lines:
        yield _row(_name(line), _detail(line), line.before_bytes, line.after_bytes, _tone(line))
    before, after = _other(account, account.free_before_bytes, 0), _other(account, account.free_after_bytes, 1)
    if before or after:
        yield _row(_("driver and the rest"), "", before, after, "rest")
    yield _row(_("free"), "", account.free_before_bytes, account.free_after_bytes, "free")


def _other(account: Account, free: int | None, column: int) -> int | None:
    """Return the bytes that are neither free nor held by anybody in the list."""
    if account.total_bytes is None or free is None:
        return None
    held = sum((line.before_bytes, line.after_bytes)[column] or 0 for line in account.lines)
    return max(0, account.total_bytes - free - held)


def _row(name: str, detail: str, before: int | None, after: int | None, tone: str) -> AccountRow:
    change = None if before is None or after is None else after - before
    return AccountRow(name, detail, str(formats.gibs(before)), str(formats.gibs(after)), _signed(change), tone)


def _signed(change: int | None) -> str:
    """Return a change with its sign; empty if it is smaller than the table can show."""
    if change is None:
        return formats.unknown()
    if abs(change) < LEAST_BYTES:
        return formats.number(0)
    shown = formats.gibs(abs(change))
    return f"+{shown}" if change > 0 else f"{formats.MINUS}{shown}"


def _name(line: HolderLine) -> str:
    if line.kind is None:
        return _("the other processes")
    if line.model_id is not None:
        return line.model_id
    if line.instance_id is not None:
        return _("a Warden model or process")
    return line.command or _("process %(pid)s", pid=line.pid)


def _detail(line: HolderLine) -> str:
    if line.kind is None:
        return ""
    said = [] if line.is_own else [line.user or _("unknown user")]
    if line.is_own:
        said.append(_("this model"))
    if line.container_id is not None and line.kind is HolderKind.FOREIGN:
        said.append(_("container %(name)s", name=line.container_id[: words.SHORT_ID]))
    if line.pid is not None:
        said.append(f"pid {line.pid}")
    return " · ".join(said)


def _tone(line: HolderLine) -> str:
    if line.is_own:
        return "own"
    if line.kind is None:
        return "rest"
    return "foreign" if line.kind is HolderKind.FOREIGN else "ours"
