"""Footprints against figures that can be checked by hand or are published."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.control.fakes import model
from webapp.domain.footprint import (
    GPU_CONTEXT_BYTES,
    HOST_CONTEXT_BYTES,
    PartName,
    estimate,
    kv_cache_bytes,
    weights_bytes,
)
from webapp.domain.memory import DeviceKind
from webapp.domain.model import CachedModel, ModelShape, WeightFacts
from webapp.domain.modes import Dtype, LaunchOptions, Precision
from webapp.domain.units import gib

LLAMA_8B = replace(
    model("meta/llama-3.1-8b"),
    shape=ModelShape(32, 4096, 14336, 32, 8, 128, 128256),
    weights=WeightFacts(
        bytes=16_060_522_496,
        elements=8_030_261_248,
        linear_elements=6_979_321_856,
        linear_rows=1_441_792,
        dtypes=(("BF16", 8_030_261_248),),
    ),
)
GPU = [("gpu-0", DeviceKind.GPU)]


def options(precision: Precision = Precision.AUTO, **changes: int) -> LaunchOptions:
    return LaunchOptions(precision.dtype, precision.quantization, **changes)


def test_kv_cache_of_llama_8b_is_131072_bytes_a_token() -> None:
    figure, exact = kv_cache_bytes(LLAMA_8B, options(max_tokens=1000, batch_size=3), 0, on_host=False)
    assert (figure, exact) == (131072 * 3000, True)


def test_weights_of_llama_8b_are_14_96_gib_in_16_bit_and_twice_that_in_32() -> None:
    half, _ = weights_bytes(LLAMA_8B, options(), on_host=False)
    assert half / gib(1) == pytest.approx(14.96, abs=0.01)
    assert weights_bytes(LLAMA_8B, options(Precision.FP32), on_host=False)[0] == 2 * half


def test_int8_and_nf4_convert_the_linear_layers_only() -> None:
    int8, _ = weights_bytes(LLAMA_8B, options(Precision.INT8), on_host=False)
    assert int8 / gib(1) == pytest.approx(8.46, abs=0.02)
    nf4, _ = weights_bytes(LLAMA_8B, options(Precision.INT4), on_host=False)
    assert nf4 / gib(1) == pytest.approx(5.61, abs=0.02)


def test_auto_turns_fp32_files_into_fp16_on_a_gpu_and_keeps_them_on_the_host() -> None:
    facts = replace(LLAMA_8B.weights, dtypes=(("F32", 100),)) if LLAMA_8B.weights else None
    cached = replace(LLAMA_8B, weights=facts, dtype="float32")
    assert weights_bytes(cached, options(), on_host=False)[0] == 200
    assert weights_bytes(cached, options(), on_host=True)[0] == 400


def test_files_that_are_quantized_keep_their_bytes() -> None:
    cached = replace(LLAMA_8B, quantization="gptq")
    assert weights_bytes(cached, options(), on_host=False)[0] == 16_060_522_496


def test_unknown_files_give_a_rough_estimate_and_never_nothing() -> None:
    cached = replace(LLAMA_8B, weights=None, shape=None, size_bytes=gib(2))
    (footprint,) = estimate(cached, options(), GPU)
    assert not footprint.exact
    assert footprint.part(PartName.WEIGHTS) == gib(2)
    assert footprint.part(PartName.KV_CACHE) > 0


def test_parts_are_weights_cache_a_tenth_and_the_context() -> None:
    (footprint,) = estimate(LLAMA_8B, options(), GPU)
    body = footprint.part(PartName.WEIGHTS) + footprint.part(PartName.KV_CACHE)
    assert footprint.part(PartName.MARGIN) == body // 10
    assert footprint.part(PartName.CONTEXT) == GPU_CONTEXT_BYTES
    assert footprint.total_bytes == body + body // 10 + GPU_CONTEXT_BYTES


def test_two_devices_share_weights_and_cache_and_each_has_a_context() -> None:
    one = estimate(LLAMA_8B, options(), GPU)[0]
    two = estimate(LLAMA_8B, options(), [("gpu-0", DeviceKind.GPU), ("gpu-1", DeviceKind.GPU)])
    assert [f.part(PartName.WEIGHTS) for f in two] == [-(-one.part(PartName.WEIGHTS) // 2)] * 2
    assert [f.part(PartName.CONTEXT) for f in two] == [GPU_CONTEXT_BYTES] * 2


def test_the_host_has_a_context_of_its_own() -> None:
    (footprint,) = estimate(LLAMA_8B, options(), [("host", DeviceKind.HOST)])
    assert footprint.part(PartName.CONTEXT) == HOST_CONTEXT_BYTES


@given(
    tokens=st.integers(1, 200_000),
    batch=st.integers(1, 64),
    precision=st.sampled_from(list(Precision)),
)
def test_more_tokens_or_requests_never_take_less(tokens: int, batch: int, precision: Precision) -> None:
    def total(cached: CachedModel, **changes: int) -> int:
        return estimate(cached, options(precision, **changes), GPU)[0].total_bytes

    here = total(LLAMA_8B, max_tokens=tokens, batch_size=batch)
    assert 0 < here <= total(LLAMA_8B, max_tokens=tokens + 1, batch_size=batch)
    assert here <= total(LLAMA_8B, max_tokens=tokens, batch_size=batch + 1)
    assert options(precision).dtype in Dtype
