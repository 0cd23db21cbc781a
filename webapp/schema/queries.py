"""The query parameters of the calls; each is optional, and an empty one counts as omitted."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from webapp.schema.base import Name
from webapp.schema.operations import OperationKind, OperationState
from webapp.schema.records import AuditGroup

DEFAULT_LIMIT: Final = 50
LARGEST_LIMIT: Final = 500

Day = Annotated[str, Field(json_schema_extra={"format": "date"}, examples=["2026-01-31"])]
Limit = Annotated[int, Field(ge=1, le=LARGEST_LIMIT)]


class Parameters(BaseModel):
    """The parameters of a call."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RecommendationParameters(Parameters):
    """The device and the model of a recommendation."""

    device: str | None = None
    model: str | None = None


class OperationsParameters(Parameters):
    """The filter and the page of a list of operations."""

    kind: OperationKind | None = None
    actor: Name | None = None
    model: Name | None = None
    state: OperationState | None = None
    before: str | None = Field(default=None, description="The id of the last operation already seen.")
    limit: Limit = DEFAULT_LIMIT


class AuditParameters(Parameters):
    """The filter and the page of the audit log."""

    person: Name | None = Field(default=None, description="`-`: people who were not signed in.")
    group: AuditGroup | None = None
    result: Literal["done", "refused", "failed"] | None = None
    since: Day | None = Field(default=None, alias="from", description="The first day, of the server's clock.")
    until: Day | None = Field(default=None, alias="to", description="The last day.")
    target: Name | None = None
    before: Annotated[int, Field(ge=1)] | None = Field(default=None, description="The id of the last entry seen.")
    limit: Limit = DEFAULT_LIMIT


class TimelineParameters(Parameters):
    """The device of a timeline, by default the first one, and its span."""

    device: str | None = None
    span: Literal["hour", "week"] = "hour"
