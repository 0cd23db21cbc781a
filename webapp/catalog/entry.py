"""One entry of the Hugging Face cache: turn a repository's folder into a ``CachedModel``, or into the reason why it is
not one.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from webapp.catalog.architectures import generates_text, needs_remote_code
from webapp.catalog.config import ConfigFacts, config_facts
from webapp.catalog.files import BadFile, open_regular, printable, read_bytes, read_object
from webapp.catalog.headers import BadHeader, Tensor, facts_of, main_dtype, read_tensors
from webapp.catalog.streaming import MAX_TENSORS, read_index, read_members
from webapp.domain.model import CachedModel, ModelProblem, WeightFacts
from webapp.message import Message

PREFIX = "models--"
DEMO_MARKER = "warden-demo.json"

_CONFIG = "config.json"
_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_PICKLE_WEIGHTS = "pytorch_model.bin"
_PICKLE_INDEX = "pytorch_model.bin.index.json"
_PIPELINE = "model_index.json"
_TOKENIZER_CONFIG = "tokenizer_config.json"
_CHAT_TEMPLATES = ("chat_template.jinja", "chat_template.json")
FACT_FILES = frozenset({_CONFIG, _INDEX, _PICKLE_INDEX, _PIPELINE, _TOKENIZER_CONFIG})
"""Files whose content ``describe`` reads, in addition to the weights."""
_TOKENIZERS = frozenset(
    {
        "tokenizer.json",
        "tokenizer.model",
        "vocab.json",
        "vocab.txt",
        "spiece.model",
        "sentencepiece.bpe.model",
        "tiktoken.model",
        "tokenizer.tiktoken",
        "tekken.json",
    }
)

_REVISION = re.compile(r"[0-9A-Za-z_-][0-9A-Za-z._-]{0,127}")
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
_MAX_DEPTH = 8
_LOCATION_BYTES = 256
_MAX_DETAIL = 300


@dataclass(frozen=True)
class LoadPolicy:
    """The kinds of models that the settings allow to load."""

    allow_pickle: bool = False
    allow_remote_code: bool = False


@dataclass(frozen=True)
class CacheEntry:
    """A repository's folder in the cache and the snapshot in use."""

    repository: Path
    revision: str
    """Empty if there is no snapshot."""

    @property
    def id(self) -> str:
        """Repository id: ``models--owner--name`` is ``owner/name``."""
        return printable(self.repository.name.removeprefix(PREFIX).replace("--", "/"))

    @cached_property
    def snapshot(self) -> Path:
        """The folder of the revision."""
        return self.repository / "snapshots" / self.revision

    @cached_property
    def is_plain(self) -> bool:
        """Whether ``../../blobs`` of the snapshot is the repository's own: no folder on the path is a link."""
        return not self.snapshot.is_symlink() and not self.snapshot.parent.is_symlink()


@dataclass(frozen=True)
class _Listing:
    """The files of a snapshot by relative path; ``None`` for a dangling link."""

    files: dict[str, os.stat_result | None] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        """Return whether the snapshot has the file and its data."""
        return self.files.get(name) is not None

    def dangles(self, name: str) -> bool:
        """Return whether the snapshot names the file but its data is missing."""
        return name in self.files and self.files[name] is None

    @property
    def infos(self) -> Iterator[os.stat_result]:
        return (info for info in self.files.values() if info is not None)


class _Unreadable(Exception):
    """Carries the reason out of the code that reads one part."""

    def __init__(self, problem: ModelProblem, **params: str | None) -> None:
        self.message = _message(problem, **params)
        super().__init__(problem)


def find_entry(repository: Path) -> CacheEntry | None:
    """Return the entry of a repository's folder: the revision that ``refs/main`` names, else the newest snapshot.

    ``None`` if nothing was ever downloaded into it (the libraries leave such folders after a look-up) or it is not a
    folder.

    Raises:
        OSError: the folder cannot be read.
    """
    if not stat.S_ISDIR(repository.stat().st_mode):
        return None
    snapshots = repository / "snapshots"
    revision = _main_revision(repository)
    if revision is not None and (snapshots / revision).is_dir():
        return CacheEntry(repository, revision)
    newest = _newest(snapshots)
    if newest is None and not _names(repository / "blobs"):
        return None
    return CacheEntry(repository, newest or "")


