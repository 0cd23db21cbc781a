"""What a list of operations and a timeline are asked for by: the values as an address carries them, and what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Final, TypeVar
from urllib.parse import urlencode

from flask import request

from webapp.domain.operation import OperationFilter, OperationKind, OperationState
from webapp.domain.timeline import Span
from webapp.errors import InvalidRequest
from webapp.web.ports import timeline

NAME_LIMIT: Final = 200
SHOWN_LIMIT: Final = 100

E = TypeVar("E", bound=StrEnum)


@dataclass(frozen=True)
class OperationsQuery:
    """The values as typed; an empty one is any. ``before`` is the id of the last operation already seen."""

    kind: str = ""
    actor: str = ""
    model: str = ""
    state: str = ""
    before: str = ""

    @classmethod
    def read(cls, values: Mapping[str, str]) -> OperationsQuery:
        """Return what an address asks for."""
        return cls(**{field.name: values.get(field.name, "") for field in fields(cls)})

    def to_filter(self) -> OperationFilter:
        """Return the filter that is meant. Raises InvalidRequest."""
        return OperationFilter(
            kind=_member("kind", self.kind, OperationKind),
            actor=_name("actor", self.actor),
            model_id=_name("model", self.model),
            state=_member("state", self.state, OperationState),
        )

    @property
    def is_filter(self) -> bool:
        """Whether anything is left out but by its age."""
        return any((self.kind, self.actor, self.model, self.state))

    def address(self, before: str = "") -> str:
        """Return the query of an address that asks for the same, after the operation ``before``."""
        values = {**vars(self), "before": before}
        return urlencode({name: value for name, value in values.items() if value})


def asked_track() -> tuple[str | None, Span]:
    """Return the device that ``?device=&span=`` mean, else the first, and the span, else the hour. Raises InvalidRequest."""
    span = _member("span", request.args.get("span", ""), Span) or Span.HOUR
    return request.args.get("device") or next(iter(timeline().devices()), None), span


def _member(field: str, text: str, of: type[E]) -> E | None:
    return chosen(of, field, text) if text else None


def chosen(of: type[E], field: str, text: str) -> E:
    """Return the member of a closed set that a field names. Raises InvalidRequest."""
    if text not in set(of):
        raise InvalidRequest(field=field, value=text[:SHOWN_LIMIT], allowed=", ".join(of))
    return of(text)


def _name(field: str, text: str) -> str | None:
    if len(text) > NAME_LIMIT:
        raise InvalidRequest(field=field, value=text[:SHOWN_LIMIT], allowed=f"≤ {NAME_LIMIT}")
    return text or None
