"""The contract is closed, and knows the words and the limits that the domain has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any, get_args

import pytest
from pydantic import BaseModel, ValidationError
from pydantic.json_schema import models_json_schema

from webapp import schema
from webapp.domain import (
    audit,
    footprint,
    instance,
    lease,
    memory,
    modes,
    operation,
    plan,
    postmortem,
    queue,
    recommend,
    selftest,
    timeline,
)
from webapp.schema import base, requests

MODELS = [
    each
    for each in vars(schema).values()
    if isinstance(each, type) and issubclass(each, BaseModel) and each.__module__.startswith("webapp.")
]


def documents() -> Mapping[str, Any]:
    """The JSON Schema of every model."""
    pairs = [(each, "serialization" if issubclass(each, schema.Answer) else "validation") for each in MODELS]
    _, found = models_json_schema(pairs)  # type: ignore[arg-type]
    definitions: Mapping[str, Any] = found["$defs"]
    return definitions


def objects(node: Any, path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every object of a JSON Schema with its path."""
    if isinstance(node, Mapping):
        if node.get("type") == "object":
            yield path, node
        for name, each in node.items():
            yield from objects(each, f"{path}/{name}")
    elif isinstance(node, list):
        for number, each in enumerate(node):
            yield from objects(each, f"{path}/{number}")


def test_no_object_is_open() -> None:
    """An object has named fields and no others, or it is a map whose values have a type."""
    still_open = [path for path, each in objects(documents()) if each.get("additionalProperties", True) in (True, {})]

    assert still_open == []


def test_every_model_says_what_it_is() -> None:
    assert [each.__name__ for each in MODELS if not each.__doc__] == []


def literal(model: type[BaseModel], name: str) -> set[str]:
    """The words that a field of a model may be, ``null`` aside."""

    def words(annotation: Any) -> Iterator[str]:
        for each in get_args(annotation):
            if isinstance(each, str):
                yield each
            else:
                yield from words(each)

    return set(words(model.model_fields[name].annotation))


@pytest.mark.parametrize(
    ("model", "field", "members"),
    [
        (schema.DeviceDocument, "kind", memory.DeviceKind),
        (schema.DeviceDocument, "level", memory.Level),
        (schema.HolderDocument, "kind", memory.HolderKind),
        (schema.HeldLineDocument, "kind", memory.HolderKind),
        (schema.InstanceDocument, "state", instance.InstanceState),
        (schema.ReleaseDocument, "answer", lease.ReleaseAnswer),
        (schema.ReleaseDecisionDocument, "answer", lease.ReleaseAnswer),
        (schema.AdviceDocument, "mark", recommend.Mark),
        (schema.AdviceDocument, "precision", modes.Precision),
        (schema.OptionsDocument, "dtype", modes.Dtype),
        (schema.OptionsDocument, "quantization", modes.Quantization),
        (schema.LaunchDocument, "mode", modes.Mode),
        (schema.PlanDocument, "verdict", plan.Verdict),
        (schema.PartDocument, "name", footprint.PartName),
        (schema.PartDocument, "source", footprint.Source),
        (schema.PartDocument, "confidence", footprint.Confidence),
        (schema.NoteDocument, "code", footprint.Note),
        (schema.OperationDocument, "kind", operation.OperationKind),
        (schema.OperationDocument, "state", operation.OperationState),
        (schema.StepDocument, "name", operation.StepName),
        (schema.StepDocument, "state", operation.StepState),
        (schema.CheckDocument, "name", selftest.CheckName),
        (schema.CheckDocument, "mark", selftest.CheckMark),
        (schema.PostMortemDocument, "phase", postmortem.Phase),
        (schema.PostMortemDocument, "cause", postmortem.Cause),
        (schema.QueuedLaunchDocument, "state", queue.QueueState),
        (schema.AuditEntryDocument, "action", audit.Action),
        (schema.AuditEntryDocument, "group", audit.ActionGroup),
        (schema.AuditEntryDocument, "result", audit.Result),
        (schema.AuditEntryDocument, "details", audit.Detail),
        (schema.AuditTargetDocument, "kind", audit.Kind),
        (schema.DoerDocument, "came", audit.AuditChannel),
        (schema.TimelineDocument, "span", timeline.Span),
        (schema.EndedOperationDocument, "mark", timeline.EventMark),
        (schema.EndedOperationDocument, "kind", operation.OperationKind),
        (schema.EndedOperationDocument, "state", operation.OperationState),
    ],
)
def test_a_closed_set_has_the_members_of_the_domain(model: type[BaseModel], field: str, members: type[StrEnum]) -> None:
    assert literal(model, field) == {member.value for member in members}


def test_the_timeline_has_every_holder_but_the_free_memory() -> None:
    assert literal(schema.HoldingDocument, "kind") == set(memory.LedgerKind) - {memory.LedgerKind.FREE}


def test_the_limits_and_defaults_are_the_domains() -> None:
    options = modes.LaunchOptions()

    assert requests.MAX_TOKENS_LIMIT == modes.MAX_TOKENS_LIMIT
    assert requests.BATCH_SIZE_LIMIT == modes.BATCH_SIZE_LIMIT
    assert requests.LONGEST_LEASE_S == lease.LONGEST_S
    assert base.TEXT_LIMIT == lease.TEXT_LIMIT
    assert schema.OptionsDocument() == schema.OptionsDocument(
        dtype=options.dtype.value,
        quantization=options.quantization.value,
        max_tokens=options.max_tokens,
        batch_size=options.batch_size,
    )


def test_an_answer_with_a_field_that_nobody_declared_is_no_answer() -> None:
    with pytest.raises(ValidationError):
        schema.ReplyDocument.model_validate({"answer": "hello", "more": 1})