def unreadable(repository: Path, exc: OSError) -> CachedModel:
    """Return the description of a repository's folder that cannot be read."""
    return _bare(CacheEntry(repository, ""), _Listing(), _unreadable(exc))


def misread(repository: Path, exc: Exception) -> CachedModel:
    """Return the description of a repository's folder that triggers a defect of Warden."""
    entry = CacheEntry(repository, "")
    detail = f"{type(exc).__name__}: {exc}"
    return _bare(entry, _Listing(), _message(ModelProblem.MISREAD, model=entry.id, detail=detail))


def describe(entry: CacheEntry, policy: LoadPolicy) -> CachedModel:
    """Return the model that an entry's files describe. Never raises: an unreadable entry has a problem."""
    try:
        listing = _list(entry.snapshot) if entry.revision else _Listing()
    except OSError as exc:
        return _bare(entry, _Listing(), _unreadable(exc))
    bare = _bare(entry, listing, None)
    try:
        _require_config(entry, listing)
        config = config_facts(_json(entry.snapshot / _CONFIG))
        return _with_config(entry, listing, bare, config, policy)
    except _Unreadable as problem:
        return replace(bare, problem=_cut_off(entry, problem.message))
    except OSError as exc:
        return replace(bare, problem=_unreadable(exc))


def _with_config(
    entry: CacheEntry, listing: _Listing, bare: CachedModel, config: ConfigFacts, policy: LoadPolicy
) -> CachedModel:
    described = replace(
        bare,
        dtype=config.dtype,
        architecture=config.architecture,
        quantization=config.quantization_method,
        context_length=config.context_length,
        shape=config.shape,
        attention=config.attention,
        stated_dtype=config.dtype,
        has_vision=config.has_vision,
        has_chat_template=_has_chat_template(entry.snapshot, listing),
    )
    weights, weights_problem = _weights(entry, listing, config, policy)
    problem = _unsuitable(config, policy) or weights_problem or _tokenizer_problem(entry.snapshot, listing, policy)
    if weights is not None:
        facts, parameters = weights
        described = replace(described, weights=facts, parameters=parameters, dtype=main_dtype(facts) or config.dtype)
    return replace(described, problem=None if problem is None else _cut_off(entry, problem))


def _bare(entry: CacheEntry, listing: _Listing, problem: Message | None) -> CachedModel:
    blobs = {(info.st_dev, info.st_ino): info.st_size for info in listing.infos}
    return CachedModel(
        id=entry.id,
        revision=entry.revision,
        snapshot=entry.snapshot,
        size_bytes=sum(blobs.values()),
        parameters=None,
        dtype=None,
        architecture=None,
        quantization=None,
        context_length=None,
        has_chat_template=False,
        shape=None,
        weights=None,
        modified_at=max([_modified(entry.repository), _modified(entry.snapshot), *(i.st_mtime for i in listing.infos)]),
        problem=problem,
        is_demo=DEMO_MARKER in listing,
        revisions=_other_revisions(entry),
    )


# The snapshot's files


def _main_revision(repository: Path) -> str | None:
    try:
        with open_regular(repository / "refs" / "main") as file:
            revision = read_bytes(file, _LOCATION_BYTES).decode("ascii", "replace").strip()
    except FileNotFoundError:
        return None
    # The name becomes part of a path, so only a plain name is accepted.
    return revision if _REVISION.fullmatch(revision) else None


def _newest(snapshots: Path) -> str | None:
    dated = [(_modified(snapshots / name), name) for name in _names(snapshots) if _REVISION.fullmatch(name)]
    return max(dated)[1] if dated else None


def _other_revisions(entry: CacheEntry) -> frozenset[str]:
    snapshots = entry.repository / "snapshots"
    try:
        names = frozenset(name for name in _names(snapshots) if _REVISION.fullmatch(name))
    except OSError:
        return frozenset()
    return names - {entry.revision}


