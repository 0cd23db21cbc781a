"""Frozen dataclasses as JSON and back, exactly.

A document outlives the class that wrote it: an unknown key is ignored and a missing one gets the field's default, so
fields may be added and removed without a migration.

This is not a pydantic ``TypeAdapter`` because of lone surrogates, which names of processes and people may contain: its
strict mode refuses a JSON text with one, and its lax mode converts values of the wrong type instead of refusing them.
"""

from __future__ import annotations

import json
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")

_SCALARS = (str, int, float, bool, types.NoneType)


class DocumentError(ValueError):
    """A document that is not JSON or does not have the shape of its class."""


def dump(value: object) -> str:
    """Return a frozen dataclass as JSON: enums by value, tuples as lists, paths as text; ASCII only."""
    return json.dumps(_plain(value), separators=(",", ":"))


def load(cls: type[T], text: str) -> T:
    """Return the ``cls`` that ``dump`` wrote.

    Raises:
        DocumentError: not JSON, a value of the wrong shape, or a field missing that has no default.
    """
    try:
        value: T = _read(cls, json.loads(text))
    except (ValueError, TypeError) as exc:
        raise DocumentError(f"{cls.__name__}: {exc}") from exc
    return value


def _plain(value: object) -> object:
    """Return ``value`` in types that ``json`` can write."""
    if isinstance(value, Enum):
        return value.value
    if value is None or isinstance(value, str | int | float):
        return value
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no place in a document")


def _read(annotation: Any, raw: Any) -> Any:
    """Return ``raw`` as a value of the type ``annotation``."""
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return _read_union(get_args(annotation), raw)
    if origin is tuple:
        return _read_tuple(get_args(annotation), raw)
    if origin is not None and issubclass(origin, Mapping):
        return _read_mapping(get_args(annotation)[1], raw)
    if is_dataclass(annotation):
        return _read_dataclass(annotation, raw)
    if annotation in _SCALARS:
        return _read_scalar(annotation, raw)
    if isinstance(annotation, type) and issubclass(annotation, Enum | Path):
        return annotation(raw)
    raise TypeError(f"{annotation} has no place in a document")


def _read_union(members: tuple[Any, ...], raw: Any) -> Any:
    """Return ``raw`` as the first member that accepts it; a member of its own type is tried before a conversion."""
    if type(raw) in members:
        return raw
    problems = []
    for member in members:
        try:
            return _read(member, raw)
        except (ValueError, TypeError) as exc:
            problems.append(str(exc))
    raise TypeError("; ".join(problems))


def _read_tuple(members: tuple[Any, ...], raw: Any) -> tuple[Any, ...]:
    if not isinstance(raw, list):
        raise TypeError(f"a list was expected, not {type(raw).__name__}")
    if members[-1] is Ellipsis:
        return tuple(_read(members[0], item) for item in raw)
    return tuple(_read(member, item) for member, item in zip(members, raw, strict=True))


def _read_mapping(member: Any, raw: Any) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise TypeError(f"an object was expected, not {type(raw).__name__}")
    return {key: _read(member, item) for key, item in raw.items()}


def _read_scalar(annotation: type, raw: Any) -> Any:
    """Return ``raw`` as it is; an int is accepted for a float, as in Python."""
    if type(raw) is annotation or (annotation is float and type(raw) is int):
        return raw
    raise TypeError(f"{annotation.__name__} was expected, not {type(raw).__name__}")


def _read_dataclass(cls: Any, raw: Any) -> Any:
    if not isinstance(raw, dict):
        raise TypeError(f"an object was expected, not {type(raw).__name__}")
    known, required = _fields_of(cls)
    if missing := required - raw.keys():
        raise TypeError(f"missing: {', '.join(sorted(missing))}")
    return cls(**{name: _read(annotation, raw[name]) for name, annotation in known.items() if name in raw})


@cache
def _fields_of(cls: Any) -> tuple[Mapping[str, Any], frozenset[str]]:
    """Return a dataclass's fields with their types, and the names of those without a default."""
    hints = get_type_hints(cls)
    required = frozenset(f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING)
    return {f.name: hints[f.name] for f in fields(cls)}, required
