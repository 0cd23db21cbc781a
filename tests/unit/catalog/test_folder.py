"""A folder is described by the best that lies in it: headers, an index, or the sizes of config.json alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.engine.models import INDEX, WEIGHTS, change_config, make_model
from webapp.catalog.files import BadFile
from webapp.catalog.folder import BadFolder, describe_folder, find_folder
from webapp.domain.model import CachedModel, WeightFacts, WeightsSource

QWEN = {
    "model_type": "qwen3",
    "architectures": ["Qwen3ForCausalLM"],
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}
GIB = 2**30


def folder_of(path: Path, config: object, **files: bytes) -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for name, content in files.items():
        (path / name.replace("__", ".")).write_bytes(content)
    return path


def header(tensors: Mapping[str, tuple[str, tuple[int, ...], int]]) -> bytes:
    """A safetensors file that ends after its header."""
    entries, start = {}, 0
    for name, (dtype, shape, size) in tensors.items():
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, start + size]}
        start += size
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


def weights(model: CachedModel) -> WeightFacts:
    assert model.weights is not None
    return model.weights


def test_files_that_end_after_their_header_are_taken_at_its_word(tmp_path: Path) -> None:
    size = 151936 * 1024 * 2
    rest = {f"model.layers.{n}.mlp.up_proj.weight": ("BF16", (3072, 1024), 3072 * 1024 * 2) for n in range(28)}
    tensors = {
        "model.embed_tokens.weight": ("BF16", (151936, 1024), size),
        "lm_head.weight": ("BF16", (151936, 1024), size),
        **rest,
    }
    found = weights(describe_folder(folder_of(tmp_path, QWEN, model__safetensors=header(tensors)), "q"))
    assert found.source is WeightsSource.HEADERS
    assert found.bytes == size + 28 * 3072 * 1024 * 2, "tied weights that were saved twice count once"
    assert found.twice_bytes == size


def test_a_whole_folder_says_what_the_catalogue_says(tmp_path: Path) -> None:
    snapshot = make_model(tmp_path, shards=3)
    assert (
        weights(describe_folder(snapshot, "m")).bytes
        == weights(describe_folder(find_folder(snapshot.parents[1]), "m")).bytes
    )
    assert weights(describe_folder(snapshot, "m")).source is WeightsSource.HEADERS


def test_only_the_shards_that_the_index_names_count(tmp_path: Path) -> None:
    snapshot = make_model(tmp_path, shards=2)
    before = weights(describe_folder(snapshot, "m")).bytes
    (snapshot / "consolidated.safetensors").write_bytes(header({"more": ("F32", (1000,), 4000)}))
    assert weights(describe_folder(snapshot, "m")).bytes == before


def test_shards_without_an_index_are_read_and_the_same_weights_in_another_form_are_not(tmp_path: Path) -> None:
    one, other = (header({f"model.layers.{n}.mlp.up_proj.weight": ("BF16", (4, 8), 64)}) for n in (0, 1))
    folder = folder_of(
        tmp_path, QWEN, **{"model-1__safetensors": one, "model-2__safetensors": other, "consolidated__safetensors": one}
    )
    assert weights(describe_folder(folder, "q")).bytes == 128


def test_an_index_alone_states_the_total(tmp_path: Path) -> None:
    index = {
        "metadata": {"total_size": 1_503_300_328},
        "weight_map": {"lm_head.weight": "a.safetensors", "x": "b.safetensors"},
    }
    found = weights(
        describe_folder(folder_of(tmp_path, QWEN, **{INDEX.replace(".", "__"): json.dumps(index).encode()}), "q")
    )
    assert found.source is WeightsSource.INDEX
    assert found.bytes / GIB == pytest.approx(1.11, abs=0.005), "the tied head that the index names is not counted"
    assert found.linear_elements > 0.7 * (found.elements - 151936 * 1024)


def test_a_config_alone_gives_the_weights_of_its_sizes(tmp_path: Path) -> None:
    model = describe_folder(folder_of(tmp_path, QWEN), "q")
    assert weights(model).source is WeightsSource.SIZES
    assert weights(model).bytes / GIB == pytest.approx(1.11, abs=0.01)
    assert model.parameters == pytest.approx(596_049_920, rel=0.001)


@pytest.mark.parametrize(
    ("quantization", "bits"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, 4.156),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, 4.156),
        ({"quant_method": "gptq", "bits": 8, "group_size": 128}, 8.1875),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, 8.002),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, 4.5),
    ],
)
def test_quantized_files_take_the_published_bits_a_weight(
    tmp_path: Path, quantization: dict[str, object], bits: float
) -> None:
    plain = weights(describe_folder(folder_of(tmp_path / "plain", QWEN), "q"))
    packed = weights(
        describe_folder(folder_of(tmp_path / "packed", {**QWEN, "quantization_config": quantization}), "q")
    )
    linear = packed.bytes - (plain.bytes - 2 * plain.linear_elements)
    assert 8 * linear / plain.linear_elements == pytest.approx(bits, rel=0.006)


def test_what_gives_no_estimate_says_why(tmp_path: Path) -> None:
    with pytest.raises(BadFolder, match=r"has no config\.json"):
        describe_folder(tmp_path, "m")
    with pytest.raises(BadFolder, match="does not state the sizes"):
        describe_folder(folder_of(tmp_path, {"model_type": "new"}), "m")
    with pytest.raises(BadFolder, match="not a JSON object"):
        describe_folder(folder_of(tmp_path, []), "m")
    with pytest.raises(BadFile, match="header of"):
        describe_folder(folder_of(tmp_path, QWEN, model__safetensors=b"\xff" * 100), "m")
    with pytest.raises(BadFolder, match="is no folder"):
        find_folder(tmp_path / "nowhere")


def test_a_vocabulary_that_no_machine_could_hold_is_still_arithmetic(tmp_path: Path) -> None:
    model = describe_folder(folder_of(tmp_path, {**QWEN, "vocab_size": 2**40}), "q")
    assert weights(model).bytes > 2**51


def test_the_cut_file_that_the_catalogue_refuses_is_good_enough(tmp_path: Path) -> None:
    snapshot = make_model(tmp_path)
    whole = (snapshot / WEIGHTS).read_bytes()
    before = weights(describe_folder(snapshot, "m")).bytes
    (snapshot / WEIGHTS).unlink()
    (snapshot / WEIGHTS).write_bytes(whole[: 8 + int.from_bytes(whole[:8], "little")])
    change_config(snapshot, torch_dtype="bfloat16")
    assert weights(describe_folder(snapshot, "m")).bytes == before
