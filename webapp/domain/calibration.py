"""Correct an estimate by what earlier launches on this machine measured. Pure.

A measurement is taken when a model has just become ready and has answered no request. Its meaning depends on the mode:

- **Transformers mode**: the device's own figure for the processes. At that moment they hold the weights and the
  context; the KV cache and the activations come with the first answers. So the figure is compared with these two parts
  and corrects the *context*, the less certain of them: ``context = largest measured - weights``. The estimates of KV
  cache and activations are kept and added. Weights and context do not depend on the context length or the batch size,
  so measurements with other values count as well; as that rests on this rule, they may lower the estimate by a quarter
  at most. A model that was never loaded here gets the context of the models that were, on the same kind of device: what
  their processes held in addition to torch's allocations.
- **vLLM mode**: the device's figure is the share that Warden assigned and says nothing. vLLM's log does: weights,
  memory that libraries took outside torch, the peak of its warm-up, CUDA graphs. With the same options these figures
  replace the parts of the estimate; warm-up and graphs depend on the options, so with other options only weights and
  libraries are replaced, and only upwards.

A correction never makes the admission less safe: the largest of the newest figures counts, not their mean; the weights,
which follow from the files, are never lowered; a figure below the weights covers only part of the model and is ignored;
the load peak of the estimate is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import fmean

from webapp.domain.footprint import Confidence, Footprint, MeasuredSpread, Part, PartName, Source
from webapp.domain.instance import MemoryReport
from webapp.domain.modes import LaunchOptions, Mode
from webapp.domain.units import GIB

NEWEST = 5
"""Measurements that count; older ones may come from other libraries or another driver."""
KEPT = 20
"""Measurements of one kind of launch that the store keeps for inspection."""
LOWERED_PERCENT = 25
"""The most by which a launch with other options may lower an estimate of weights and context."""
PRINTED_BYTES = GIB // 200 + 1
"""The largest rounding error of vLLM's log, which prints GiB with two decimals: half of the last digit."""


@dataclass(frozen=True)
class LaunchSetup:
    """What the memory of a launch depends on besides context length and batch size."""

    model_id: str
    revision: str
    mode: Mode
    engine: str
    """Name and version of the engine."""
    device: str
    """The name of the devices' kind; if there are several kinds, all of them in order."""
    device_count: int
    dtype: str
    quantization: str

    @property
    def of_any_model(self) -> LaunchSetup:
        """Return the same setup without the model: the context depends on the rest. Quantizing loads kernels of its
        own.
        """
        return replace(self, model_id="", revision="", dtype="")


@dataclass(frozen=True)
class LaunchKind:
    """The properties that launches share if they should take the same memory."""

    setup: LaunchSetup
    max_tokens: int
    batch_size: int


@dataclass(frozen=True)
class Measurement:
    """The memory of one launch as soon as it was ready. Of several devices the fullest counts: the estimate gives each
    device that amount.
    """

    kind: LaunchKind
    taken_at: float
    """Seconds since the epoch."""
    predicted_bytes: int
    """The amount that the plan expected at that moment."""
    measured_bytes: int | None
    """The device's figure."""
    told: MemoryReport = field(default_factory=MemoryReport)
    """The engine's figures."""

    @property
    def teaches(self) -> bool:
        """Whether the next estimate can use one of its figures."""
        return self.figure is not None

    @property
    def figure(self) -> int | None:
        """The one figure that the spread is computed from: the device's, or the sum of vLLM's."""
        if self.kind.setup.mode is Mode.TRANSFORMERS:
            return self.measured_bytes
        told = self.told
        base = told.weights_bytes if told.consumed_bytes is None else told.consumed_bytes
        return None if base is None else base + (self.activation_bytes or 0) + (self.graphs_bytes or 0)

    @property
    def context_bytes(self) -> int | None:
        """The bytes that a model's process held in addition to torch's allocations. ``None`` if that is unknown: in
        vLLM mode, and on several devices.
        """
        setup, allocated = self.kind.setup, self.told.allocated_bytes
        if (
            setup.mode is not Mode.TRANSFORMERS
            or setup.device_count > 1
            or not allocated
            or self.measured_bytes is None
        ):
            return None
        return max(self.measured_bytes - allocated, 0) or None

    @property
    def weights_bytes(self) -> int | None:
        """The weights in vLLM; an upper bound, since its figures are rounded."""
        return _most(self.told.weights_bytes)

    @property
    def consumed_bytes(self) -> int | None:
        """Weights and libraries in vLLM; an upper bound."""
        return _most(self.told.consumed_bytes)

    @property
    def activation_bytes(self) -> int | None:
        """The peak of vLLM's warm-up alone, an upper bound: since 0.21 the figure includes the memory reserved for
        graphs (gpu_worker.py).
        """
        peak, reserved = self.told.activation_bytes, self.told.graphs_reserved_bytes or 0
        return None if peak is None else max(peak - reserved, 0) + 2 * PRINTED_BYTES

    @property
    def graphs_bytes(self) -> int | None:
        """CUDA graphs in vLLM, an upper bound. The start needs the reserved amount, whatever the graphs take."""
        return _most(self.told.graphs_bytes, self.told.graphs_reserved_bytes)


