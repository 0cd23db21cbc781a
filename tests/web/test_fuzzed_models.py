"""Whatever a cache's files contain, it passes through catalogue, planner and page: never a 500, never an empty list, no
other entry harmed.

``WARDEN_FUZZ=1000`` tries that many times as much.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import pytest

from tests.engine.models import make_model
from tests.web.conftest import Visitor
from tests.web.fakes import FakeController, reading
from webapp.catalog.scan import Catalog
from webapp.domain.model import CachedModel, ModelProblem
from webapp.domain.modes import LaunchOptions, Mode
from webapp.domain.plan import SwitchRequest
from webapp.domain.units import gib

ROUNDS: Final = max(1, int(os.environ.get("WARDEN_FUZZ", "12")) // 12)
ENTRIES: Final = 400
GOOD: Final = "tests/good"

LLAMA: Final[dict[str, Any]] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "max_position_embeddings": 512,
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": False,
}
CONFIGS: Final[tuple[dict[str, Any], ...]] = (
    LLAMA,
    LLAMA | {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}},
    LLAMA
    | {
        "quantization_config": {
            "quant_method": "compressed-tensors",
            "config_groups": {"group_0": {"weights": {"num_bits": 4}}},
        }
    },
    LLAMA | {"model_type": "qwen3_moe", "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64},
    LLAMA | {"model_type": "gemma3_text", "sliding_window": 128, "sliding_window_pattern": 6, "head_dim": 16},
    LLAMA | {"model_type": "gemma3", "text_config": dict(LLAMA), "vision_config": {"hidden_size": 8}},
    LLAMA
    | {
        "model_type": "deepseek_v3",
        "kv_lora_rank": 32,
        "q_lora_rank": 32,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "first_k_dense_replace": 1,
    },
    LLAMA
    | {
        "model_type": "qwen3_next",
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
        "full_attention_interval": 4,
        "layer_types": ["linear_attention", "full_attention"],
    },
    LLAMA | {"model_type": "jamba", "mamba_d_state": 16, "mamba_expand": 2, "attn_layer_period": 2},
    LLAMA | {"model_type": "longcat_flash", "partial_rotary_factor": 0.5, "linear_attn_config": {"num_heads": 2}},
)
TENSORS: Final[dict[str, Any]] = {
    "__metadata__": {"format": "pt"},
    "model.embed_tokens.weight": {"dtype": "BF16", "shape": [512, 64], "data_offsets": [0, 65536]},
    "model.layers.0.self_attn.k_proj.weight": {"dtype": "BF16", "shape": [32, 64], "data_offsets": [65536, 69632]},
    "model.layers.0.mlp.experts.0.up_proj.weight": {"dtype": "U8", "shape": [64, 8], "data_offsets": [69632, 70144]},
    "lm_head.weight": {"dtype": "BF16", "shape": [512, 64], "data_offsets": [70144, 135680]},
}
ODD: Final[tuple[Any, ...]] = (
    None, True, False, 0, -1, 1, 3, 4.0, 2**31, 2**40, 2**41, 2**63, 10**400, -(10**400), 1e308, -0.0, float("nan"), float("inf"),
    "", "7", "gptq", "\ud800", "x" * 5000, [], [4, 8], [[]], [None], [10**400] * 3, ["a"] * 40, [1] * 40, {}, {"a": {"b": []}},
    ["x", 2**61], [[0], 2**61], {"bits": [1]}, {"weights": {"num_bits": {}}}, [["full_attention"]], "LLLG",
)  # fmt: skip


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every member of every object and list in ``value``: its holder, and its name there."""
    for name in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, name
        if isinstance(value[name], dict | list):
            yield from places(value[name])


def changed_value(draw: random.Random, value: Mapping[str, Any]) -> bytes:
    """The JSON text with some members taken out or given another value, and sometimes with some of its bytes changed."""
    copy = deepcopy(dict(value))
    for _ in range(draw.choice((1, 1, 2, 4))):
        found = list(places(copy))
        if not found:
            break
        holder, name = draw.choice(found)
        if draw.random() < 0.1:
            del holder[name]
        else:
            holder[name] = deepcopy(draw.choice(ODD))
    text = bytearray(json.dumps(copy), "utf-8")
    if draw.random() < 0.1:
        for _ in range(draw.choice((1, 3))):
            text[draw.randrange(len(text))] = draw.randrange(256)
    return bytes(text[: draw.randrange(len(text))] if draw.random() < 0.03 else text)


def header(text: bytes, length: int | None = None) -> bytes:
    return (len(text) if length is None else length).to_bytes(8, "little") + text


def odd_weights(draw: random.Random) -> bytes:
    text = changed_value(draw, TENSORS)
    length = draw.choice((None, None, None, None, 0, 7, len(text) + 1, 2**40, 2**63))
    return header(text, length) + bytes(135_680)


def good_weights() -> bytes:
    return header(json.dumps(TENSORS).encode()) + bytes(135_680)


