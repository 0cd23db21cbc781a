"""The estimate keeps its promises on the published rows; ``python -m bench footprint`` shows the same as a table."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import pytest

from bench import footprint as bench
from webapp.domain.footprint.kv_cache import cache_rule, token_bytes
from webapp.domain.model import CachedModel
from webapp.domain.units import GIB

Models = dict[str, Callable[[str | None], CachedModel]]


@pytest.fixture(scope="module")
def models() -> Models:
    return bench.known_models()


def mean(rows: list[bench.Compared]) -> float:
    return statistics.fmean(abs(row.error) for row in rows)


def test_bf16_is_within_a_percent_and_never_two_under(models: Models) -> None:
    rows = [row for row in bench.transformers_rows(models) if row.group == "Transformers, BF16"]
    assert mean(rows) < 0.01
    assert min(row.error for row in rows) > -0.02


@pytest.mark.parametrize("quantization", ["GPTQ-Int8", "GPTQ-Int4", "AWQ"])
def test_quantized_files_are_within_five_percent(models: Models, quantization: str) -> None:
    rows = [row for row in bench.transformers_rows(models) if row.group == f"Transformers, {quantization}"]
    assert mean(rows) < 0.05


def test_several_gpus_are_within_five_percent(models: Models) -> None:
    assert all(abs(row.error) < 0.05 for row in bench.transformers_rows(models) if "several" in row.group)


def test_vllms_weights_pool_and_tokens_are_met(models: Models) -> None:
    rows = list(bench.vllm_rows(models))
    for group, most in (("weights", 0.01), ("KV pool", 0.02), ("tokens in the pool", 0.02)):
        of_group = [row for row in rows if row.group == f"vLLM, {group}"]
        assert of_group
        assert max(abs(row.error) for row in of_group) < most


def test_vllms_activation_is_within_a_fifth_of_a_gib(models: Models) -> None:
    rows = list(bench.activation_rows(models))
    assert rows
    assert max(abs(row.ours - row.measured) for row in rows) < 0.2 * GIB


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("Llama-3.1-8B-Instruct", 131072),
        ("Mistral-Small-24B-Instruct-2501", 163840),
        ("gpt-oss-120b", 73728),
        ("DeepSeek-V2-Lite", 27 * 576 * 2),
    ],
)
def test_a_token_takes_the_published_bytes(models: Models, name: str, size: int) -> None:
    assert token_bytes(cache_rule(models[name](None), 0, 2)) == size


def test_the_sizes_alone_give_every_familys_parameters(models: Models) -> None:
    for name, model in models.items():
        assert model(None).parameters == pytest.approx(bench.stated_parameters(name), rel=0.001), name


def test_every_rule_beside_is_further_off(models: Models) -> None:
    rows = [row for row in bench.transformers_rows(models) if "several" not in row.group]
    for number in range(3):
        assert statistics.fmean(abs(row.rivals[number] / row.measured - 1) for row in rows) > 5 * mean(rows)