def _most(*printed: int | None) -> int | None:
    known = [size for size in printed if size is not None]
    return max(known) + PRINTED_BYTES if known else None


@dataclass(frozen=True)
class LaunchHistory:
    """The newest measurements of comparable launches, newest first; never empty."""

    measurements: tuple[Measurement, ...]

    @cached_property
    def seen(self) -> MeasuredSpread:
        """The number of measurements and their spread."""
        figures = [m.figure for m in self.measurements if m.figure is not None]
        spread = 50 * (max(figures) - min(figures)) / (fmean(figures) or 1)
        return MeasuredSpread(len(figures), round(spread, 1))

    @property
    def weights_bytes(self) -> int | None:
        """The largest of the measured figures; ``None`` if vLLM reported none."""
        return _largest(m.weights_bytes for m in self.measurements)

    @property
    def context_bytes(self) -> int | None:
        """The largest measured context, as ``Measurement.context_bytes``; ``None`` if there is none."""
        return _largest(m.context_bytes for m in self.measurements)

    @property
    def consumed_bytes(self) -> int | None:
        """The largest measured sum of weights and libraries; ``None`` if vLLM reported none."""
        return _largest(m.consumed_bytes for m in self.measurements)

    @property
    def activation_bytes(self) -> int | None:
        """The largest measured peak of the warm-up; ``None`` if vLLM reported none."""
        return _largest(m.activation_bytes for m in self.measurements)

    @property
    def graphs_bytes(self) -> int | None:
        """The largest measured size of CUDA graphs; ``None`` if vLLM reported none."""
        return _largest(m.graphs_bytes for m in self.measurements)

    def of_whole(self, weights_bytes: int) -> LaunchHistory | None:
        """Return the history without figures below the weights; ``None`` if none is left."""
        whole = tuple(m for m in self.measurements if (m.figure or 0) >= weights_bytes)
        return self if whole == self.measurements else LaunchHistory(whole) if whole else None


def _largest(sizes: Iterable[int | None]) -> int | None:
    return max((size for size in sizes if size is not None), default=None)


def _with_newest(history: LaunchHistory | None, new: Measurement) -> LaunchHistory:
    known = () if history is None else history.measurements
    return LaunchHistory(tuple(sorted((new, *known), key=lambda m: -m.taken_at)[:NEWEST]))


@dataclass(frozen=True)
class Calibration:
    """All measurements, indexed for lookup. ``version`` rises with every measurement."""

    engines: Mapping[Mode, str] = field(default_factory=dict)
    """The engine that would run a model now, by mode."""
    by_kind: Mapping[LaunchKind, LaunchHistory] = field(default_factory=dict)
    by_setup: Mapping[LaunchSetup, LaunchHistory] = field(default_factory=dict)
    """Measurements whatever the options were."""
    by_device: Mapping[LaunchSetup, LaunchHistory] = field(default_factory=dict)
    """Measurements whatever the model was, see ``LaunchSetup.of_any_model``; only those that contain a context."""
    version: int = 0
    shares_libraries: bool = False
    """Whether a worker that is started now shares its libraries with others (the engine's name says so, too)."""

    def kind_of(
        self, model_id: str, revision: str, mode: Mode, options: LaunchOptions, names: Sequence[str | None]
    ) -> LaunchKind:
        """Return the kind of a launch at this moment, on devices of these ``names``."""
        device = " + ".join(dict.fromkeys(name or "" for name in names))
        setup = LaunchSetup(
            model_id=model_id,
            revision=revision,
            mode=mode,
            engine=self.engines.get(mode, ""),
            device=device,
            device_count=len(names),
            dtype=options.dtype.value,
            quantization=options.quantization.value,
        )
        return LaunchKind(setup, options.max_tokens, options.batch_size)

    def including(self, measurements: Iterable[Measurement]) -> Calibration:
        """Return this calibration with more measurements; unusable ones are left out."""
        by_kind, by_setup, by_device = dict(self.by_kind), dict(self.by_setup), dict(self.by_device)
        for new in measurements:
            if new.teaches:
                by_kind[new.kind] = _with_newest(by_kind.get(new.kind), new)
                by_setup[new.kind.setup] = _with_newest(by_setup.get(new.kind.setup), new)
            if new.context_bytes is not None:
                device = new.kind.setup.of_any_model
                by_device[device] = _with_newest(by_device.get(device), new)
        return replace(self, by_kind=by_kind, by_setup=by_setup, by_device=by_device, version=self.version + 1)

    def about(self, kind: LaunchKind) -> tuple[LaunchHistory, bool] | None:
        """Return the history of launches of this kind, else of those with other options; and whether the options were
        the same.
        """
        if (same := self.by_kind.get(kind)) is not None:
            return same, True
        other = self.by_setup.get(kind.setup)
        return None if other is None else (other, False)

    def context_on(self, setup: LaunchSetup) -> int | None:
        """Return the context that launches of any model had on such a device; ``None`` if there was none."""
        history = self.by_device.get(setup.of_any_model)
        return None if history is None else history.context_bytes


