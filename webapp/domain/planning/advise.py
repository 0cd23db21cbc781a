"""Advice for a chosen model: the largest configuration that fits, up to the row of the founding table. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from operator import itemgetter

from webapp.domain.model import CachedModel
from webapp.domain.modes import LaunchOptions, Mode, Precision
from webapp.domain.plan import Reach, SwitchRequest
from webapp.domain.planning.alternatives import SMALLEST_TOKENS, TOKENS_STEP, largest
from webapp.domain.planning.candidates import check_devices, check_unload, tier_of
from webapp.domain.planning.placement import openings
from webapp.domain.planning.requirement import Requirement, requirement_of
from webapp.domain.planning.state import DeviceGroup, PlanningState
from webapp.domain.planning.verdict import may_ask
from webapp.domain.recommend import Advice, Mark, Row, row_for
from webapp.errors import UnknownModel
from webapp.message import Message

USUAL_TOKENS = 512
"""The founding table's shortest context; the precision is lowered before the context becomes shorter than this."""
_LIGHTER = (Precision.FP16, Precision.INT8, Precision.INT4)


def advise(request: SwitchRequest, planning_state: PlanningState) -> Advice | None:
    """Return the largest configuration of the model that fits on the devices of ``request``; ``None`` on unknown
    memory.

    If nothing fits, return what would fit after other people's idle models are unloaded too.

    The mode, precision and figures of ``request`` are ignored. The advice is limited by the founding table's row for
    the memory that the launch would find, and by the model's context. Within that, the mode has priority, then the
    precision, the context and the batch.

    Raises:
        UnknownModel, UnknownDevice, UnknownInstance, InvalidRequest: as for a plan.
    """
    model = planning_state.models.get(request.model_id)
    if model is None:
        raise UnknownModel(model=request.model_id)
    advice = _within(Reach.CONFIRMED, request, model, planning_state)
    if advice is None or advice.mark is not Mark.NONE:
        return advice
    further = _within(Reach.IDLE, request, model, planning_state)
    return advice if further is None or further.mark is Mark.NONE else further


def _within(reach: Reach, request: SwitchRequest, model: CachedModel, planning_state: PlanningState) -> Advice | None:
    fit_checker = FitChecker(request, model, planning_state, reach)
    if fit_checker.free_bytes is None:
        return None
    return _AdviceSearch(fit_checker, model, row_for(fit_checker.free_bytes), planning_state).advice()


class FitChecker:
    """Checks whether variants of one request fit on any of their devices within one reach, by the plan's arithmetic."""

    def __init__(self, request: SwitchRequest, model: CachedModel, planning_state: PlanningState, reach: Reach) -> None:
        """Raise UnknownDevice, UnknownInstance, InvalidRequest."""
        check_devices(request, planning_state)
        check_unload(request, planning_state)
        self._model, self._planning_state, self._reach = model, planning_state, reach
        self._readable = [g for g in tier_of(request, reach, planning_state).choices if g.is_readable]
        self.request = request
        """The request that is evaluated. If every candidate holds a protected model, evictions are assumed: memory is
        reported anyway."""
        if not self._openings(request):
            self.request = replace(request, interrupt_busy=True, override_reason="")

    def _openings(self, request: SwitchRequest) -> list[DeviceGroup]:
        tier = tier_of(request, self._reach, self._planning_state)
        return openings(self._requirement(request), tier, request, self._planning_state)

    def _requirement(self, request: SwitchRequest) -> Requirement:
        return requirement_of(request, self._model, self._planning_state.calibration)

    @property
    def free_bytes(self) -> int | None:
        """The most available memory of a single device, or the least of the named ones; ``None`` if unknown."""
        least = [min(device.available_bytes or 0 for device in group.devices) for group in self._readable]
        return max(least, default=None)

    def fits(self, request: SwitchRequest) -> bool:
        """Return whether ``request``, a variant of the original one, would be refused neither for memory nor
        options."""
        if not may_ask(request, self._model):
            return False
        requirement = self._requirement(request)
        return any(requirement.fits(group) for group in self._openings(request))

    def shortfall(self, request: SwitchRequest) -> tuple[int, int, int]:
        """Return (required, reserve, shortfall) for the candidate with the smallest shortfall."""
        requirement = self._requirement(request)
        found = [
            max(
                zip(requirement.shortfalls(group), requirement.needs(group.places), _reserves(group), strict=True),
                key=itemgetter(0),
            )
            for group in self._openings(request) or self._readable
        ]
        missing, needed, reserve = min(found)
        return needed, reserve, missing


def _reserves(group: DeviceGroup) -> tuple[int, ...]:
    return tuple(device.reserve_bytes for device in group.devices)


@dataclass(frozen=True)
class _FittingRow:
    mode: Mode
    precision: Precision
    tokens: int
    batch: int

    def on(self, request: SwitchRequest) -> SwitchRequest:
        options = LaunchOptions(self.precision.dtype, self.precision.quantization, self.tokens, self.batch)
        return replace(request, mode=self.mode, options=options)