def _names(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return []


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _list(folder: Path | str, prefix: str = "", depth: int = 0) -> _Listing:
    files: dict[str, os.stat_result | None] = {}
    with os.scandir(folder) as items:
        for item in items:
            name = prefix + item.name
            # Links to folders are not followed: they could form a cycle.
            if item.is_dir(follow_symlinks=False):
                if depth < _MAX_DEPTH:
                    files |= _list(item.path, f"{name}/", depth + 1).files
                continue
            info = _stat(item)
            if info is None or not stat.S_ISDIR(info.st_mode):
                files[name] = info
    return _Listing(files)


def _stat(item: os.DirEntry[str]) -> os.stat_result | None:
    try:
        return item.stat()
    except FileNotFoundError:
        return None
    except OSError:
        # It exists but cannot be followed; the code that needs the file reports it.
        return item.stat(follow_symlinks=False)


def _json(path: Path) -> Mapping[str, object]:
    return _parsed(path, read_object)


def _parsed(path: Path, read: Callable[[Path], Mapping[str, object]]) -> Mapping[str, object]:
    try:
        return read(path)
    except BadFile as exc:
        raise _Unreadable(ModelProblem.BROKEN_CONFIG, detail=f"{path.name}: {exc}") from exc


# Reasons why a model cannot be loaded, in the order in which they are reported


def _require_config(entry: CacheEntry, listing: _Listing) -> None:
    if _CONFIG in listing:
        return
    if listing.dangles(_CONFIG):
        raise _Unreadable(ModelProblem.INCOMPLETE, missing=_CONFIG)
    if _PIPELINE in listing:
        name = _json(entry.snapshot / _PIPELINE).get("_class_name")
        raise _Unreadable(ModelProblem.NOT_A_LANGUAGE_MODEL, architecture=name if isinstance(name, str) else None)
    raise _Unreadable(ModelProblem.NO_CONFIG)


def _unsuitable(config: ConfigFacts, policy: LoadPolicy) -> Message | None:
    if not generates_text(config.architecture, config.model_type, config.auto_map):
        return _message(ModelProblem.NOT_A_LANGUAGE_MODEL, architecture=config.architecture or config.model_type)
    if needs_remote_code(config.auto_map, config.model_type) and not policy.allow_remote_code:
        return _message(ModelProblem.REMOTE_CODE)
    return None


def _weights(
    entry: CacheEntry, listing: _Listing, config: ConfigFacts, policy: LoadPolicy
) -> tuple[tuple[WeightFacts, int | None] | None, Message | None]:
    try:
        tensors = _tensors(entry.snapshot, listing, policy)
    except _Unreadable as problem:
        return None, problem.message
    if tensors is None:
        return None, None
    facts = facts_of(tensors, tied=config.tied, model_type=config.model_type, quantization=config.quantization)
    return facts, None


def _tensors(snapshot: Path, listing: _Listing, policy: LoadPolicy) -> tuple[Tensor, ...] | None:
    """Return the tensors of the files that transformers would load; ``None`` if those are pickles and allowed."""
    if _WEIGHTS in listing:
        return _read(snapshot, _WEIGHTS)
    if _INDEX in listing:
        return _read_shards(snapshot, listing)
    for name in (_WEIGHTS, _INDEX):
        if listing.dangles(name):
            raise _Unreadable(ModelProblem.INCOMPLETE, missing=name)
    _require_pickle(snapshot, listing, policy)
    return None


def _read(snapshot: Path, name: str, most: int = MAX_TENSORS) -> tuple[Tensor, ...]:
    try:
        return read_tensors(snapshot / name, most=most)
    except BadHeader as exc:
        raise _Unreadable(ModelProblem.BROKEN_WEIGHTS, file=name, detail=str(exc)) from exc


def _read_shards(snapshot: Path, listing: _Listing) -> tuple[Tensor, ...]:
    weight_map = _weight_map(snapshot, _INDEX)
    shards = sorted(set(weight_map.values()))
    _require_all(shards, listing)
    tensors: list[Tensor] = []
    for shard in shards:
        tensors += _read(snapshot, shard, MAX_TENSORS - len(tensors))
    absent = weight_map.keys() - {tensor.name for tensor in tensors}
    if absent:
        first = min(absent)
        raise _Unreadable(ModelProblem.BROKEN_WEIGHTS, file=weight_map[first], detail=f"no tensor {first[:80]}")
    return tuple(tensors)


def _weight_map(snapshot: Path, index: str) -> Mapping[str, str]:
    try:
        return read_index(snapshot / index)[0]
    except BadFile as exc:
        raise _Unreadable(ModelProblem.BROKEN_WEIGHTS, file=index, detail=str(exc)) from exc


def _require_all(shards: Iterable[str], listing: _Listing) -> None:
    # A name counts only as a key of the listing, so one like ../../secret is simply missing.
    missing = [shard for shard in shards if shard not in listing]
    if missing:
        more = f" (+{len(missing) - 1})" if len(missing) > 1 else ""
        raise _Unreadable(ModelProblem.INCOMPLETE, missing=missing[0][:200] + more)


def _require_pickle(snapshot: Path, listing: _Listing, policy: LoadPolicy) -> None:
    if _PICKLE_INDEX in listing and _PICKLE_WEIGHTS not in listing:
        _require_all(sorted(set(_weight_map(snapshot, _PICKLE_INDEX).values())), listing)
    elif listing.dangles(_PICKLE_WEIGHTS):
        raise _Unreadable(ModelProblem.INCOMPLETE, missing=_PICKLE_WEIGHTS)
    elif _PICKLE_WEIGHTS not in listing:
        _require_no_shards(listing)
        raise _Unreadable(ModelProblem.NO_WEIGHTS)
    if not policy.allow_pickle:
        raise _Unreadable(ModelProblem.PICKLE_ONLY)


def _require_no_shards(listing: _Listing) -> None:
    """Distinguish a set of shards whose index has not been downloaded yet from a snapshot without weights."""
    if any(_SHARD.fullmatch(name) for name in listing.files):
        raise _Unreadable(ModelProblem.INCOMPLETE, missing=_INDEX)


def _tokenizer_problem(snapshot: Path, listing: _Listing, policy: LoadPolicy) -> Message | None:
    if any(name in listing for name in _TOKENIZERS):
        return None
    dangling = sorted(name for name in _TOKENIZERS if listing.dangles(name))
    if dangling:
        return _message(ModelProblem.INCOMPLETE, missing=dangling[0])
    auto_map = _tokenizer_config(snapshot, listing).get("auto_map")
    if isinstance(auto_map, dict) and "AutoTokenizer" in auto_map:
        return None if policy.allow_remote_code else _message(ModelProblem.REMOTE_CODE)
    return _message(ModelProblem.NO_TOKENIZER)


def _has_chat_template(snapshot: Path, listing: _Listing) -> bool:
    if any(name in listing for name in _CHAT_TEMPLATES):
        return True
    return bool(_tokenizer_config(snapshot, listing).get("chat_template"))


def _tokenizer_config(snapshot: Path, listing: _Listing) -> Mapping[str, object]:
    """Return the relevant values; thousands of added tokens make some of these files large."""
    if _TOKENIZER_CONFIG not in listing:
        return {}
    return _parsed(snapshot / _TOKENIZER_CONFIG, lambda path: read_members(path, ("auto_map", "chat_template")))


def _cut_off(entry: CacheEntry, problem: Message) -> Message:
    """Return "incomplete" if an unfinished download explains the problem, else ``problem``.

    A leftover part of a file that nothing needs is not a reason, so only a missing part becomes one.
    """
    owed = {
        ModelProblem.NO_CONFIG: _CONFIG,
        ModelProblem.NO_WEIGHTS: _WEIGHTS,
        ModelProblem.NO_TOKENIZER: "tokenizer.json",
    }
    missing = owed.get(ModelProblem(problem.code))
    if missing is None or not any(name.endswith(".incomplete") for name in _names(entry.repository / "blobs")):
        return problem
    return _message(ModelProblem.INCOMPLETE, missing=missing)


def _unreadable(exc: OSError) -> Message:
    where = Path(os.fsdecode(exc.filename)).name + ": " if isinstance(exc.filename, str | bytes) else ""
    return _message(ModelProblem.UNREADABLE, detail=where + (exc.strerror or str(exc)))


def _message(problem: ModelProblem, **params: str | None) -> Message:
    return Message(problem.value, {key: None if v is None else printable(v)[:_MAX_DETAIL] for key, v in params.items()})
