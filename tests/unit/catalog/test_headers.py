"""Safetensors headers: read as they are, and found out when they lie."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.models import TensorData, safetensors_file
from webapp.catalog.headers import (
    BadHeader,
    Tensor,
    loaded_tensors,
    main_dtype,
    parameter_count,
    read_tensors,
    weight_facts,
)

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
QUERY = "model.layers.0.self_attn.q_proj.weight"


def write(folder: Path, *tensors: tuple[str, str, tuple[int, ...], bytes]) -> tuple[Tensor, ...]:
    path = folder / "model.safetensors"
    path.write_bytes(b"".join(safetensors_file(TensorData(*tensor[:3], (tensor[3],)) for tensor in tensors)))
    return read_tensors(path)


def tensor(name: str, dtype: str, *shape: int) -> Tensor:
    """A tensor of a file that nobody opens."""
    elements = 1
    for size in shape:
        elements *= size
    bits = {"F32": 32, "BF16": 16, "F16": 16, "I32": 32, "U8": 8, "I8": 8, "F8_E4M3": 8}[dtype]
    return Tensor(name, dtype, shape, elements, 0, elements * bits // 8, Path("nowhere"))


def test_tensors_are_read_with_their_place_in_the_file(tmp_path: Path) -> None:
    first, second = write(tmp_path, (QUERY, "BF16", (2, 3), b"a" * 12), ("scalar", "F32", (), b"b" * 4))

    assert (first.name, first.dtype, first.shape, first.elements, first.bytes) == (QUERY, "BF16", (2, 3), 6, 12)
    assert (second.elements, second.bytes) == (1, 4)
    assert (tmp_path / "model.safetensors").read_bytes()[second.start : second.end] == b"bbbb"
    assert first.layer == "q_proj"


def test_a_file_without_tensors_is_valid(tmp_path: Path) -> None:
    assert write(tmp_path) == ()


def header(entries: object, data: bytes = b"") -> bytes:
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + data


GOOD = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x02\0\0",
        b"\xff" * 8,
        (200_000_000).to_bytes(8, "little") + b"{}",
        (3).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (2).to_bytes(8, "little") + b"\xff\xff",
        header({}, b"left over"),
        header({"a": 1}),
        header({"a": {}}),
        header({"a": GOOD}),
        header({"a": GOOD}, b"123"),
        header({"a": GOOD}, b"12345"),
        header({"a": GOOD | {"dtype": 7}}, b"1234"),
        header({"a": GOOD | {"shape": [2]}}, b"1234"),
        header({"a": GOOD | {"shape": ["1"]}}, b"1234"),
        header({"a": GOOD | {"shape": [1.0]}}, b"1234"),
        header({"a": GOOD | {"shape": [[1]]}}, b"1234"),
        header({"a": GOOD | {"shape": ["x", 2**61]}}, b"1234"),
        header({"a": GOOD | {"shape": [[0], 2**61]}}, b"1234"),
        header({"a": GOOD | {"shape": [True]}}, b"1234"),
        header({"a": GOOD | {"shape": [-1, -1]}}, b"1234"),
        header({"a": GOOD | {"shape": None}}, b"1234"),
        header({"a": GOOD | {"data_offsets": [0]}}, b"1234"),
        header({"a": GOOD | {"data_offsets": [4, 0]}}, b"1234"),
        header({"a": GOOD | {"data_offsets": [-4, 0]}}, b"1234"),
        header({"a": GOOD | {"data_offsets": [0.0, 4.0]}}, b"1234"),
        header({"a": GOOD | {"data_offsets": ["0", "4"]}}, b"1234"),
        header({"a": GOOD, "b": GOOD}, b"1234"),
        header({"a": GOOD, "b": GOOD | {"data_offsets": [8, 12]}}, b"123456789012"),
        b"[" * 100_000,
        (100_000).to_bytes(8, "little") + b'{"a":' * 20_000,
    ],
)
def test_a_wrong_header_or_length_is_found_out(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)

    with pytest.raises(BadHeader):
        read_tensors(path)


@given(st.binary(max_size=64))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    path.write_bytes(len(content).to_bytes(8, "little") + content)
    try:
        assert read_tensors(path) == ()
    except BadHeader as problem:
        assert str(problem)


def test_a_type_of_tomorrow_is_judged_by_its_place_alone(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(header({"a": {"dtype": "F2", "shape": [8], "data_offsets": [0, 2]}}, b"12"))

    assert read_tensors(path)[0].elements == 8


def test_a_tensor_that_two_files_hold_counts_once() -> None:
    one = tensor(QUERY, "BF16", 4, 4)

    assert weight_facts(loaded_tensors([one, one], tied=False)).bytes == 32


@pytest.mark.parametrize(
    ("head", "tied", "counted"),
    [(b"x" * 32, True, 16), (b"x" * 32, False, 32), (b"y" * 32, True, 32)],
    ids=["saved twice", "not tied", "tied by word, apart in fact"],
)
def test_a_tied_head_counts_once_when_it_is_the_embedding(
    tmp_path: Path, head: bytes, tied: bool, counted: int
) -> None:
    tensors = write(tmp_path, (EMBEDDING, "BF16", (4, 4), b"x" * 32), (HEAD, "BF16", (4, 4), head))

    assert weight_facts(loaded_tensors(tensors, tied=tied)).elements == counted


def test_a_difference_at_the_end_of_a_large_head_is_seen(tmp_path: Path) -> None:
    shape, data = (256, 256), bytes(2 * 256 * 256)
    tensors = write(tmp_path, (EMBEDDING, "BF16", shape, data), (HEAD, "BF16", shape, data[:-1] + b"\1"))

    assert len(loaded_tensors(tensors, tied=True)) == 2


def test_linear_layers_are_those_that_bitsandbytes_converts() -> None:
    facts = weight_facts(
        [
            tensor(EMBEDDING, "BF16", 100, 8),
            tensor(HEAD, "BF16", 100, 8),
            tensor(QUERY, "BF16", 16, 8),
            tensor("model.layers.0.self_attn.q_proj.bias", "BF16", 16),
            tensor("model.layers.0.mlp.down_proj.weight", "BF16", 8, 32),
            tensor("model.layers.0.mlp.gate.weight", "BF16", 4, 8),
            tensor("model.layers.0.mlp.experts.0.down_proj.weight", "BF16", 8, 32),
            tensor("model.layers.0.self_attn.q_norm.weight", "BF16", 4, 8),
            tensor("model.norm.weight", "BF16", 8),
            tensor("transformer.wpe.weight", "BF16", 10, 8),
            tensor("model.layers.0.mlp.up_proj.weight", "F8_E4M3", 32, 8),
        ]
    )

    assert facts.linear_elements == 16 * 8 + 8 * 32
    assert facts.linear_rows == 16 + 8


def test_gpt2_keeps_its_layers_the_other_way_round_and_its_masks_are_not_loaded() -> None:
    tensors = [
        tensor("h.0.attn.c_attn.weight", "F32", 8, 24),
        tensor("h.0.attn.c_attn.bias", "F32", 24),
        tensor("h.0.attn.bias", "F32", 1, 1, 64, 64),
        tensor("h.0.attn.masked_bias", "F32"),
        tensor("model.layers.0.self_attn.rotary_emb.inv_freq", "F32", 4),
    ]

    facts = weight_facts(loaded_tensors(tensors, tied=True), model_type="gpt2")

    assert (facts.linear_rows, facts.elements) == (24, 8 * 24 + 24)


def test_stored_quantization_leaves_nothing_to_convert() -> None:
    assert weight_facts([tensor(QUERY, "BF16", 16, 8)], quantized=True).linear_elements == 0


def test_types_are_listed_by_how_many_elements_they_have() -> None:
    facts = weight_facts([tensor("a", "F32", 4), tensor("b", "BF16", 9), tensor("c", "F32", 4)])

    assert facts.dtypes == (("BF16", 9), ("F32", 8))
    assert main_dtype(facts) == "bfloat16"


def test_packed_integers_are_not_the_type_of_a_model() -> None:
    facts = weight_facts([tensor("a.qweight", "I32", 100), tensor("a.scales", "F16", 3)])

    assert main_dtype(facts) == "float16"
    assert main_dtype(weight_facts([tensor("a.qweight", "I32", 100)])) is None


GPTQ = [tensor("a.qweight", "I32", 16, 8), tensor("a.scales", "F16", 1, 8), tensor("a.qzeros", "I32", 1, 1)]


@pytest.mark.parametrize(
    ("tensors", "quantization", "parameters"),
    [
        ([tensor("a.weight", "BF16", 5, 5)], None, 25),
        (GPTQ, {"quant_method": "gptq", "bits": 4}, 16 * 8 * 8),
        (GPTQ, {"quant_method": "gptq", "bits": 8}, 16 * 8 * 4),
        (GPTQ, {"quant_method": "gptq", "bits": 3}, None),
        (GPTQ, {"quant_method": "gptq"}, None),
        ([tensor("a.weight_packed", "I32", 4, 2)], {"config_groups": {"g": {"weights": {"num_bits": 4}}}}, 64),
        ([tensor("a_blocks", "U8", 4, 2), tensor("a_scales", "U8", 4)], {"quant_method": "mxfp4"}, 16),
        ([tensor("a.weight", "U8", 32, 1)], {"quant_method": "bitsandbytes", "load_in_4bit": True}, 64),
        ([tensor("a.weight", "I8", 32, 2), tensor("a.SCB", "F32", 32)], {"load_in_8bit": True}, 64),
        ([tensor("a.weight", "F8_E4M3", 8, 8), tensor("a.weight_scale_inv", "F32", 1, 1)], {"quant_method": "fp8"}, 64),
        ([tensor("a.codebook", "I32", 8)], {"quant_method": "aqlm"}, None),
    ],
)
def test_parameters_of_packed_weights_follow_from_the_packing_or_are_unknown(
    tensors: list[Tensor], quantization: dict[str, object] | None, parameters: int | None
) -> None:
    assert parameter_count(tensors, quantization) == parameters


def test_tensor_parallel_can_tell_what_it_divides() -> None:
    facts = weight_facts(
        [
            tensor("model.layers.0.input_layernorm.weight", "BF16", 64),
            tensor("model.layers.0.mlp.gate.weight", "BF16", 8, 64),
            tensor("model.layers.0.self_attn.k_proj.weight", "BF16", 16, 64),
            tensor("model.layers.0.mlp.experts.3.up_proj.weight", "BF16", 32, 64),
            tensor("model.layers.0.mlp.down_proj.weight", "BF16", 64, 128),
            tensor("model.layers.0.mlp.down_proj.weight.absmax", "F32", 128),
        ]
    )
    assert facts.replicated_bytes == 2 * (64 + 8 * 64)
    assert facts.key_value_bytes == 2 * 16 * 64
    assert facts.expert_elements == 32 * 64
    assert facts.largest_linear == 64 * 128


def test_the_largest_layer_of_packed_files_is_counted_in_weights() -> None:
    packed = tensor("model.layers.0.mlp.down_proj.qweight", "I32", 16, 64)
    embedding = tensor(EMBEDDING, "F16", 1000, 64)
    assert weight_facts([packed, embedding], quantized=True, bits=4).largest_linear == 128 * 64
