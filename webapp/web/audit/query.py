"""The query of the audit log: its values in a URL, and what they mean."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Final
from urllib.parse import urlencode

from webapp.domain.audit import ActionGroup, AuditFilter, Result
from webapp.errors import InvalidRequest
from webapp.web.filters import SHOWN_LIMIT, member, name_of

NOT_SIGNED_IN: Final = "-"
"""Selects requests without a sign-in, in place of a name; no name begins with it."""
DAYS: Final = {"since": "from", "until": "to"}
FIRST_YEAR, LAST_YEAR = 2000, 2999


@dataclass(frozen=True)
class AuditQuery:
    """The values as typed; an empty one matches everything. ``before`` is the number of the last entry already seen."""

    person: str = ""
    group: str = ""
    result: str = ""
    since: str = ""
    until: str = ""
    target: str = ""
    before: str = ""

    @classmethod
    def read(cls, values: Mapping[str, str]) -> AuditQuery:
        """Return the query in a URL, where the days are called ``from`` and ``to``."""
        return cls(**{f.name: values.get(DAYS.get(f.name, f.name), "").strip() for f in fields(cls)})

    def to_filter(self) -> AuditFilter:
        """Return the filter; days are in the server's time zone, and the last one is included. Raises
        InvalidRequest."""
        since, until = _day("from", self.since), _day("to", self.until)
        return AuditFilter(
            person="" if self.person == NOT_SIGNED_IN else name_of("person", self.person),
            group=member("group", self.group, ActionGroup),
            result=member("result", self.result, Result),
            since=None if since is None else since.timestamp(),
            until=None if until is None else (until + timedelta(days=1)).timestamp(),
            text=name_of("target", self.target),
        )

    @property
    def seen(self) -> int | None:
        """The number of the last entry already seen. Raises InvalidRequest."""
        if self.before and not re.fullmatch(r"[1-9]\d{0,14}", self.before, re.ASCII):
            raise InvalidRequest(field="before", value=self.before[:SHOWN_LIMIT], allowed="1, 2, 3, …")
        return int(self.before) if self.before else None

    @property
    def is_filter(self) -> bool:
        """Whether it restricts more than the age."""
        return any(value for name, value in vars(self).items() if name != "before")

    def address(self, before: str = "") -> str:
        """Return the query string of the same filter, after the entry ``before``."""
        values = {**vars(self), "before": before}
        return urlencode({DAYS.get(name, name): value for name, value in values.items() if value})


def _day(field: str, text: str) -> datetime | None:
    """Return the day in a field, ``None`` if the field is empty. Raises InvalidRequest."""
    if not text:
        return None
    try:
        day = datetime.strptime(text, "%Y-%m-%d")
    except ValueError:
        day = None
    if day is None or not FIRST_YEAR <= day.year <= LAST_YEAR:
        raise InvalidRequest(field=field, value=text[:SHOWN_LIMIT], allowed="2026-01-31")
    return day
