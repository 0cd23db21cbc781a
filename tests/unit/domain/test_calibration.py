"""What was measured corrects the next estimate, and never makes it less safe."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.control.fakes import model
from webapp.domain.calibration import (
    LOWERED_PERCENT,
    NEWEST,
    PRINTED_BYTES,
    Calibration,
    Measurement,
    corrected,
    resting_bytes,
)
from webapp.domain.footprint import Conditions, Footprint, MeasuredSpread, PartName, Source, estimate
from webapp.domain.instance import MemoryReport
from webapp.domain.memory import DeviceKind
from webapp.domain.modes import LaunchOptions, Mode, Quantization
from webapp.domain.units import MIB, gib

MODEL = model("lab/one", weights_bytes=gib(2))
OPTIONS = LaunchOptions()
CARD = "Card"
NO_LESSONS = Calibration({Mode.TRANSFORMERS: "transformers 5", Mode.VLLM: "vllm:1"})
WEIGHTS = gib(2)


def estimated(mode: Mode = Mode.TRANSFORMERS, options: LaunchOptions = OPTIONS) -> Footprint:
    conditions = Conditions(device_memory_bytes=gib(24))
    return estimate(MODEL, options, [("gpu-0", DeviceKind.GPU)], mode, conditions)[0]


def history(
    *measured_bytes: int,
    mode: Mode = Mode.TRANSFORMERS,
    options: LaunchOptions = OPTIONS,
    told: MemoryReport | None = None,
    device: str = CARD,
) -> Calibration:
    """What is known after launches that were measured so, one after the other."""
    kind = NO_LESSONS.kind_of(MODEL.id, MODEL.revision, mode, options, [device])
    report = told or MemoryReport()
    return NO_LESSONS.including(Measurement(kind, float(at), 0, size, report) for at, size in enumerate(measured_bytes))


def learned(calibration: Calibration, mode: Mode = Mode.TRANSFORMERS, options: LaunchOptions = OPTIONS) -> Footprint:
    kind = calibration.kind_of(MODEL.id, MODEL.revision, mode, options, [CARD])
    return corrected((estimated(mode, options),), kind, calibration)[0]


def test_without_a_measurement_the_estimate_stays() -> None:
    assert learned(NO_LESSONS) == estimated()


def test_what_was_measured_at_rest_takes_the_place_of_weights_and_context() -> None:
    footprint = learned(history(WEIGHTS + 300 * MIB))
    assert resting_bytes(footprint, Mode.TRANSFORMERS) == WEIGHTS + 300 * MIB
    assert footprint.seen == MeasuredSpread(1, 0.0)
    context = next(part for part in footprint.parts if part.name is PartName.CONTEXT)
    assert (context.bytes, context.source) == (300 * MIB - footprint.warm_bytes, Source.LEARNED)


def test_what_comes_with_the_first_answer_is_still_counted_on_top() -> None:
    before, after = estimated(), learned(history(WEIGHTS + 300 * MIB))
    for name in (PartName.WEIGHTS, PartName.KV_CACHE, PartName.ACTIVATION):
        assert after.part(name) == before.part(name)
    assert after.load_peak_bytes == before.load_peak_bytes


def test_the_largest_of_the_newest_counts_and_the_spread_is_told() -> None:
    footprint = learned(history(gib(9), *(WEIGHTS + mib * MIB for mib in (300, 320, 340, 310, 305))))
    assert resting_bytes(footprint, Mode.TRANSFORMERS) == WEIGHTS + 340 * MIB
    assert footprint.seen == MeasuredSpread(NEWEST, 0.8)


def test_figure_below_the_weights_teaches_nothing() -> None:
    assert learned(history(WEIGHTS - 1)) == estimated()
    assert learned(history(WEIGHTS - 1, WEIGHTS + MIB)).seen == MeasuredSpread(1, 0.0)


def test_other_context_or_batch_is_corrected_too_and_lowered_by_a_quarter_at_most() -> None:
    other = LaunchOptions(max_tokens=512, batch_size=4)
    footprint = learned(history(WEIGHTS + 300 * MIB, options=other))
    assert resting_bytes(footprint, Mode.TRANSFORMERS) == WEIGHTS + 300 * MIB
    assert footprint.seen == MeasuredSpread(1, 0.0, same_options=False)
    small = replace(estimated(), parts=tuple(p for p in estimated().parts if p.name is not PartName.WEIGHTS))
    kind = NO_LESSONS.kind_of(MODEL.id, MODEL.revision, Mode.TRANSFORMERS, OPTIONS, [CARD])
    (lowered,) = corrected((small,), kind, history(MIB, options=other))
    assert lowered.part(PartName.CONTEXT) * 100 >= small.part(PartName.CONTEXT) * (100 - LOWERED_PERCENT)


def test_own_options_go_before_others() -> None:
    other, own = history(WEIGHTS + 900 * MIB, options=LaunchOptions(max_tokens=512)), history(WEIGHTS + 300 * MIB)
    both = replace(other, by_kind={**other.by_kind, **own.by_kind})
    assert resting_bytes(learned(both), Mode.TRANSFORMERS) == WEIGHTS + 300 * MIB


def test_other_precision_device_or_libraries_say_nothing() -> None:
    measured = history(WEIGHTS + 300 * MIB)
    int8 = LaunchOptions(quantization=Quantization.INT8)
    assert learned(measured, options=int8).seen is None
    assert learned(history(WEIGHTS + 300 * MIB, device="Other card")).seen is None
    assert learned(replace(measured, engines={Mode.TRANSFORMERS: "transformers 6"})).seen is None
    assert learned(replace(measured, engines=NO_LESSONS.engines)).seen is not None


def told_of_another(held: int, allocated: int | None, **options: Any) -> Calibration:
    """What is known after another model was loaded and held so much."""
    kind = NO_LESSONS.kind_of("lab/other", "r", Mode.TRANSFORMERS, LaunchOptions(**options), [CARD])
    return NO_LESSONS.including([Measurement(kind, 0.0, 0, held, MemoryReport(allocated_bytes=allocated))])


def context(footprint: Footprint) -> tuple[int, Source]:
    return next((part.bytes, part.source) for part in footprint.parts if part.name is PartName.CONTEXT)


def test_new_model_has_the_context_of_those_that_were_loaded_on_such_a_device() -> None:
    before, after = estimated(), learned(told_of_another(gib(9), gib(9) - 400 * MIB, max_tokens=512))
    assert context(after) == (400 * MIB, Source.DEVICE)
    assert (after.seen, after.part(PartName.KV_CACHE)) == (None, before.part(PartName.KV_CACHE))
    assert after.load_peak_bytes == before.load_peak_bytes, "it is never lowered"
    larger = learned(told_of_another(gib(9), gib(7)))
    assert context(larger) == (gib(2), Source.DEVICE)
    assert larger.load_peak_bytes - before.load_peak_bytes == gib(2) - before.part(PartName.CONTEXT)


def test_own_measurement_goes_before_the_devices() -> None:
    own = Measurement(next(iter(history(0).by_kind)), 1.0, 0, WEIGHTS + gib(1))
    both = told_of_another(gib(9), gib(7)).including([own])
    assert resting_bytes(learned(both), Mode.TRANSFORMERS) == WEIGHTS + gib(1)


@pytest.mark.parametrize(
    "calibration",
    [
        told_of_another(gib(9), None),
        told_of_another(gib(9), gib(9)),
        told_of_another(gib(9), gib(8), quantization=Quantization.INT8),
    ],
)
def test_context_that_is_not_known_or_of_other_kernels_is_not_taken(calibration: Calibration) -> None:
    assert learned(calibration) == estimated()


def test_context_of_a_model_on_two_devices_is_not_known() -> None:
    kind = NO_LESSONS.kind_of("lab/other", "r", Mode.TRANSFORMERS, OPTIONS, [CARD, CARD])
    measured = Measurement(kind, 0.0, 0, gib(9), MemoryReport(allocated_bytes=gib(16)))
    assert measured.context_bytes is None


def test_vllm_teaches_what_its_log_says_and_not_the_share_it_was_given() -> None:
    told = MemoryReport(
        weights_bytes=gib(2.03), consumed_bytes=gib(2.2), activation_bytes=gib(1.1), graphs_bytes=gib(0.2)
    )
    footprint = learned(history(gib(20), mode=Mode.VLLM, told=told), Mode.VLLM)
    assert footprint.part(PartName.WEIGHTS) == gib(2.03) + PRINTED_BYTES
    assert footprint.part(PartName.WEIGHTS) + footprint.part(PartName.NON_TORCH) == gib(2.2) + PRINTED_BYTES
    assert footprint.part(PartName.ACTIVATION) == gib(1.1) + 2 * PRINTED_BYTES
    assert footprint.part(PartName.GRAPHS) == gib(0.2) + PRINTED_BYTES
    assert footprint.part(PartName.KV_CACHE) == estimated(Mode.VLLM).part(PartName.KV_CACHE)
    assert {part.name for part in footprint.parts if part.source is not Source.LEARNED} == {
        PartName.KV_CACHE,
        PartName.CONTEXT,
    }


@pytest.mark.parametrize(("reserved", "captured", "counted"), [(0.6, 0.4, 0.6), (0.3, 0.5, 0.5)])
def test_what_vllm_set_aside_for_graphs_is_counted_once(reserved: float, captured: float, counted: float) -> None:
    told = MemoryReport(
        weights_bytes=gib(2),
        activation_bytes=gib(1.5),
        graphs_reserved_bytes=gib(reserved),
        graphs_bytes=gib(captured),
    )
    footprint = learned(history(gib(20), mode=Mode.VLLM, told=told), Mode.VLLM)
    assert footprint.part(PartName.GRAPHS) == gib(counted) + PRINTED_BYTES
    assert footprint.part(PartName.ACTIVATION) == gib(1.5) - gib(reserved) + 2 * PRINTED_BYTES


def test_vllm_that_said_nothing_teaches_nothing() -> None:
    assert learned(history(gib(20), mode=Mode.VLLM), Mode.VLLM) == estimated(Mode.VLLM)


def test_only_the_newest_are_at_hand_whatever_the_order_they_came_in() -> None:
    calibration = history(*range(NEWEST + 3))
    older = Measurement(next(iter(calibration.by_kind)), -1.0, 0, gib(9))
    after = calibration.including((older,))
    (at_hand,) = after.by_kind.values()
    assert [m.measured_bytes for m in at_hand.measurements] == list(reversed(range(3, NEWEST + 3)))
    assert after.version > calibration.version > NO_LESSONS.version


sizes = st.lists(st.integers(0, gib(40)), min_size=1, max_size=8)
launches = st.builds(LaunchOptions, max_tokens=st.sampled_from([256, 2048, 8192]), batch_size=st.sampled_from([1, 4]))


@given(sizes, launches, launches)
def test_corrected_footprint_is_never_below_what_was_measured_nor_below_weights_and_cache(
    measured: list[int], asked: LaunchOptions, launched: LaunchOptions
) -> None:
    before, after = estimated(options=asked), learned(history(*measured, options=launched), options=asked)
    floor = sum(before.part(name) for name in (PartName.WEIGHTS, PartName.KV_CACHE, PartName.ACTIVATION))
    assert after.total_bytes >= floor
    whole = [size for size in measured[-NEWEST:] if size >= before.part(PartName.WEIGHTS)]
    assert resting_bytes(after, Mode.TRANSFORMERS) >= max(whole, default=0)
    assert after.total_bytes == sum(part.bytes for part in after.parts)
    assert after.required_bytes >= before.load_peak_bytes


reports = st.builds(
    MemoryReport,
    weights_bytes=st.none() | st.integers(0, gib(40)),
    consumed_bytes=st.none() | st.integers(0, gib(40)),
    activation_bytes=st.none() | st.integers(0, gib(4)),
    graphs_reserved_bytes=st.none() | st.integers(0, gib(2)),
    graphs_bytes=st.none() | st.integers(0, gib(2)),
)


@given(reports, launches, launches)
def test_corrected_share_of_vllm_holds_what_the_log_said_and_never_less_than_weights_and_cache(
    told: MemoryReport, asked: LaunchOptions, launched: LaunchOptions
) -> None:
    before = estimated(Mode.VLLM, asked)
    after = learned(history(1, mode=Mode.VLLM, options=launched, told=told), Mode.VLLM, asked)
    for name in (PartName.WEIGHTS, PartName.KV_CACHE, PartName.CONTEXT):
        assert after.part(name) >= before.part(name)
    if after.seen is not None:
        assert after.part(PartName.WEIGHTS) >= (told.weights_bytes or 0)
        assert after.part(PartName.WEIGHTS) + after.part(PartName.NON_TORCH) >= (told.consumed_bytes or 0)
    if after.seen is not None and after.seen.same_options:
        assert after.part(PartName.ACTIVATION) + after.part(PartName.GRAPHS) >= (told.activation_bytes or 0)
        assert after.part(PartName.GRAPHS) >= (told.graphs_bytes or 0)
    if asked != launched:
        assert all(after.part(part.name) >= part.bytes for part in before.parts)
