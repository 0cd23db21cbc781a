"""Documents keep a value exactly, and outlive the class that wrote them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webapp.domain.calibration import Measurement
from webapp.domain.lease import Lease
from webapp.domain.operation import (
    Finding,
    HeldBy,
    Operation,
    OperationKind,
    OperationState,
    Receipt,
    Step,
    StepName,
    StepState,
)
from webapp.domain.queue import QueuedLaunch
from webapp.message import Message
from webapp.store.documents import DocumentError, dump, load

RECORDED = Path(__file__).parents[2] / "data" / "documents"

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=12)
SECONDS = st.floats(allow_nan=False, allow_infinity=False)
BYTES = st.integers(-(2**53), 2**63)
MESSAGES = st.builds(
    Message,
    code=ANY_TEXT,
    params=st.dictionaries(ANY_TEXT, st.one_of(ANY_TEXT, BYTES, SECONDS, st.booleans(), st.none()), max_size=3),
)
HOLDERS = st.builds(
    HeldBy, pid=st.integers(1), user=st.none() | ANY_TEXT, command=st.none() | ANY_TEXT, used_bytes=st.none() | BYTES
)
RECEIPTS = st.builds(
    Receipt,
    device_id=ANY_TEXT,
    expected_bytes=st.none() | BYTES,
    freed_bytes=st.none() | BYTES,
    model_freed_bytes=st.none() | BYTES,
    seconds=SECONDS,
    settled=st.booleans(),
    still_held_by=st.lists(HOLDERS, max_size=2).map(tuple),
    instance_id=st.none() | ANY_TEXT,
    model_id=st.none() | ANY_TEXT,
)
STEPS = st.builds(
    Step,
    name=st.sampled_from(StepName),
    state=st.sampled_from(StepState),
    started_at=st.none() | SECONDS,
    ended_at=st.none() | SECONDS,
    message=st.none() | MESSAGES,
    progress=st.none() | st.floats(0, 1),
)
OPERATIONS = st.builds(
    Operation,
    id=ANY_TEXT,
    kind=st.sampled_from(OperationKind),
    actor=ANY_TEXT,
    state=st.sampled_from(OperationState),
    started_at=SECONDS,
    steps=st.lists(STEPS, max_size=3).map(tuple),
    ended_at=st.none() | SECONDS,
    mode=st.none() | ANY_TEXT,
    model_id=st.none() | ANY_TEXT,
    instance_id=st.none() | ANY_TEXT,
    devices=st.lists(ANY_TEXT, max_size=2).map(tuple),
    evicted=st.lists(ANY_TEXT, max_size=2).map(tuple),
    receipts=st.lists(RECEIPTS, max_size=2).map(tuple),
    findings=st.lists(st.builds(Finding, message=MESSAGES, ok=st.booleans()), max_size=2).map(tuple),
    error=st.none() | MESSAGES,
    outcome=st.none() | MESSAGES,
    cancel_requested_by=st.none() | ANY_TEXT,
)


@given(OPERATIONS)
def test_an_operation_comes_back_as_it_was(operation: Operation) -> None:
    again = load(Operation, dump(operation))

    assert again == operation
    assert repr(again) == repr(operation)  # also True is not 1, and 1 is not 1.0


@given(OPERATIONS)
def test_a_document_is_ascii_json(operation: Operation) -> None:
    text = dump(operation)

    assert text.isascii()
    assert json.loads(text)["kind"] == operation.kind.value


@pytest.mark.parametrize(
    ("name", "kind"),
    [("operation", Operation), ("queued_launch", QueuedLaunch), ("lease", Lease), ("measurement", Measurement)],
)
def test_a_document_of_version_0_1_keeps_all_that_it_says(name: str, kind: type[object]) -> None:
    """``tests/data/documents`` has one of each with every field filled in; it is never written again."""
    text = (RECORDED / f"{name}.json").read_text()

    assert_includes(json.loads(dump(load(kind, text))), json.loads(text))


def assert_includes(found: object, expected: object) -> None:
    """``found`` may have more keys than ``expected``: fields that a later version has added."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key, value in expected.items():
            assert_includes(found[key], value)
    elif isinstance(expected, list) and isinstance(found, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_includes(one, other)
    else:
        assert (type(found), found) == (type(expected), expected)


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True)
class Leaf:
    size: int
    colour: Colour = Colour.RED


@dataclass(frozen=True)
class Tree:
    """One field of each kind that a document can hold."""

    name: str
    where: Path
    leaf: Leaf
    pair: tuple[str, int]
    leaves: tuple[Leaf, ...] = ()
    by_name: Mapping[str, Leaf] = field(default_factory=dict)
    share: float | None = None


TREE = Tree("oak", Path("/garden"), Leaf(1), ("a", 1), (Leaf(2),), {"x": Leaf(3)}, 0.5)


def test_nested_values_paths_pairs_and_mappings_come_back() -> None:
    assert load(Tree, dump(TREE)) == TREE


def changed(**changes: object) -> str:
    return json.dumps(json.loads(dump(TREE)) | changes)


def test_a_key_of_a_later_version_is_ignored() -> None:
    assert load(Tree, changed(height=12)) == TREE


def test_a_field_that_an_earlier_version_did_not_have_takes_its_default() -> None:
    document = json.loads(dump(TREE))
    del document["leaves"], document["share"], document["leaf"]["colour"]

    assert load(Tree, json.dumps(document)) == Tree("oak", Path("/garden"), Leaf(1), ("a", 1), (), {"x": Leaf(3)})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "{broken",
        changed(name=1),
        changed(name=None),
        changed(leaf=None),
        changed(leaf={"size": "1"}),
        changed(leaf={"size": 1, "colour": "no colour"}),
        changed(leaf={"size": True}),
        changed(leaves={}),
        changed(pair=["a"]),
        changed(by_name=[]),
        changed(share="half"),
    ],
)
def test_a_document_of_another_shape_is_refused(text: str) -> None:
    with pytest.raises(DocumentError):
        load(Tree, text)


def test_a_value_that_json_cannot_hold_is_refused() -> None:
    with pytest.raises(TypeError):
        dump(object())
