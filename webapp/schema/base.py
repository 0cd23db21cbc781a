"""The base of every document of the JSON contract.

Times are RFC 3339 in UTC, memory is bytes, an unknown value is ``null``. A document is closed: it has exactly the
declared fields.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, PlainSerializer, WithJsonSchema

from webapp.message import Param

TEXT_LIMIT: Final = 200
"""The longest text that a person sends to others, in characters: the purpose of a lease, or a comment on a request."""
NAME_LIMIT: Final = 200
"""The longest name of a model, an instance or a container, in characters."""

SUFFIX: Final = "Document"
"""The suffix of each class name here, since the domain has the plain names; components of the OpenAPI document omit it.
"""

Name = Annotated[str, Field(max_length=NAME_LIMIT)]
Mode = Literal["transformers", "vllm"]
Dtype = Literal["auto", "float16", "bfloat16", "float32"]
Quantization = Literal["none", "int8", "int4"]
Precision = Literal["auto", "fp16", "bf16", "fp32", "int8", "int4"]


def rfc3339(moment: datetime) -> str:
    """Return a moment in UTC, to the millisecond."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


Moment = Annotated[
    AwareDatetime,
    PlainSerializer(rfc3339, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
"""A time that a caller sends, with its time zone."""
Time = Annotated[
    str,
    Field(
        json_schema_extra={"format": "date-time", "pattern": r"Z$"},
        description="Time in UTC, to the millisecond.",
        examples=["2026-11-30T12:00:00.000Z"],
    ),
]
"""A time in an answer."""
Size = Annotated[int | None, Field(description="Bytes; `null` if unknown.")]


class Body(BaseModel):
    """A request body. Strict: no unknown fields, no ``"5"`` for 5, no ``true`` for 1."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Answer(BaseModel):
    """An answer, or a part of one."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def component(model: type[BaseModel]) -> str:
    """Return the name of a model in the OpenAPI document."""
    return model.__name__.removesuffix(SUFFIX)


class MessageDocument(Answer):
    """A message of Warden: a stable code with its values, and the sentence in English."""

    code: str
    text: str
    params: dict[str, Param] = Field(
        description="Values of the sentence. Names ending in `_bytes` are bytes, in `_s` or `seconds` seconds."
    )
