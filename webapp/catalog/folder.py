"""Describe any folder with a config.json as a ``CachedModel``, for an estimate: the weights need not be there."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from webapp.catalog.config import ConfigFacts, config_facts
from webapp.catalog.entry import find_entry
from webapp.catalog.files import BadFile, printable, read_object
from webapp.catalog.headers import Tensor, facts_of, main_dtype, read_tensors
from webapp.catalog.sizes import tensors_of_sizes
from webapp.catalog.streaming import read_index
from webapp.domain.model import CachedModel, WeightFacts, WeightsSource

T = TypeVar("T")

_CONFIG, _WEIGHTS, _INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
_HEADS = ("lm_head.weight", "embed_out.weight", "output.weight")


class BadFolder(BadFile):
    """A folder for which no estimate can be computed; ``str()`` says why."""


@dataclass(frozen=True)
class _Index:
    """The content of the index of the shards."""

    shards: tuple[str, ...]
    tensors: frozenset[str]
    total_bytes: int | None


def find_folder(path: Path) -> Path:
    """Return the folder with the model's files: ``path`` itself, or the snapshot in use if it is a repository in the
    cache.

    Raises:
        BadFolder: the folder does not exist or is empty.
        OSError: it cannot be read.
    """
    if not path.is_dir():
        raise BadFolder(f"{path} is no folder")
    if not (path / "snapshots").is_dir() or (path / _CONFIG).exists():
        return path
    entry = find_entry(path)
    if entry is None or not entry.revision:
        raise BadFolder(f"{path} holds no snapshot")
    return entry.snapshot


def describe_folder(path: Path, model_id: str) -> CachedModel:
    """Return the model described by config.json and, if present, the headers of the weights in ``path``.

    Files may end after their header, which is then trusted. Without headers the total of the shards' index is used, and
    without that the tensors that follow from the sizes in config.json; ``WeightFacts.source`` names the source.

    Raises:
        BadFile: config.json, the index or a header is missing or wrong, or neither weights nor sizes are stated.
        OSError: a file cannot be read.
    """
    if not (path / _CONFIG).exists():
        raise BadFolder(f"{path} has no {_CONFIG}")
    raw = _read(path / _CONFIG, read_object)
    config = config_facts(raw)
    weights, parameters = _weights(path, raw, config)
    files = _file_bytes(path)
    if weights is None and not files:
        raise BadFolder(f"{path} has no weights, and its {_CONFIG} does not state the sizes that they follow from")
    return CachedModel(
        id=printable(model_id),
        revision=path.name,
        snapshot=path,
        size_bytes=files if weights is None else weights.bytes,
        parameters=parameters,
        dtype=(None if weights is None else main_dtype(weights)) or config.dtype,
        architecture=config.architecture,
        quantization=config.quantization_method,
        context_length=config.context_length,
        has_chat_template=False,
        shape=config.shape,
        weights=weights,
        modified_at=0.0,
        problem=None,
        attention=config.attention,
        stated_dtype=config.dtype,
        has_vision=config.has_vision,
    )


def _weights(path: Path, raw: Mapping[str, object], config: ConfigFacts) -> tuple[WeightFacts | None, int | None]:
    index = _index(path)
    if tensors := _stored_tensors(path, index):
        return _facts(tensors, config)
    by_sizes, parameters = _facts(tensors_of_sizes(raw, config), config)
    if index is not None and index.total_bytes:
        total = index.total_bytes - _saved_twice(index, config)
        return _of_total(total, by_sizes, config), parameters
    return (replace(by_sizes, source=WeightsSource.SIZES), parameters) if by_sizes.bytes else (None, None)


def _facts(tensors: Sequence[Tensor], config: ConfigFacts) -> tuple[WeightFacts, int | None]:
    return facts_of(tensors, tied=config.tied, model_type=config.model_type, quantization=config.quantization)


def _stored_tensors(path: Path, index: _Index | None) -> tuple[Tensor, ...]:
    """Return the tensors of the files that would be loaded; empty unless all of the files are there."""
    if (path / _WEIGHTS).exists():
        return _headers(path, [_WEIGHTS])
    if index is not None:
        return _headers(path, index.shards) if all((path / name).exists() for name in index.shards) else ()
    names = sorted(file.name for file in path.glob("*.safetensors"))
    # Mistral's repositories hold the same weights a second time in their own format.
    return _headers(path, [name for name in names if not name.startswith("consolidated")] or names)


def _headers(path: Path, names: Sequence[str]) -> tuple[Tensor, ...]:
    found: list[Tensor] = []
    for name in names:
        try:
            found += read_tensors(path / name, headers_only=True)
        except BadFile as exc:
            raise BadFolder(f"{path / name}: {exc}") from exc
    return tuple(found)


def _index(path: Path) -> _Index | None:
    if not (path / _INDEX).exists():
        return None
    weight_map, metadata = _read(path / _INDEX, read_index)
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    # A name that points out of the folder is no shard of this model.
    shards = sorted({name for name in weight_map.values() if os.path.basename(name) == name})  # noqa: PTH119
    size = int(total) if isinstance(total, int | float) and 0 < total < 2**62 else None
    return _Index(tuple(shards), frozenset(weight_map), size)


def _saved_twice(index: _Index, config: ConfigFacts) -> int:
    """Return the bytes of an output head that the index names although it is the input embedding."""
    vocabulary, hidden = config.shape.vocabulary, config.shape.hidden
    if not config.tied or not vocabulary or not hidden or not any(name.endswith(_HEADS) for name in index.tensors):
        return 0
    return vocabulary * hidden * (4 if config.dtype == "float32" else 2)


def _of_total(total: int, by_sizes: WeightFacts, config: ConfigFacts) -> WeightFacts:
    """Return the facts of the sizes, scaled to the bytes that the index states."""
    if by_sizes.bytes:
        scale = total / by_sizes.bytes
        stretched = {
            name: round(getattr(by_sizes, name) * scale)
            for name in (
                "linear_elements",
                "linear_rows",
                "expert_elements",
                "key_value_bytes",
                "replicated_bytes",
                "embedding_elements",
                "head_elements",
                "elements",
            )
        }
        dtypes = tuple((dtype, round(elements * scale)) for dtype, elements in by_sizes.dtypes)
        return replace(by_sizes, bytes=total, dtypes=dtypes, source=WeightsSource.INDEX, **stretched)
    dtype, size = ("F32", 4) if config.dtype == "float32" else ("BF16", 2)
    elements = total // size
    return WeightFacts(total, elements, elements * 9 // 10, 0, ((dtype, elements),), source=WeightsSource.INDEX)


def _read(path: Path, read: Callable[[Path], T]) -> T:
    try:
        return read(path)
    except BadFile as exc:
        raise BadFolder(f"{path}: {exc}") from exc


def _file_bytes(path: Path) -> int:
    """Return the bytes of weights in a format whose headers are not read: pickles."""
    return sum(file.stat().st_size for pattern in ("*.bin", "*.pt", "*.pth") for file in path.glob(pattern))
