"""The query of the list of operations: its values in a URL, and what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from urllib.parse import urlencode

from webapp.domain.operation import OperationFilter, OperationKind, OperationState
from webapp.web.filters import member, name_of


@dataclass(frozen=True)
class OperationsQuery:
    """The values as typed; an empty one matches everything. ``before`` is the id of the last operation already seen."""

    kind: str = ""
    actor: str = ""
    model: str = ""
    state: str = ""
    before: str = ""

    @classmethod
    def read(cls, values: Mapping[str, str]) -> OperationsQuery:
        """Return the query in a URL."""
        return cls(**{field.name: values.get(field.name, "") for field in fields(cls)})

    def to_filter(self) -> OperationFilter:
        """Return the filter. Raises InvalidRequest."""
        return OperationFilter(
            kind=member("kind", self.kind, OperationKind),
            actor=name_of("actor", self.actor),
            model_id=name_of("model", self.model),
            state=member("state", self.state, OperationState),
        )

    @property
    def is_filter(self) -> bool:
        """Whether it restricts more than the age."""
        return any((self.kind, self.actor, self.model, self.state))

    def address(self, before: str = "") -> str:
        """Return the query string of the same filter, after the operation ``before``."""
        values = {**vars(self), "before": before}
        return urlencode({name: value for name, value in values.items() if value})