class _AdviceSearch:
    """The search for one model and one row of the table."""

    def __init__(self, fit_checker: FitChecker, model: CachedModel, row: Row, planning_state: PlanningState) -> None:
        self._fit_checker, self._model, self._row = fit_checker, model, row
        self._problems = {
            mode: problem for mode, problem in planning_state.mode_problems.items() if problem is not None
        }
        self._most = min(row.max_tokens, model.context_length or row.max_tokens)

    def advice(self) -> Advice:
        if self._model.problem is not None:
            return replace(self._nothing(), reasons=(self._model.problem,))
        modes = tuple(dict.fromkeys((self._row.mode, Mode.TRANSFORMERS)))
        wanted, found = self._first(modes), self._first(tuple(mode for mode in modes if mode not in self._problems))
        if found is None or wanted is None:
            stopped = self._problems.get(Mode.TRANSFORMERS)
            return self._nothing() if stopped is None else replace(self._nothing(), reasons=(stopped,))
        found = self._grown(found)
        mark = self._row.mark if not [*self._held_back(found, wanted.mode)] else Mark.LIMITED
        return Advice(
            mode=wanted.mode,
            precision=found.precision,
            max_tokens=found.tokens,
            batch_size=found.batch,
            mark=mark,
            usable_mode=found.mode,
            reasons=(self._free(), *self._held_back(found, wanted.mode), *self._limits(wanted.mode, found.mode)),
        )

    def _first(self, modes: tuple[Mode, ...]) -> _FittingRow | None:
        """Return the best mode and precision with room for a usual context for one request, or else for the
        shortest."""
        for least in dict.fromkeys(min(tokens, self._most) for tokens in (USUAL_TOKENS, SMALLEST_TOKENS)):
            for mode in modes:
                for precision in self._precisions(mode):
                    found = _FittingRow(mode, precision, least, 1)
                    if self._fits(found):
                        return found
        return None

    def _precisions(self, mode: Mode) -> tuple[Precision, ...]:
        if self._model.quantization is not None:
            return (Precision.AUTO,)
        lighter = _LIGHTER[_LIGHTER.index(self._row.precision) :]
        return lighter if mode is Mode.TRANSFORMERS else lighter[:1]

    def _grown(self, least: _FittingRow) -> _FittingRow:
        found = replace(least, tokens=self._most)
        if not self._fits(found):
            steps = largest(
                lambda n: self._fits(replace(least, tokens=n * TOKENS_STEP)),
                -(-least.tokens // TOKENS_STEP),
                (self._most - 1) // TOKENS_STEP,
            )
            found = replace(least, tokens=steps * TOKENS_STEP if steps else least.tokens)
        batch = largest(lambda n: self._fits(replace(found, batch=n)), 1, self._row.batch_size)
        return replace(found, batch=batch or 1)

    def _fits(self, found: _FittingRow) -> bool:
        return self._fit_checker.fits(found.on(self._fit_checker.request))

    def _held_back(self, found: _FittingRow, wanted: Mode) -> Iterator[Message]:
        """Yield what the row allows but the memory does not."""
        if wanted is not self._row.mode:
            yield Message("advice_mode_short", {"mode": self._row.mode.value})
        if found.precision not in (Precision.AUTO, self._row.precision):
            yield Message("advice_precision_short", {"precision": self._row.precision.value})
        if found.tokens < self._most:
            yield Message("advice_tokens_short", {"max_tokens": self._most})
        elif found.batch < self._row.batch_size:
            yield Message("advice_batch_short", {"batch_size": self._row.batch_size})

    def _limits(self, wanted: Mode, usable: Mode) -> Iterator[Message]:
        """Yield the limits of the model's files and of the server, regardless of the memory."""
        if self._model.quantization is not None:
            yield Message("advice_quantized", {"method": self._model.quantization})
        if self._most < self._row.max_tokens:
            yield Message("advice_context", {"max_tokens": self._most})
        if wanted is not usable:
            yield Message("advice_vllm_unavailable")
            yield self._problems[wanted]

    def _free(self) -> Message:
        free, row = self._fit_checker.free_bytes, self._row
        return Message("advice_free", {"free_bytes": free, "from_bytes": row.from_bytes})

    def _nothing(self) -> Advice:
        """Return the smallest possible configuration, and how much memory is missing even for that."""
        precision = self._precisions(Mode.TRANSFORMERS)[-1]
        least = _FittingRow(Mode.TRANSFORMERS, precision, min(SMALLEST_TOKENS, self._most), 1)
        needed, reserve, missing = self._fit_checker.shortfall(least.on(self._fit_checker.request))
        figures = {"needed_bytes": needed, "reserve_bytes": reserve, "missing_bytes": missing}
        return Advice(
            mode=least.mode,
            precision=precision,
            max_tokens=least.tokens,
            batch_size=1,
            mark=Mark.NONE,
            usable_mode=least.mode,
            reasons=(Message("advice_nothing", figures), self._free()),
        )