def of_the_kernel(path: Path) -> None:
    """A regular file that gives no bytes to who does not wait."""
    path.unlink(missing_ok=True)
    path.symlink_to("/proc/kmsg")


def write_entry(cache: Path, number: int, draw: random.Random) -> str:
    """Put an entry of the cache together, of which something is odd; return its id."""
    repository = cache / f"models--odd--n{number:04}"
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    config = draw.choice(CONFIGS)
    what = draw.random()
    (snapshot / "tokenizer.json").write_text("{}")
    (snapshot / "config.json").write_bytes(changed_value(draw, config) if what < 0.7 else json.dumps(config).encode())
    weights = odd_weights(draw) if 0.6 < what < 0.9 else good_weights()
    if draw.random() < 0.2:
        index = {"metadata": {"total_size": 9}, "weight_map": dict.fromkeys(TENSORS, "model-1-of-1.safetensors")}
        (snapshot / "model.safetensors.index.json").write_bytes(changed_value(draw, index))
        (snapshot / "model-1-of-1.safetensors").write_bytes(weights)
    else:
        (snapshot / "model.safetensors").write_bytes(weights)
    if what > 0.9:
        (snapshot / "tokenizer_config.json").write_bytes(changed_value(draw, {"chat_template": "x", "auto_map": {}}))
    if what > 0.97:
        replaced = draw.choice(("config.json", "model.safetensors", "tokenizer_config.json", "../../refs/main"))
        of_the_kernel(snapshot / replaced)
    return f"odd/n{number:04}"


def catalogued(cache: Path, seed: int) -> tuple[CachedModel, ...]:
    """Create a cache of odd entries next to a good one, and scan it."""
    draw = random.Random(seed)
    make_model(cache, GOOD)
    ids = [write_entry(cache, number, draw) for number in range(ENTRIES)]

    view = Catalog(cache).look()

    assert view.problem is None
    assert [model.id for model in view.models] == [*ids, GOOD]
    assert view.models[-1].problem is None
    misread = [model for model in view.models if model.problem and model.problem.code == ModelProblem.MISREAD]
    assert [model.problem for model in misread] == []
    return view.models


@pytest.mark.parametrize("seed", range(ROUNDS * 5))
def test_no_odd_entry_harms_the_page_or_another_entry(
    tmp_path: Path, visitor: Visitor, controller: FakeController, caplog: pytest.LogCaptureFixture, seed: int
) -> None:
    models = catalogued(tmp_path / "cache", seed)
    controller.changed(models=models, mode_problems={}, readings=(reading(), reading("gpu-1"), reading("host")))

    listed = visitor.get("/api/v1/models")
    assert listed.status_code == 200
    assert [each["id"] for each in listed.get_json()] == [model.id for model in models]
    for mode in ("transformers", "vllm"):
        form = {
            "mode": mode,
            "precision": "auto",
            "max_tokens": "2048",
            "batch_size": "4",
            "device": "auto",
            "all": "1",
        }
        page = visitor.get("/", query_string={**form, "model": GOOD, "sort": "fit"})
        assert page.status_code == 200
        assert page.text.count("data-cached=") == len(models)
        usable = [model.id for model in models if model.problem is None]
        assert len(usable) > ENTRIES // 10
        for chosen in usable:
            controller.plan(SwitchRequest(Mode(mode), chosen, LaunchOptions(max_tokens=2048, batch_size=4)))
        for chosen in usable[::20]:
            body = {"mode": mode, "model": chosen, "options": {"max_tokens": 2048, "batch_size": 4}}
            assert visitor.client.post("/api/v1/plan", json=body).status_code == 200
            assert visitor.get("/", query_string={**form, "model": chosen, "all": ""}).status_code == 200
    assert "cannot be judged" not in caplog.text


@pytest.mark.parametrize(
    "odd",
    [
        {"quantization_config": {"quant_method": "gptq", "bits": [4, 8]}},
        {"vocab_size": 10**400},
        {"num_hidden_layers": 10**300},
        {"hidden_size": 2**63},
        {"architectures": ["x" * 100_000 + "ForCausalLM"]},
    ],
    ids=lambda odd: next(iter(odd)),
)
def test_an_odd_config_leaves_list_and_page_to_the_others(
    tmp_path: Path, visitor: Visitor, controller: FakeController, odd: dict[str, Any]
) -> None:
    make_model(tmp_path / "cache", GOOD)
    config = make_model(tmp_path / "cache", "tests/odd") / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | odd))

    view = Catalog(tmp_path / "cache").look()
    controller.changed(models=view.models, mode_problems={}, readings=(reading(total=gib(24)),))

    assert view.problem is None
    assert [model.id for model in view.models] == [GOOD, "tests/odd"]
    for mode in ("transformers", "vllm"):
        page = visitor.get("/", query_string={"mode": mode, "model": "tests/odd"})
        assert page.status_code == 200
        assert page.text.count("data-cached=") == 2
        assert len(page.text) < 200_000
