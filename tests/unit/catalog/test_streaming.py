"""Objects that are read member by member say the same as objects that are read as a whole."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webapp.catalog.files import MAX_JSON_BYTES, BadFile
from webapp.catalog.streaming import MAX_VALUE, ObjectReader, read_index, read_members

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


class Dribble(io.RawIOBase):
    """A file that gives a few bytes at a time."""

    def __init__(self, data: bytes, step: int) -> None:
        self._data, self._step = data, step

    def read(self, size: int = -1) -> bytes:
        given, self._data = self._data[: self._step], self._data[self._step :]
        return given


def reader(text: str, step: int = 1) -> ObjectReader:
    data = text.encode()
    return ObjectReader(cast(BinaryIO, Dribble(data, step)), len(data))


def whole(source: ObjectReader) -> dict[str, Any]:
    found = {name: source.value() for name in source.members()}
    source.end()
    return found


@given(
    value=st.dictionaries(st.text(max_size=8), VALUES, max_size=5),
    step=st.integers(1, 9),
    indent=st.sampled_from([None, 1]),
    ascii_only=st.booleans(),
)
def test_it_reads_what_json_reads(value: dict[str, object], step: int, indent: int | None, ascii_only: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)

    assert whole(reader(text, step)) == value


@given(value=st.dictionaries(st.text(max_size=8), VALUES, max_size=5), step=st.integers(1, 9))
def test_it_passes_over_what_nobody_asked_for(value: dict[str, object], step: int) -> None:
    source = reader(json.dumps({"first": value, "last": 7}), step)

    names = source.members()
    assert next(names) == "first"
    source.skip()
    assert next(names) == "last"
    assert source.value() == 7
    assert list(names) == []


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"a"}', '{"a":}', '{"a":1', '{"a":1,}', '{"a":1 "b":2}', "{1:2}", '{"a":1}}', '{"a":tru}', '{"a":"x',
     '{"a":' + "[" * 100_000, '{"a":' + "9" * 5000 + "}", '{"a":"\udc80"}'],
)  # fmt: skip
def test_what_is_no_object_is_refused(text: str) -> None:
    data = text.encode("utf-8", "surrogateescape")

    with pytest.raises(BadFile):
        whole(ObjectReader(io.BytesIO(data), len(data)))


def test_a_value_that_is_too_large_is_refused(tmp_path: Path) -> None:
    text = '{"a": "' + "x" * (2 * MAX_VALUE) + '"}'

    with pytest.raises(BadFile, match="a value of more than"):
        whole(reader(text, 2**16))


@pytest.mark.parametrize("padding", [0, MAX_JSON_BYTES])
def test_members_are_picked_from_small_and_large_files(tmp_path: Path, padding: int) -> None:
    file = tmp_path / "tokenizer_config.json"
    decoder = {str(number): {"content": "x"} for number in range(padding // 20)}
    file.write_text(json.dumps({"chat_template": "x", "added_tokens_decoder": decoder, "auto_map": None}))

    assert read_members(file, ("auto_map", "chat_template")) == {"chat_template": "x", "auto_map": None}


@pytest.mark.parametrize(
    "content",
    [{}, {"weight_map": {}}, {"weight_map": []}, {"weight_map": {"a": 1}}, {"weight_map": {"a": "f" * 2000}}, {"metadata": {}}],
)  # fmt: skip
def test_an_index_without_a_map_of_names_is_refused(tmp_path: Path, content: object) -> None:
    file = tmp_path / "index.json"
    file.write_text(json.dumps(content))

    with pytest.raises(BadFile):
        read_index(file)


def test_an_index_is_read_with_what_it_says_of_the_total(tmp_path: Path) -> None:
    file = tmp_path / "index.json"
    file.write_text(json.dumps({"metadata": {"total_size": 8}, "more": [], "weight_map": {"a": "1", "b": "2"}}))

    assert read_index(file) == ({"a": "1", "b": "2"}, {"total_size": 8})