UNCALIBRATED = Calibration()


def resting_bytes(footprint: Footprint, mode: Mode) -> int:
    """Return the part of a footprint that is held as soon as the model is ready: all of it in vLLM, weights and context
    in transformers.
    """
    if mode is Mode.VLLM:
        return footprint.total_bytes
    return footprint.part(PartName.WEIGHTS) + footprint.part(PartName.CONTEXT) + footprint.warm_bytes


def corrected(footprints: tuple[Footprint, ...], kind: LaunchKind, calibration: Calibration) -> tuple[Footprint, ...]:
    """Return the footprints of a launch, corrected by measurements (see the module); unchanged if there are none."""
    found = calibration.about(kind)
    if found is None:
        context = calibration.context_on(kind.setup)
        return footprints if context is None else tuple(_on_known_device(each, context) for each in footprints)
    history, same_options = found
    correct = _by_the_log if kind.setup.mode is Mode.VLLM else _by_the_device
    return tuple(correct(footprint, history, same_options=same_options) for footprint in footprints)


def _on_known_device(footprint: Footprint, context: int) -> Footprint:
    """Return the footprint with the context that other models had. The load peak includes the context, too."""
    grown = context - footprint.part(PartName.CONTEXT)
    parts = tuple(
        Part(part.name, context, Source.DEVICE) if part.name is PartName.CONTEXT else part for part in footprint.parts
    )
    return replace(footprint, parts=parts, load_peak_bytes=footprint.load_peak_bytes + max(grown, 0))


def _by_the_device(footprint: Footprint, history: LaunchHistory, *, same_options: bool) -> Footprint:
    weights, context = footprint.part(PartName.WEIGHTS), footprint.part(PartName.CONTEXT)
    usable = history.of_whole(weights)
    if usable is None:
        return footprint
    measured = max(m.measured_bytes or 0 for m in usable.measurements) - weights - footprint.warm_bytes
    lowest = 0 if same_options else context - (weights + context) * LOWERED_PERCENT // 100
    return _with(footprint, {PartName.CONTEXT: max(measured, lowest, 0)}, usable, same_options=same_options)


def _by_the_log(footprint: Footprint, history: LaunchHistory, *, same_options: bool) -> Footprint:
    before = {part.name: part.bytes for part in footprint.parts}
    weights = max(before.get(PartName.WEIGHTS, 0), history.weights_bytes or 0)
    learned = {PartName.WEIGHTS: weights}
    if (consumed := history.consumed_bytes) is not None:
        learned[PartName.NON_TORCH] = max(consumed - weights, 0)
    if same_options:
        told = {PartName.ACTIVATION: history.activation_bytes, PartName.GRAPHS: history.graphs_bytes}
        learned |= {name: size for name, size in told.items() if size is not None}
    else:
        learned = {name: max(size, before.get(name, 0)) for name, size in learned.items()}
    return _with(footprint, learned, history, same_options=same_options)


def _with(
    footprint: Footprint, learned: Mapping[PartName, int], history: LaunchHistory, *, same_options: bool
) -> Footprint:
    """Return the footprint with these sizes; an unchanged part keeps its source."""
    parts = tuple(
        Part(part.name, size, Source.LEARNED, Confidence.HIGH)
        if (size := learned.get(part.name, part.bytes)) != part.bytes
        else part
        for part in footprint.parts
    )
    return replace(footprint, parts=parts, seen=replace(history.seen, same_options=same_options))
