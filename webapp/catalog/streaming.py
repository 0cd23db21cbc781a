"""JSON objects read member by member: a file of any length takes the memory of its largest member."""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from webapp.catalog.files import MAX_JSON_BYTES, BadFile, open_regular, read_bytes, read_object

MAX_STREAMED_BYTES = 32 * 2**20
"""The largest file or header that is read member by member; one that names 200 000 tensors has 25 MB."""
MAX_TENSORS = 300_000
"""The limit for one model, since each tensor is kept until the sum is known. Kimi K2 has 210 000: its experts
individually, with their scales.
"""
MAX_VALUE = 2**20
"""Characters of one value in a large object."""
MAX_NAME = 1000
"""Characters of the name of a tensor or a file."""
_CHUNK_BYTES = 2**16
_SPACE = re.compile(r"[ \t\n\r]*")
_ENDS = tuple(" \t\n\r,:}]")
"""What may follow a value."""
_DECODER = json.JSONDecoder()


class ObjectReader:
    """Reads ``size`` bytes of a file as one JSON object.

    A name or a value that is parsed as a whole is at most ``MAX_VALUE`` long. All methods raise BadFile, and OSError if
    the file cannot be read.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._left = size
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text = ""
        self._at = 0

    def members(self) -> Iterator[str]:
        """Yield the names of an object's members; the caller must consume each value, with any of these methods, before
        the next name.
        """
        self._take("{")
        if self._next() != "}":
            yield self._name()
            while self._next() == ",":
                self._at += 1
                yield self._name()
        self._take("}")

    def value(self) -> object:
        """Return the next value."""
        self._next()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except RecursionError as exc:
                raise BadFile("nested too deeply") from exc
            except json.JSONDecodeError as exc:
                if not self._read_on():
                    raise BadFile(exc.msg) from exc
            except ValueError as exc:  # a number of thousands of digits
                raise BadFile(str(exc)) from exc
            else:
                # A number may continue in the unread part: 0 in 0.5, with its point or without.
                if self._text[end : end + 1] in _ENDS or not self._read_on():
                    self._at = end
                    return value

    def skip(self) -> None:
        """Skip the next value; an object may be of any length, its members may not."""
        if self._next() != "{":
            self.value()
            return
        for _ in self.members():
            self.value()

    def end(self) -> None:
        """Check that nothing follows."""
        if self._next():
            raise BadFile("something follows the object")

    def _name(self) -> str:
        name = self.value()
        if not isinstance(name, str):
            raise BadFile("a member has no name")
        self._take(":")
        return name

    def _take(self, sign: str) -> None:
        if self._next() != sign:
            raise BadFile(f"no {sign} where one belongs")
        self._at += 1

    def _next(self) -> str:
        """Move to the next character that is not whitespace and return it; empty at the end."""
        while True:
            match = _SPACE.match(self._text, self._at)
            self._at = self._at if match is None else match.end()
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read_on():
                return ""

    def _read_on(self) -> bool:
        """Read more of the file, twice as much while one value continues; False at the end."""
        kept = self._text[self._at :]
        if len(kept) >= MAX_VALUE:
            raise BadFile(f"a value of more than {MAX_VALUE} bytes")
        data = read_bytes(self._file, min(self._left, max(_CHUNK_BYTES, len(kept)), MAX_VALUE - len(kept)))
        if not data:
            return False
        self._left -= len(data)
        try:
            self._text, self._at = kept + self._decoder.decode(data, final=not self._left), 0
        except UnicodeDecodeError as exc:
            raise BadFile(str(exc)) from exc
        return True


def read_members(path: Path, names: Collection[str]) -> Mapping[str, object]:
    """Return the members in ``names`` of a file's JSON object; the others may be large. Raises BadFile, OSError."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size <= MAX_JSON_BYTES:
            return {name: value for name, value in read_object(path).items() if name in names}
        reader, found = ObjectReader(file, _bounded(size)), dict[str, object]()
        for name in reader.members():
            if name in names:
                found[name] = reader.value()
            else:
                reader.skip()
        reader.end()
    return found


def read_index(path: Path) -> tuple[Mapping[str, str], object]:
    """Return the file of each tensor from an index of shards, and the index's ``metadata``.

    Raises:
        BadFile: it names no files, or too many tensors.
        OSError: it cannot be read.
    """
    weight_map: dict[str, str] = {}
    metadata: object = None
    with open_regular(path) as file:
        reader = ObjectReader(file, _bounded(os.fstat(file.fileno()).st_size))
        for name in reader.members():
            if name == "weight_map":
                weight_map = dict(_files(reader))
            elif name == "metadata":
                metadata = reader.value()
            else:
                reader.skip()
        reader.end()
    if not weight_map:
        raise BadFile("no weight_map")
    return weight_map, metadata


def _files(reader: ObjectReader) -> Iterator[tuple[str, str]]:
    known: dict[str, str] = {}
    for number, tensor in enumerate(reader.members()):
        file = reader.value()
        if number == MAX_TENSORS:
            raise BadFile(f"more than {MAX_TENSORS} tensors")
        if not isinstance(file, str) or max(len(tensor), len(file)) > MAX_NAME:
            raise BadFile("no weight_map")
        yield tensor, known.setdefault(file, file)  # thousands of tensors share the name of a file


def _bounded(size: int) -> int:
    if size > MAX_STREAMED_BYTES:
        raise BadFile(f"larger than {MAX_STREAMED_BYTES} bytes")
    return size
