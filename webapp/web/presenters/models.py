"""The list of cached models. It changes rarely and can be long, so its rows are made once for a state of the cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b

from webapp.control.contract import Snapshot
from webapp.domain.instance import InstanceState
from webapp.domain.model import CachedModel
from webapp.web import formats, words
from webapp.web.presenters.common import tokens
from webapp.web.translate import gettext as _

ANSWERING = frozenset({InstanceState.READY, InstanceState.SILENT})
DTYPES: Mapping[str, str] = {"float16": "FP16", "bfloat16": "BF16", "float32": "FP32"}


@dataclass(frozen=True)
class ModelRow:
    """One cached model. ``problem`` says why it cannot be loaded."""

    id: str
    size: str
    facts: str
    problem: str | None
    is_demo: bool
    is_loaded: bool


@dataclass(frozen=True)
class ModelList:
    """All cached models; ``digest`` stands for the rows where two lists are compared."""

    rows: tuple[ModelRow, ...] = field(repr=False)
    digest: str
    problem: str | None
    is_known: bool
    """False before the cache was first read."""

    @property
    def is_empty(self) -> bool:
        """Whether the cache was read and holds nothing."""
        return self.is_known and not self.rows and self.problem is None


class ModelLists:
    """Keeps the last list a language; whoever comes second makes the same one, so no lock is needed."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[tuple[CachedModel, ...], frozenset[str], ModelList]] = {}

    def of(self, snapshot: Snapshot, language: str) -> ModelList:
        """Return the list for ``snapshot``."""
        loaded = frozenset(i.model_id for i in snapshot.instances if i.state in ANSWERING)
        kept = self._kept.get(language)
        problem = None if snapshot.models_problem is None else words.say(snapshot.models_problem)
        known = snapshot.models_scanned_at is not None
        if kept is not None and kept[0] is snapshot.models and kept[1] == loaded:
            made = kept[2]
            if (made.problem, made.is_known) == (problem, known):
                return made
        rows = tuple(_row(model, loaded) for model in snapshot.models)
        digest = blake2b(repr(rows).encode(), digest_size=12).hexdigest()
        made = ModelList(rows, digest, problem, known)
        self._kept[language] = (snapshot.models, loaded, made)
        return made


def _row(model: CachedModel, loaded: frozenset[str]) -> ModelRow:
    return ModelRow(
        id=model.id,
        size=formats.size(model.size_bytes),
        facts=" · ".join(_facts(model)),
        problem=None if model.problem is None else words.clause(model.problem),
        is_demo=model.is_demo,
        is_loaded=model.id in loaded,
    )


def _facts(model: CachedModel) -> list[str]:
    facts = []
    if model.parameters is not None:
        facts.append(_("%(count)s параметров", count=formats.count(model.parameters)))
    facts += [DTYPES.get(model.dtype, model.dtype)] if model.dtype else []
    facts += [model.quantization.upper()] if model.quantization else []
    if model.context_length is not None:
        facts.append(tokens(model.context_length))
    facts += [model.architecture] if model.architecture else []
    return facts
