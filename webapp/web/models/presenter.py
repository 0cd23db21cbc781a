"""The list of cached models: searched, sorted, each with how it fits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from webapp.control.contract import Snapshot
from webapp.domain.instance import InstanceState
from webapp.domain.model import CachedModel
from webapp.domain.modes import LaunchOptions, Mode
from webapp.domain.plan import SwitchRequest
from webapp.domain.planning.fit import Fit, Needs, fit_of, needs_of
from webapp.domain.planning.state import Headroom
from webapp.domain.planning.verdict import may_ask
from webapp.errors import InvalidRequest
from webapp.message import Message
from webapp.web import formats, words
from webapp.web.launch.form import ON, LaunchForm
from webapp.web.phrases import misread, tokens
from webapp.web.translate import gettext as _
from webapp.web.versions import Versioned
from webapp.web.words import names

ANSWERING = frozenset({InstanceState.READY, InstanceState.SILENT})
DTYPES: Mapping[str, str] = {"float16": "FP16", "bfloat16": "BF16", "float32": "FP32"}
FIT_LOOKS: Final[Mapping[Fit, tuple[str, str]]] = {
    Fit.NOW: ("good", "✓"),
    Fit.AFTER_UNLOADING: ("warn", "▲"),
    Fit.TOO_LARGE: ("bad", "✕"),
}
"""Tone and sign by fit; an unknown fit has none."""
LONGEST_SEARCH: Final = 200
SHOWN_AT_FIRST: Final = 50
"""More are shown on request: hundreds of rows make a long page, and each change would redraw them all."""


class Sort(StrEnum):
    """The order of the list."""

    NAME = "name"
    SIZE = "size"
    FIT = "fit"


@dataclass(frozen=True)
class ModelSearch:
    """The search as typed, the order, and whether to show everything."""

    text: str = ""
    sort: Sort = Sort.NAME
    shows_all: bool = False

    @classmethod
    def read(cls, values: Mapping[str, str]) -> ModelSearch:
        """Return the search in ``q``, ``sort`` and ``all``; an unknown order means by name."""
        text, sort = values.get("q", "").strip()[:LONGEST_SEARCH], values.get("sort", "")
        return cls(text, Sort(sort) if sort in set(Sort) else Sort.NAME, values.get("all") == ON)


@dataclass(frozen=True)
class FitView:
    """How a model fits, as words and a sign."""

    word: str
    tone: str
    sign: str


@dataclass(frozen=True)
class ModelRow:
    """One cached model. ``problem`` is the reason if it cannot be loaded; ``fit`` is ``None`` if unknown."""

    id: str
    size: str
    facts: str
    problem: str | None
    is_demo: bool
    is_loaded: bool
    is_chosen: bool
    fit: FitView | None


@dataclass(frozen=True)
class ModelList(Versioned):
    """The models that match the search."""

    rows: tuple[ModelRow, ...]
    """The first matches, or all of them."""
    found: int
    total: int
    search: ModelSearch
    sorts: tuple[tuple[str, str, bool], ...]
    """Value, label, and whether it is chosen."""
    problem: str | None
    is_known: bool
    """False until the cache is read for the first time."""

    @property
    def is_empty(self) -> bool:
        """Whether the cache was read and is empty."""
        return self.is_known and not self.total and self.problem is None

    @property
    def count(self) -> str:
        """The number of models and of matches, as text."""
        if self.found == self.total:
            return formats.number(self.total)
        return _("%(found)s of %(total)s", found=formats.number(self.found), total=formats.number(self.total))

    @property
    def sort_asked(self) -> str | None:
        """The order for a URL; ``None`` for the default order."""
        return None if self.search.sort is Sort.NAME else self.search.sort.value

    @property
    def is_long(self) -> bool:
        """Whether there are more matches than are shown at first."""
        return self.found > SHOWN_AT_FIRST

    @property
    def shown(self) -> str:
        """How many of the matches are shown, as text."""
        return _("Showing %(shown)s of %(found)s", shown=len(self.rows), found=formats.number(self.found))


@dataclass(frozen=True)
class ModelText:
    """The texts of a model that do not depend on the memory, and the lower-case text to search in."""

    model: CachedModel
    size: str
    facts: str
    problem: str | None
    found_by: str


ModelNeeds = Sequence[Needs | Message | None]
"""The needs of a launch of each model: ``None`` if the request is invalid for it, a message if it is defective."""


def model_list(
    snapshot: Snapshot,
    chosen: str,
    search: ModelSearch,
    texts: Sequence[ModelText],
    needs: ModelNeeds | None,
    headrooms: Sequence[Headroom],
) -> ModelList:
    """Return the list of the models that match ``search``; without ``needs`` their fit is unknown."""
    judged = (_judged(one, need, headrooms) for one, need in zip(texts, needs or [None] * len(texts), strict=True))
    found = [(one, fit) for one, fit in judged if _is_found(one, search)]
    found.sort(key=_ORDERS[search.sort])
    loaded = frozenset(i.model_id for i in snapshot.instances if i.state in ANSWERING)
    looks = {fit: _look(fit) for fit in Fit}
    shown = found if search.shows_all else found[:SHOWN_AT_FIRST]
    return ModelList(
        rows=tuple(_row(one, looks[fit], loaded, chosen) for one, fit in shown),
        found=len(found),
        total=len(texts),
        search=search,
        sorts=tuple((sort.value, words.word(names.SORTS, sort), sort is search.sort) for sort in Sort),
        problem=None if snapshot.models_problem is None else words.say(snapshot.models_problem),
        is_known=snapshot.models_scanned_at is not None,
    )


def model_texts(models: Iterable[CachedModel]) -> tuple[ModelText, ...]:
    """Return the texts of each model that do not depend on the memory."""
    return tuple(_text_or_why(model) for model in models)


def model_needs(request: SwitchRequest, models: Iterable[CachedModel], headrooms: Sequence[Headroom]) -> ModelNeeds:
    """Return the needs of ``request`` with each model."""
    return tuple(needs_or_why(request, model, headrooms) for model in models)


def asked_for(form: LaunchForm) -> SwitchRequest:
    """Return the request of the form, or one with the usual options while a field is incomplete."""
    try:
        return form.to_request()
    except InvalidRequest:
        return SwitchRequest(Mode.TRANSFORMERS, form.model, LaunchOptions())


def _text_or_why(model: CachedModel) -> ModelText:
    try:
        return _text(model)
    except Exception as exc:  # noqa: BLE001  one defective model must not hide the others
        return ModelText(
            model, size="", facts="", problem=words.clause(misread(model.id, exc)), found_by=model.id.lower()
        )


def needs_or_why(request: SwitchRequest, model: CachedModel, headrooms: Sequence[Headroom]) -> Needs | Message | None:
    """Return the needs of ``request`` with ``model``: ``None`` if the request is invalid for the model, a message on a defect."""
    try:
        return needs_of(request, model, headrooms) if may_ask(request, model) else None
    except Exception as exc:  # noqa: BLE001  one defective model must not hide the others
        return misread(model.id, exc)


def _judged(known: ModelText, needs: Needs | Message | None, headrooms: Sequence[Headroom]) -> tuple[ModelText, Fit]:
    """Return a model with its fit; if it cannot be evaluated, its text says so."""
    if known.model.problem is not None or needs is None:
        return known, Fit.UNKNOWN
    if isinstance(needs, Message):
        return replace(known, problem=words.clause(needs)), Fit.UNKNOWN
    return known, fit_of(needs, headrooms)


def _text(model: CachedModel) -> ModelText:
    facts = " · ".join(_facts(model))
    return ModelText(
        model=model,
        size=formats.size(model.size_bytes),
        facts=facts,
        problem=None if model.problem is None else words.clause(model.problem),
        found_by=f"{model.id} {facts}".lower(),
    )


def _facts(model: CachedModel) -> list[str]:
    facts = []
    if model.parameters is not None:
        facts.append(_("%(count)s parameters", count=formats.count(model.parameters)))
    facts += [DTYPES.get(model.dtype, model.dtype)] if model.dtype else []
    facts += [model.quantization.upper()] if model.quantization else []
    if model.context_length is not None:
        facts.append(tokens(model.context_length))
    facts += [model.architecture] if model.architecture else []
    return facts


def _is_found(known: ModelText, search: ModelSearch) -> bool:
    """Whether every word of the search occurs in the name or the facts."""
    return all(word in known.found_by for word in search.text.lower().split())


_FIT_ORDER: Final = {fit: place for place, fit in enumerate(Fit)}
_ORDERS: Final[Mapping[Sort, Callable[[tuple[ModelText, Fit]], tuple[object, ...]]]] = {
    Sort.NAME: lambda found: (found[0].model.id.lower(),),
    Sort.SIZE: lambda found: (-found[0].model.size_bytes, found[0].model.id.lower()),
    Sort.FIT: lambda found: (_FIT_ORDER[found[1]], -found[0].model.size_bytes, found[0].model.id.lower()),
}
"""Largest first, except by name: of the models that fit, the largest is the most capable."""


def _look(fit: Fit) -> FitView | None:
    if fit not in FIT_LOOKS:
        return None
    tone, sign = FIT_LOOKS[fit]
    return FitView(words.word(names.FITS, fit), tone, sign)


def _row(known: ModelText, fit: FitView | None, loaded: frozenset[str], chosen: str) -> ModelRow:
    return ModelRow(
        id=known.model.id,
        size=known.size,
        facts=known.facts,
        problem=known.problem,
        is_demo=known.model.is_demo,
        is_loaded=known.model.id in loaded,
        is_chosen=known.model.id == chosen,
        fit=fit,
    )
