"""The audit log: entries as rows, and the choices of the filter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from webapp.domain.audit import ActionGroup, AuditChannel, AuditEntry, Detail, Kind, Result
from webapp.message import Message
from webapp.web import formats, words
from webapp.web.audit.query import NOT_SIGNED_IN, AuditQuery
from webapp.web.audit.recording import FLAGS
from webapp.web.phrases import FAILURE, SUCCESS, WARNING, Choice
from webapp.web.translate import gettext as _
from webapp.web.translate import ngettext
from webapp.web.words import names

SIGNS = {Result.DONE: (SUCCESS, "good"), Result.REFUSED: (WARNING, "warn"), Result.FAILED: (FAILURE, "bad")}


@dataclass(frozen=True)
class AuditRow:
    """One entry as text. ``operation_id`` links to the operation's page."""

    id: int
    action: str
    title: str
    target: str
    details: tuple[str, ...]
    who: str
    came: str
    address: str
    """Empty if the request did not come over a network."""
    result: str
    result_word: str
    sign: str
    tone: str
    problem: str
    when: str
    moment: str
    operation_id: str | None


@dataclass(frozen=True)
class AuditView:
    """A page of the log. ``older`` is the query of the next page, ``table`` that of everything as CSV."""

    query: AuditQuery
    rows: tuple[AuditRow, ...]
    older: str | None
    table: str
    problem: str | None
    """The reason if nothing can be shown."""

    @property
    def count(self) -> str:
        """The number of entries shown, as text."""
        return ngettext("%(num)s entry shown", "%(num)s entries shown", len(self.rows))


@dataclass(frozen=True)
class AuditChoices:
    """The choices of each field; the first one matches everything."""

    people: tuple[Choice, ...]
    groups: tuple[Choice, ...]
    results: tuple[Choice, ...]


def audit_view(
    query: AuditQuery, entries: Sequence[AuditEntry], page: int, now: float, problem: Message | None = None
) -> AuditView:
    """Return a page of ``page`` entries; an additional one means that there are older ones.

    ``now`` is in seconds since the epoch.
    """
    shown = entries[:page]
    return AuditView(
        query=query,
        rows=tuple(_row(entry, now) for entry in shown),
        older=query.address(str(shown[-1].id)) if len(entries) > page else None,
        table=query.address(),
        problem=None if problem is None else words.say(problem),
    )


def audit_choices(query: AuditQuery, people: Sequence[str]) -> AuditChoices:
    """Return the choices: everybody with an entry, and the selected name even without one."""
    shown_names = [name or NOT_SIGNED_IN for name in people]
    if query.person and query.person not in shown_names:
        shown_names.append(query.person)
    listed = [(name, _("not signed in") if name == NOT_SIGNED_IN else name) for name in shown_names]
    return AuditChoices(
        people=_choices(query.person, listed),
        groups=_choices(query.group, [(group.value, words.word(names.GROUPS, group)) for group in ActionGroup]),
        results=_choices(query.result, [(r.value, f"{SIGNS[r][0]} {words.word(names.RESULTS, r)}") for r in Result]),
    )


def _choices(chosen: str, values: Sequence[tuple[str, str]]) -> tuple[Choice, ...]:
    anything = Choice("", _("all"), not chosen)
    return (anything, *(Choice(value, label, value == chosen) for value, label in values))


def _row(entry: AuditEntry, now: float) -> AuditRow:
    sign, tone = SIGNS[entry.result]
    return AuditRow(
        id=entry.id,
        action=entry.action.value,
        title=words.word(names.ACTIONS, entry.action),
        target=target_words(entry),
        details=tuple(_detail(detail, value) for detail, value in entry.details),
        who=entry.doer.name or _("unknown person"),
        came=_came(entry),
        address=entry.address,
        result=entry.result.value,
        result_word=words.word(names.RESULTS, entry.result),
        sign=sign,
        tone=tone,
        problem="" if entry.problem is None else words.error_title(entry.problem),
        when=formats.moment(entry.at, now),
        moment=formats.full_moment(entry.at),
        operation_id=entry.operation_id or (entry.target.id if entry.target.kind is Kind.OPERATION else None) or None,
    )


def target_words(entry: AuditEntry) -> str:
    """Return the target as text; empty if the action implies it."""
    target = entry.target
    if target.kind is Kind.PERSON and target.name == entry.doer.name and target.name:
        return ""
    if target.kind is Kind.PERSON and not target.name and entry.result is not Result.DONE:
        return _("unknown name")
    name = target.name or target.id
    if target.kind is Kind.INVITATION:
        return words.word(names.ROLES, name)
    if target.kind is Kind.OPERATION:
        return words.word(names.KINDS, name)
    return _("from %(address)s", address=name) if target.kind is Kind.SESSION else name


def _came(entry: AuditEntry) -> str:
    if entry.doer.came is AuditChannel.TOKEN and entry.doer.token:
        return _("by the token “%(label)s”", label=entry.doer.token)
    return words.word(names.CAME, entry.doer.came)


def _detail(detail: Detail, value: str) -> str:
    label = words.word(names.DETAILS, detail)
    return label if detail in FLAGS else f"{label}: {_value(detail, value)}"


def _value(detail: Detail, value: str) -> str:
    if detail in (Detail.ROLE, Detail.ROLE_BEFORE, Detail.SCOPE):
        return words.word(names.ROLES, value)
    if detail is Detail.MODE:
        return words.word(names.MODES, value)
    if detail is Detail.ANSWER:
        return words.word(names.RELEASE_ANSWERS, value)
    if detail is Detail.DAYS and value == "0":
        return _("never expires")
    if detail is Detail.IDLE and value == "0":
        return _("never")
    return _moment(value) if detail is Detail.LEASE else value


def _moment(text: str) -> str:
    try:
        return formats.full_moment(datetime.fromisoformat(text).timestamp())
    except ValueError:
        return text
