"""Footprints against figures that can be checked by hand or are published."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.control.fakes import model
from webapp.domain.calibration import resting_bytes
from webapp.domain.footprint import (
    GPU_CONTEXT_BYTES,
    HOST_CONTEXT_BYTES,
    Conditions,
    Confidence,
    Footprint,
    Note,
    Part,
    PartName,
    Source,
    default_limits,
    estimate,
)
from webapp.domain.footprint.activation import CUDA_WORKSPACE_BYTES
from webapp.domain.footprint.kv_cache import cache_rule, token_bytes
from webapp.domain.memory import DeviceKind
from webapp.domain.model import (
    AttentionDoubt,
    AttentionFacts,
    CachedModel,
    CacheKind,
    CacheLayers,
    ExpertFacts,
    ModelShape,
    WeightFacts,
    WeightsSource,
)
from webapp.domain.modes import Dtype, LaunchOptions, Mode, Precision
from webapp.domain.units import GIB, gib

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


def in_transformers(cached: CachedModel, asked: LaunchOptions, conditions: Conditions | None = None) -> Footprint:
    return estimate(cached, asked, GPU, Mode.TRANSFORMERS, conditions)[0]


def in_vllm(
    cached: CachedModel, asked: LaunchOptions, conditions: Conditions | None = None, devices: int = 1
) -> Footprint:
    gpus = [(f"gpu-{n}", DeviceKind.GPU) for n in range(devices)]
    return estimate(cached, asked, gpus, Mode.VLLM, conditions)[0]


def weights_of(cached: CachedModel, precision: Precision = Precision.AUTO, kind: DeviceKind = DeviceKind.GPU) -> int:
    return estimate(cached, options(precision), [("one", kind)])[0].part(PartName.WEIGHTS)


def keeping(*layers: CacheLayers, cached: CachedModel = LLAMA_8B, **more: object) -> CachedModel:
    return replace(cached, attention=AttentionFacts(layers, **more))  # type: ignore[arg-type]


def test_kv_cache_of_llama_8b_is_131072_bytes_a_token() -> None:
    assert in_transformers(LLAMA_8B, options(max_tokens=1000, batch_size=3)).part(PartName.KV_CACHE) == 131072 * 3000
    assert in_vllm(LLAMA_8B, options(max_tokens=1024, batch_size=3)).part(PartName.KV_CACHE) == 131072 * 3072


def test_vllm_keeps_whole_blocks_of_sixteen_tokens() -> None:
    assert in_vllm(LLAMA_8B, options(max_tokens=1025)).part(PartName.KV_CACHE) == 131072 * 1040


def test_weights_of_llama_8b_are_14_96_gib_in_16_bit_and_twice_that_in_32() -> None:
    half = weights_of(LLAMA_8B)
    assert half / GIB == pytest.approx(14.96, abs=0.01)
    assert weights_of(LLAMA_8B, Precision.FP32) == 2 * half


def test_int8_and_nf4_convert_the_linear_layers_only() -> None:
    assert weights_of(LLAMA_8B, Precision.INT8) / GIB == pytest.approx(8.46, abs=0.02)
    assert weights_of(LLAMA_8B, Precision.INT4) / GIB == pytest.approx(5.61, abs=0.02)


def test_experts_that_are_fused_stay_as_they_are_and_it_is_said() -> None:
    assert LLAMA_8B.weights is not None
    facts = replace(LLAMA_8B.weights, linear_elements=10**8, expert_elements=7 * 10**9)
    footprint = in_transformers(replace(LLAMA_8B, weights=facts), options(Precision.INT8))
    assert footprint.part(PartName.WEIGHTS) > 0.98 * facts.bytes
    assert Note.EXPERTS_NOT_QUANTIZED in footprint.notes


def test_auto_turns_fp32_files_into_fp16_on_a_gpu_and_keeps_them_on_the_host() -> None:
    facts = replace(LLAMA_8B.weights, dtypes=(("F32", 100),)) if LLAMA_8B.weights else None
    cached = replace(LLAMA_8B, weights=facts, dtype="float32")
    assert weights_of(cached) == 200
    assert weights_of(cached, kind=DeviceKind.HOST) == 400


def test_auto_is_the_type_that_the_configuration_asks_for() -> None:
    facts = replace(LLAMA_8B.weights, dtypes=(("F32", 100), ("I64", 1))) if LLAMA_8B.weights else None
    cached = replace(LLAMA_8B, weights=facts, dtype="float32", stated_dtype="bfloat16")
    assert weights_of(cached, kind=DeviceKind.HOST) == 208


def test_files_that_are_quantized_keep_their_bytes() -> None:
    assert weights_of(replace(LLAMA_8B, quantization="gptq")) == 16_060_522_496


@pytest.mark.parametrize(
    ("method", "mode", "kind", "unpacked"),
    [
        ("mxfp4", Mode.TRANSFORMERS, DeviceKind.GPU, True),
        ("mxfp4", Mode.VLLM, DeviceKind.GPU, False),
        ("fp8", Mode.TRANSFORMERS, DeviceKind.GPU, False),
        ("fp8", Mode.TRANSFORMERS, DeviceKind.HOST, True),
    ],
)
def test_what_transformers_unpacks_takes_two_bytes_a_weight(
    method: str, mode: Mode, kind: DeviceKind, unpacked: bool
) -> None:
    cached = replace(LLAMA_8B, quantization=method, parameters=20 * 10**9)
    (footprint,) = estimate(cached, options(), [("one", kind)], mode)
    assert (footprint.part(PartName.WEIGHTS) == 40 * 10**9) is unpacked
    assert (Note.DEQUANTIZED in footprint.notes) is unpacked


def test_unknown_files_give_a_rough_estimate_and_never_nothing() -> None:
    cached = replace(LLAMA_8B, weights=None, shape=None, size_bytes=gib(2))
    (footprint,) = estimate(cached, options(), GPU)
    assert not footprint.exact
    assert footprint.confidence is Confidence.LOW
    assert footprint.part(PartName.WEIGHTS) == gib(2)
    assert footprint.part(PartName.KV_CACHE) > 0 < footprint.part(PartName.ACTIVATION)
    assert {Note.WEIGHTS_FROM_FILES, Note.UNSTATED_SIZES} <= set(footprint.notes)


def test_a_prompt_that_goes_in_at_once_needs_its_activations_beside_its_keys() -> None:
    footprint = in_transformers(LLAMA_8B, options(max_tokens=4096, batch_size=2))
    prefill = 2 * 4096 * 2 * (3 * 14336 + 4 * 4096)
    assert footprint.part(PartName.ACTIVATION) == prefill + CUDA_WORKSPACE_BYTES
    assert footprint.part(PartName.CONTEXT) == GPU_CONTEXT_BYTES
    assert footprint.part(PartName.GRAPHS) == footprint.part(PartName.NON_TORCH) == 0


def test_the_peak_is_at_the_prompt_or_at_the_end_whichever_needs_more() -> None:
    def peak(prompt: int) -> int:
        footprint = in_transformers(LLAMA_8B, options(max_tokens=4096), Conditions(prompt_tokens=prompt))
        return footprint.total_bytes - footprint.part(PartName.WEIGHTS) - GPU_CONTEXT_BYTES - CUDA_WORKSPACE_BYTES

    assert peak(100) == 4096 * 131072
    assert peak(4000) == 4000 * (131072 + 2 * (3 * 14336 + 4 * 4096))


def test_a_sliding_window_ends_the_growth_of_its_layers() -> None:
    cached = keeping(CacheLayers(CacheKind.FULL, 2, 8, 256), CacheLayers(CacheKind.WINDOW, 4, 8, 256, 1024))
    long = in_transformers(cached, options(max_tokens=10_000), Conditions(prompt_tokens=10))
    assert long.part(PartName.KV_CACHE) == 8 * 256 * 2 * (2 * 10_000 + 4 * 1024)
    short = in_transformers(cached, options(max_tokens=512))
    assert short.part(PartName.KV_CACHE) == 8 * 256 * 2 * 6 * 512
    assert Note.MASKED_WINDOW in in_transformers(cached, options(max_tokens=2048)).notes
    assert Note.MASKED_WINDOW not in short.notes


def test_vllm_holds_a_window_and_the_tokens_in_flight() -> None:
    cached = keeping(CacheLayers(CacheKind.FULL, 18, 8, 128), CacheLayers(CacheKind.WINDOW, 18, 8, 128, 128))
    footprint = in_vllm(cached, options(max_tokens=131_072), Conditions(device_memory_bytes=80 * GIB))
    held = -(-(127 + 8192) // 16) * 16 + 16
    assert footprint.part(PartName.KV_CACHE) == 18 * 8 * 128 * 2 * (131_072 + held)
    assert token_bytes(cache_rule(cached, 0, 2)) == 73728


def test_a_latent_cache_has_no_heads_to_divide() -> None:
    cached = keeping(CacheLayers(CacheKind.LATENT, 61, 1, 576), expanded_values=114_688)
    one, four = (in_vllm(cached, options(max_tokens=1600), devices=n).part(PartName.KV_CACHE) for n in (1, 4))
    assert one == four == 61 * 576 * 2 * 1600


def test_a_state_is_the_same_for_every_length() -> None:
    cached = keeping(CacheLayers(CacheKind.STATE, 48, 1, 1000), doubt=AttentionDoubt.STATE_SIZES)
    short, long = (in_transformers(cached, options(max_tokens=n)).part(PartName.KV_CACHE) for n in (1, 10**6))
    assert short == long == 48 * 1000 * 4
    assert Note.STATE_LAYERS in in_transformers(cached, options()).notes


def test_an_encoder_keeps_nothing() -> None:
    footprint = in_transformers(keeping(), options())
    assert footprint.part(PartName.KV_CACHE) == 0
    assert Note.NO_KV_CACHE in footprint.notes


def test_eager_attention_grows_with_the_square_of_the_prompt() -> None:
    cached = keeping(CacheLayers(CacheKind.FULL, 32, 8, 256), is_eager=True, heads=32)
    one, two = (in_transformers(cached, options(max_tokens=n)).part(PartName.ACTIVATION) for n in (4096, 8192))
    assert two > 3 * one


def test_tensor_parallel_divides_keys_by_their_heads_at_the_most() -> None:
    caches = [in_vllm(LLAMA_8B, options(), devices=n).part(PartName.KV_CACHE) for n in (1, 4, 16)]
    assert caches == [caches[0], caches[0] // 4, caches[0] // 8]


def test_norms_are_on_every_device_whole() -> None:
    assert LLAMA_8B.weights is not None
    facts = replace(LLAMA_8B.weights, replicated_bytes=10**9)
    held = in_vllm(replace(LLAMA_8B, weights=facts), options(), devices=2).part(PartName.WEIGHTS)
    assert held == 10**9 + -(-(facts.bytes - 10**9) // 2)


@pytest.mark.parametrize(
    ("memory", "name", "limits"),
    [
        (None, "", (2048, 256)),
        (24.0, "", (2048, 256)),
        (80.0, "NVIDIA A100-SXM4-80GB", (2048, 256)),
        (79.19, "", (8192, 1024)),
        (180.0, "", (16384, 1024)),
    ],
)
def test_vllms_own_limits_follow_from_the_device(memory: float | None, name: str, limits: tuple[int, int]) -> None:
    found = default_limits(Conditions(device_memory_bytes=None if memory is None else gib(memory), device_name=name))
    assert (found.tokens, found.requests) == limits


def test_experts_take_the_activations_of_those_that_a_token_goes_through() -> None:
    shape = ModelShape(48, 2048, 6144, 32, 4, 128, 151936, ExpertFacts(128, 8, 768))
    footprint = in_transformers(replace(LLAMA_8B, shape=shape), options(max_tokens=1000))
    wanted = 1000 * 2 * (8 * (3 * 768 + 2048) + 4 * 2048)
    assert footprint.part(PartName.ACTIVATION) == wanted + CUDA_WORKSPACE_BYTES
    assert Note.EXPERTS in footprint.notes


def test_an_unknown_architecture_is_estimated_and_marked() -> None:
    cached = keeping(CacheLayers(CacheKind.FULL, 32, 8, 256), doubt=AttentionDoubt.UNKNOWN_ARCHITECTURE)
    footprint = in_transformers(cached, options())
    assert footprint.confidence is Confidence.LOW
    assert footprint.part(PartName.KV_CACHE) == 2048 * 131072
    assert Note.UNKNOWN_ARCHITECTURE in footprint.notes


def test_each_part_says_where_it_comes_from() -> None:
    by_name = {part.name: part for part in in_vllm(LLAMA_8B, options()).parts}
    assert set(by_name) == set(PartName)
    assert by_name[PartName.WEIGHTS] == Part(PartName.WEIGHTS, 16_060_522_496, Source.HEADERS, Confidence.HIGH)
    assert by_name[PartName.CONTEXT].source is Source.PUBLISHED
    assert LLAMA_8B.weights is not None
    rough = replace(LLAMA_8B, weights=replace(LLAMA_8B.weights, source=WeightsSource.SIZES))
    assert in_vllm(rough, options()).parts[0].source is Source.SIZES


def test_quantizing_on_the_host_holds_more_than_what_is_left_of_it() -> None:
    host = [("host", DeviceKind.HOST)]
    plain, int8, nf4 = (
        estimate(LLAMA_8B, options(p), host)[0] for p in (Precision.FP16, Precision.INT8, Precision.INT4)
    )
    assert plain.load_peak_bytes < plain.total_bytes
    assert int8.load_peak_bytes - int8.part(PartName.WEIGHTS) > plain.load_peak_bytes - plain.part(PartName.WEIGHTS)
    assert nf4.load_peak_bytes - nf4.part(PartName.WEIGHTS) > int8.load_peak_bytes - int8.part(PartName.WEIGHTS)


def test_embeddings_that_change_their_type_come_first_and_count_only_where_they_are_most_of_the_model() -> None:
    def beside(embedding: int, rest: int, layer: int) -> int:
        elements = embedding + rest
        facts = WeightFacts(
            bytes=4 * elements,
            elements=elements,
            linear_elements=rest,
            linear_rows=1,
            dtypes=(("F32", elements),),
            largest_linear=layer,
            largest_bytes=4 * max(embedding, layer),
        )
        footprint = in_transformers(replace(LLAMA_8B, weights=facts), options(Precision.FP16))
        return footprint.load_peak_bytes - footprint.part(PartName.WEIGHTS) - GPU_CONTEXT_BYTES - CUDA_WORKSPACE_BYTES

    assert beside(embedding=10_000, rest=90_000, layer=3_000) == 4 * 3_000
    assert beside(embedding=90_000, rest=10_000, layer=3_000) == 4 * 90_000 - 2 * 10_000


def test_quantizing_holds_one_tensor_in_both_forms_while_it_loads() -> None:
    assert LLAMA_8B.weights is not None
    cached = replace(LLAMA_8B, weights=replace(LLAMA_8B.weights, largest_bytes=gib(1)))
    footprint = in_transformers(cached, options(Precision.INT8))
    assert footprint.part(PartName.CONTEXT) > GPU_CONTEXT_BYTES, "its kernels are others"
    assert footprint.load_peak_bytes == resting_bytes(footprint, Mode.TRANSFORMERS) + gib(1)
    assert footprint.required_bytes == max(footprint.load_peak_bytes, footprint.total_bytes)


def test_two_devices_share_weights_and_cache_and_each_has_a_context() -> None:
    one = estimate(LLAMA_8B, options(), GPU)[0]
    two = estimate(LLAMA_8B, options(), [("gpu-0", DeviceKind.GPU), ("gpu-1", DeviceKind.GPU)])
    assert [f.part(PartName.WEIGHTS) for f in two] == [-(-one.part(PartName.WEIGHTS) // 2)] * 2
    assert [f.part(PartName.CONTEXT) for f in two] == [GPU_CONTEXT_BYTES] * 2


def test_the_fullest_of_several_devices_holds_the_embeddings_or_one_layer_more() -> None:
    """Llama-3.1-8B: 32 layers of 416 MiB, embeddings and a head of 1002 MiB each."""
    assert LLAMA_8B.weights is not None
    facts = replace(LLAMA_8B.weights, embedding_elements=128256 * 4096, head_elements=128256 * 4096)
    apart, tied = (replace(LLAMA_8B, weights=replace(facts, head_elements=head)) for head in (facts.head_elements, 0))
    layer, tied_layer = ((16_060_522_496 - ends * 128256 * 8192) / 32 for ends in (2, 1))

    def fullest(cached: CachedModel, count: int) -> int:
        return estimate(cached, options(), [(f"gpu-{n}", DeviceKind.GPU) for n in range(count)])[0].part(
            PartName.WEIGHTS
        )

    assert fullest(apart, 2) == pytest.approx(16_060_522_496 / 2, abs=1)
    assert fullest(apart, 3) == pytest.approx(128256 * 8192 + 11 * layer, abs=1)
    assert fullest(tied, 3) == pytest.approx(128256 * 8192 + 10 * tied_layer, abs=1)


def test_the_host_has_a_context_of_its_own() -> None:
    (footprint,) = estimate(LLAMA_8B, options(), [("host", DeviceKind.HOST)])
    assert footprint.part(PartName.CONTEXT) == HOST_CONTEXT_BYTES


SHAPES = st.builds(
    ModelShape,
    layers=st.integers(1, 128),
    hidden=st.integers(1, 20_000),
    intermediate=st.integers(1, 60_000),
    heads=st.integers(1, 128),
    kv_heads=st.integers(1, 128),
    head_dim=st.integers(1, 512),
    vocabulary=st.integers(1, 300_000),
    experts=st.none()
    | st.builds(
        ExpertFacts, st.integers(2, 256), st.integers(1, 8), st.integers(1, 8192), st.integers(0, 8192), st.booleans()
    ),
)
LAYERS = st.lists(
    st.builds(
        CacheLayers,
        st.sampled_from([CacheKind.FULL, CacheKind.LATENT, CacheKind.STATE]),
        st.integers(1, 100),
        st.integers(1, 64),
        st.integers(1, 1024),
    )
    | st.builds(
        CacheLayers,
        st.sampled_from([CacheKind.WINDOW, CacheKind.CHUNK]),
        st.integers(1, 100),
        st.integers(1, 64),
        st.integers(1, 1024),
        st.integers(1, 8192),
    ),
    max_size=4,
).map(tuple)


@st.composite
def models(draw: st.DrawFn) -> CachedModel:
    """Any sizes at all, linear layers and all else in any proportion."""
    elements = draw(st.integers(10**6, 10**12))
    linear = draw(st.integers(0, elements))
    largest = draw(st.integers(0, linear))
    facts = WeightFacts(2 * elements, elements, linear, linear // 4096, (("BF16", elements),), largest, 2 * largest)
    embedding = draw(st.integers(0, (elements - linear) // 2))
    facts = replace(facts, embedding_elements=embedding, head_elements=draw(st.sampled_from([0, embedding])))
    attention = st.none() | st.builds(AttentionFacts, LAYERS, is_eager=st.booleans(), heads=st.integers(0, 128))
    return replace(LLAMA_8B, weights=facts, shape=draw(st.none() | SHAPES), attention=draw(attention))


LAUNCHES = st.builds(
    LaunchOptions,
    st.sampled_from(list(Dtype)),
    max_tokens=st.integers(1, 200_000),
    batch_size=st.integers(1, 64),
)
CONDITIONS = st.builds(
    Conditions,
    device_memory_bytes=st.none() | st.integers(GIB, 200 * GIB),
    vllm_version=st.none() | st.tuples(st.just(0), st.integers(10, 40)),
    prompt_tokens=st.none() | st.integers(1, 1000),
    max_num_seqs=st.none() | st.integers(1, 1024),
)


@given(
    models(), LAUNCHES, CONDITIONS, st.sampled_from(list(Mode)), st.integers(1, 8), st.sampled_from(list(DeviceKind))
)
def test_parts_are_whole_positive_and_add_up(
    cached: CachedModel, asked: LaunchOptions, conditions: Conditions, mode: Mode, count: int, kind: DeviceKind
) -> None:
    for footprint in estimate(cached, asked, [(f"{n}", kind) for n in range(count)], mode, conditions):
        assert sum(part.bytes for part in footprint.parts) == footprint.total_bytes > 0
        assert all(type(part.bytes) is int and part.bytes >= 0 for part in footprint.parts)
        assert footprint.part(PartName.WEIGHTS) > 0 < footprint.load_peak_bytes


@given(models(), LAUNCHES, CONDITIONS, st.sampled_from(list(Mode)), st.integers(1, 100), st.integers(1, 8))
def test_more_tokens_or_requests_never_take_less(
    cached: CachedModel, asked: LaunchOptions, conditions: Conditions, mode: Mode, tokens: int, requests: int
) -> None:
    def total(options: LaunchOptions) -> int:
        return estimate(cached, options, GPU, mode, conditions)[0].total_bytes

    assert total(asked) <= total(replace(asked, max_tokens=asked.max_tokens + tokens))
    assert total(asked) <= total(replace(asked, batch_size=asked.batch_size + requests))


@given(models(), LAUNCHES, CONDITIONS, st.sampled_from(list(DeviceKind)))
def test_more_precision_never_takes_less(
    cached: CachedModel, asked: LaunchOptions, conditions: Conditions, kind: DeviceKind
) -> None:
    def total(precision: Precision) -> int:
        """Without the context, which bitsandbytes is a part of on the host."""
        chosen = options(precision, max_tokens=asked.max_tokens, batch_size=asked.batch_size)
        (footprint,) = estimate(cached, chosen, [("one", kind)], Mode.TRANSFORMERS, conditions)
        return footprint.total_bytes - footprint.part(PartName.CONTEXT)

    sizes = [total(p) for p in (Precision.INT4, Precision.INT8, Precision.FP16, Precision.FP32)]
    assert sizes == sorted(sizes)


@given(models(), LAUNCHES, CONDITIONS, st.sampled_from(list(Mode)), st.integers(1, 7))
def test_more_devices_never_hold_more_of_the_model_on_each(
    cached: CachedModel, asked: LaunchOptions, conditions: Conditions, mode: Mode, count: int
) -> None:
    """vLLM's own surroundings are another matter: NCCL and its buffers come with the second GPU."""

    def held(devices: int) -> list[int]:
        gpus = [(f"gpu-{n}", DeviceKind.GPU) for n in range(devices)]
        (footprint, *_) = estimate(cached, asked, gpus, mode, conditions)
        body = sum(footprint.part(name) for name in (PartName.WEIGHTS, PartName.KV_CACHE, PartName.ACTIVATION))
        return [footprint.part(PartName.WEIGHTS), footprint.part(PartName.KV_CACHE), body]

    for more, fewer in zip(held(count + 1), held(count), strict=True):
        assert more <= fewer


@given(st.integers(1, 200), st.integers(1, 1000))
def test_a_gib_is_not_a_gigabyte(billions: int, thousands: int) -> None:
    """A unit that slipped anywhere would show as 7 %."""
    elements = billions * 10**9
    facts = WeightFacts(2 * elements, elements, 0, 0, (("BF16", elements),))
    footprint = in_transformers(replace(LLAMA_8B, weights=facts), options(max_tokens=1000 * thousands))
    assert footprint.part(PartName.WEIGHTS) == 2 * billions * 10**9
    assert footprint.part(PartName.KV_CACHE) == thousands * 131_072_000
    assert footprint.part(PartName.CONTEXT) * 25 == pytest.approx(17 * 2**30, abs=25)
