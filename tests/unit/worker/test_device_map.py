"""A model on several GPUs lies there as the plan counts it: whole layers, and on none more weights than its footprint says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from accelerate.utils import check_device_map
from torch import nn
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

from tests.engine.models import make_model
from webapp.catalog.headers import Tensor, facts_of
from webapp.domain.footprint import PartName, estimate
from webapp.domain.layers import layer_counts
from webapp.domain.memory import DeviceKind
from webapp.domain.model import CachedModel, ModelShape
from webapp.domain.modes import LaunchOptions
from webapp.worker.device_map import by_layers

SIZES = {"hidden_size": 64, "num_attention_heads": 4, "vocab_size": 1000, "bos_token_id": 1, "eos_token_id": 2}
FAMILIES: Mapping[str, Mapping[str, object]] = {
    "llama": {"num_hidden_layers": 13, "intermediate_size": 128},
    "qwen2": {"num_hidden_layers": 12, "intermediate_size": 128, "num_key_value_heads": 2, "tie_word_embeddings": True},
    "mixtral": {"num_hidden_layers": 10, "intermediate_size": 64, "num_key_value_heads": 2, "num_local_experts": 4},
    "gpt2": {"num_hidden_layers": 9},
    "opt": {"num_hidden_layers": 11, "ffn_dim": 128, "word_embed_proj_dim": 64},
}


def empty(family: str, **changes: object) -> nn.Module:
    config = CONFIG_MAPPING[family](**{**SIZES, **FAMILIES[family], **changes})
    with torch.device("meta"):
        made: nn.Module = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    return made


def tied_names(made: nn.Module) -> Mapping[str, str]:
    return dict(getattr(made, "all_tied_weights_keys", None) or {})


def cached(family: str, made: nn.Module) -> CachedModel:
    """The model as the catalogue reads its files."""
    tied, tensors = tied_names(made), []
    for name, value in made.named_parameters(remove_duplicate=False):
        if name not in tied:
            tensors.append(Tensor(name, "BF16", tuple(value.shape), value.numel(), 0, 2 * value.numel(), Path(name)))
    facts, parameters = facts_of(tensors, tied=bool(tied), model_type=family, quantization=None)
    layers = FAMILIES[family]["num_hidden_layers"]
    shape = ModelShape(int(str(layers)), 64, 128, 4, 2, 16, 1000)
    return CachedModel(
        family, "r", Path("/s"), facts.bytes, parameters, "bfloat16", None, None, 8192, False, shape, facts, 0.0, None
    )  # fmt: skip


def bytes_on(made: nn.Module, placed: Mapping[str, int]) -> Counter[int]:
    tied, found = tied_names(made), Counter[int]()
    for name, value in made.named_parameters(remove_duplicate=False):
        if name not in tied:
            (home,) = [device for part, device in placed.items() if name == part or name.startswith(part + ".")]
            found[home] += 2 * value.numel()
    return found


@pytest.mark.parametrize("devices", [2, 3, 5, 8])
@pytest.mark.parametrize("family", FAMILIES)
def test_no_gpu_gets_more_weights_than_its_footprint_says(family: str, devices: int) -> None:
    made = empty(family)
    gpus = [(f"gpu-{n}", DeviceKind.GPU) for n in range(devices)]
    planned = [f.part(PartName.WEIGHTS) for f in estimate(cached(family, made), LaunchOptions(), gpus)]
    placed = by_layers(made, devices)
    found = bytes_on(made, placed)

    check_device_map(made, placed)
    assert set(found) == set(range(devices))
    assert max(found.values()) <= max(planned) + 4 * 64  # the last norm, which the plan spreads over the layers
    assert max(planned) <= max(found.values()) * 1.02


@pytest.mark.parametrize("devices", [2, 3, 8])
def test_the_embeddings_come_first_and_the_head_last_unless_it_is_tied(devices: int) -> None:
    apart, tied = (by_layers(empty(family), devices) for family in ("llama", "qwen2"))
    assert (apart["model.embed_tokens"], apart["lm_head"]) == (0, devices - 1)
    assert (tied["model.embed_tokens"], tied["lm_head"]) == (0, 0)
    assert apart["model.norm"] == devices - 1


def test_the_layers_follow_one_another_from_gpu_to_gpu() -> None:
    placed = by_layers(empty("llama"), 3)
    places = [placed[f"model.layers.{n}"] for n in range(13)]
    assert places == sorted(places)
    assert Counter(places) == {0: 4, 1: 5, 2: 4}


@pytest.mark.parametrize(("layers", "devices"), [(7, 2), (8, 3), (3, 8), (80, 4)])
def test_layers_are_divided_evenly(layers: int, devices: int) -> None:
    counts = layer_counts(layers, devices)
    assert (sum(counts), len(counts)) == (layers, devices)
    assert max(counts) - min(counts) <= 1
    assert counts[0] == min(counts)


def test_a_model_without_a_list_of_layers_has_no_map() -> None:
    assert by_layers(nn.Sequential(nn.Linear(2, 2)), 2) == {}


@pytest.mark.parametrize("tie", [False, True])
def test_transformers_loads_and_answers_by_the_map(tmp_path: Path, *, tie: bool) -> None:
    """With every part on the CPU, where there are no GPUs: each is found by its name and none is left over."""
    snapshot = make_model(tmp_path, layers=5, tie=tie)
    with torch.device("meta"):
        made = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(snapshot))
    placed = dict.fromkeys(by_layers(made, 3), "cpu")
    model = AutoModelForCausalLM.from_pretrained(snapshot, device_map=placed)
    assert all(parameter.device.type == "cpu" for parameter in model.parameters())
    assert model(torch.tensor([[1, 2, 3]])).logits.shape[:2] == (1, 3)
