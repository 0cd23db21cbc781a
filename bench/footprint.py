"""Error of the estimate against published measurements, by mode and quantization, compared with three simpler rules.

No model is needed: the facts of each follow from its published sizes. The other rules are accelerate 1.2 W, hf-mem
W + KV and GPUStack 1.2 W + 2 GiB, with the same weights W and KV cache as here.
"""

from __future__ import annotations

import csv
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from webapp.catalog.folder import describe_folder
from webapp.domain.footprint import Conditions, Footprint, PartName, estimate
from webapp.domain.footprint.kv_cache import cache_rule, token_bytes
from webapp.domain.memory import DeviceKind
from webapp.domain.model import CachedModel
from webapp.domain.modes import Dtype, LaunchOptions, Mode
from webapp.domain.units import GIB, gib

DATA = Path(__file__).with_name("data")
OUTPUT_TOKENS = 2048
PUBLISHED_REQUESTS = 1024
"""``max_num_seqs`` of the published runs: vLLM's default on an H100."""
GROUP = {"group_size": 128}
QUANTIZATIONS: Mapping[str, Mapping[str, object] | None] = {
    "BF16": None,
    "GPTQ-Int8": {"quant_method": "gptq", "bits": 8, **GROUP},
    "GPTQ-Int4": {"quant_method": "gptq", "bits": 4, **GROUP},
    "AWQ": {"quant_method": "awq", "bits": 4, **GROUP},
}
QUANTIZED_WIDTH = {"Qwen2.5-72B-Instruct": 29696}
"""The quantized 72B was widened first, so that its groups can be divided among GPUs."""

Row = Mapping[str, str]


@dataclass(frozen=True)
class Compared:
    """One published figure with the result of each rule, in bytes."""

    group: str
    name: str
    measured: float
    ours: float
    rivals: tuple[float, ...] = ()

    @property
    def error(self) -> float:
        """The excess of Warden's estimate, as a share of the measured value."""
        return self.ours / self.measured - 1


def main() -> None:
    """Print the tables."""
    models = known_models()
    _say("| Mode, what | Rows | Warden: mean error | most under | most over | accelerate | hf-mem | GPUStack |")
    _say("| --- | --- | --- | --- | --- | --- | --- | --- |")
    rows = [*transformers_rows(models), *vllm_rows(models)]
    for group in dict.fromkeys(row.group for row in rows):
        _say(_summary(group, [row for row in rows if row.group == group]))
    _say("\n| Published activation in vLLM | measured, GiB | here | off by |\n| --- | --- | --- | --- |")
    for row in activation_rows(models):
        _say(
            f"| {row.name} | {row.measured / GIB:.2f} | {row.ours / GIB:.2f} | {(row.ours - row.measured) / GIB:+.2f} |"
        )
    _say(
        "\n| From the sizes alone | parameters published | here | KV cache, bytes a token in 16 bits |\n| --- | --- | --- | --- |"
    )
    for name, model in models.items():
        made = model(None)
        rule = cache_rule(made, 0, 2)
        off = (made.parameters or 0) / stated_parameters(name) - 1
        _say(f"| {name} | {stated_parameters(name) / 1e9:.3f} bn | {off:+.2%} | {token_bytes(rule)} |")


def transformers_rows(models: Mapping[str, Callable[[str | None], CachedModel]]) -> Iterator[Compared]:
    """Yield the published rows of transformers; those of several GPUs form separate groups."""
    for row in _table("transformers_memory.csv"):
        model, count, prompt = models[row["model"]](row["quant"]), int(row["gpus"]), int(row["input_len"])
        options = LaunchOptions(Dtype.AUTO, max_tokens=prompt + OUTPUT_TOKENS)
        devices = [(f"gpu-{n}", DeviceKind.GPU) for n in range(count)]
        footprints = estimate(model, options, devices, Mode.TRANSFORMERS, Conditions(prompt_tokens=prompt))
        ours = sum(footprint.total_bytes - footprint.part(PartName.CONTEXT) for footprint in footprints)
        group = f"Transformers, {row['quant']}" + ("" if count == 1 else ", several GPUs")
        yield Compared(group, row["model"], float(row["mem_GiB"]) * GIB, ours, _rivals(model, options.max_tokens))


def vllm_rows(models: Mapping[str, Callable[[str | None], CachedModel]]) -> Iterator[Compared]:
    """Yield the published rows of vLLM (weights, KV pool) without pipeline parallel, which Warden does not use."""
    for row in _vllm_table():
        footprint, model = _in_vllm(row, models), models[row["model"]](None)
        measured = float(row["weights_GiB"]) * GIB
        yield Compared("vLLM, weights", row["model"], measured, footprint.part(PartName.WEIGHTS))
        if not row["kv_GiB"]:
            continue
        taken = (PartName.WEIGHTS, PartName.ACTIVATION, PartName.NON_TORCH)
        budget = float(row["gmu"]) * float(row["gpu_total_GiB"]) * GIB
        pool = budget - sum(footprint.part(name) for name in taken)  # before 0.21, graphs are not part of the budget
        yield Compared("vLLM, KV pool", row["model"], float(row["kv_GiB"]) * GIB, pool, _pools(model, budget))
        if row["kv_tokens"]:
            rule = cache_rule(model, 0, _kv_value(row))
            yield Compared("vLLM, tokens in the pool", row["model"], float(row["kv_tokens"]), pool / token_bytes(rule))


def activation_rows(models: Mapping[str, Callable[[str | None], CachedModel]]) -> Iterator[Compared]:
    """Yield the published activations of vLLM."""
    for row in _vllm_table():
        if row["activation_GiB"]:
            name = f"{row['model']}, {row['tp']} GPU ({row['note']})"
            ours = _in_vllm(row, models).part(PartName.ACTIVATION)
            yield Compared("vLLM, activation", name, float(row["activation_GiB"]) * GIB, ours)


def _vllm_table() -> Iterator[Row]:
    return (row for row in _table("vllm_memory.csv") if row["pp"] == "1")


def _in_vllm(row: Row, models: Mapping[str, Callable[[str | None], CachedModel]]) -> Footprint:
    conditions = Conditions(
        device_memory_bytes=gib(float(row["gpu_total_GiB"])),
        vllm_version=tuple(int(number) for number in row["vllm"].split(".")),
        max_num_seqs=PUBLISHED_REQUESTS,
        kv_value_bytes=_kv_value(row),
        quantizes_to_fp8="quantization fp8" in row["note"],
    )
    dtype = Dtype.FLOAT32 if "float32" in row["note"] else Dtype.AUTO
    devices = [(f"gpu-{n}", DeviceKind.GPU) for n in range(int(row["tp"]))]
    return estimate(models[row["model"]](None), LaunchOptions(dtype, max_tokens=8192), devices, Mode.VLLM, conditions)[
        0
    ]


def _kv_value(row: Row) -> int:
    if "kv_cache_dtype fp8" in row["note"]:
        return 1
    return 4 if "float32" in row["note"] else 2


def _rivals(model: CachedModel, tokens: int) -> tuple[float, ...]:
    weights = model.weights.bytes if model.weights else 0
    cached = tokens * token_bytes(cache_rule(model, weights, 2))
    return 1.2 * weights, weights + cached, 1.2 * weights + 2 * GIB


def _pools(model: CachedModel, budget: float) -> tuple[float, ...]:
    """Return the KV pool that each rule would leave."""
    weights = model.weights.bytes if model.weights else 0
    return budget - 1.2 * weights, budget - weights, budget - 1.2 * weights - 2 * GIB


def _summary(group: str, rows: Sequence[Compared]) -> str:
    errors = [row.error for row in rows]
    others = [
        f"{statistics.fmean(abs(row.rivals[n] / row.measured - 1) for row in rows):.1%}" if rows[0].rivals else ""
        for n in range(3)
    ]
    mean = statistics.fmean(map(abs, errors))
    return f"| {group} | {len(rows)} | {mean:.2%} | {min(0.0, *errors):.2%} | {max(0.0, *errors):+.2%} | {' | '.join(others)} |"


def known_models() -> dict[str, Callable[[str | None], CachedModel]]:
    """Return, by model name, a function that builds the model in a quantization of the table."""
    known = json.loads((DATA / "models.json").read_text(encoding="utf-8"))
    return {name: _maker(name, each["config"]) for name, each in known.items()}


def _maker(name: str, config: Mapping[str, Any]) -> Callable[[str | None], CachedModel]:
    made: dict[str | None, CachedModel] = {}

    def make(quantization: str | None) -> CachedModel:
        if quantization not in made:
            made[quantization] = _described(name, config, QUANTIZATIONS.get(quantization or ""))
        return made[quantization]

    return make


def _described(name: str, config: Mapping[str, Any], quantization: Mapping[str, object] | None) -> CachedModel:
    stored = dict(config)
    if quantization is not None:
        stored["quantization_config"] = quantization
        stored["intermediate_size"] = QUANTIZED_WIDTH.get(name, config["intermediate_size"])
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(stored), encoding="utf-8")
        return describe_folder(Path(folder), name)


def stated_parameters(name: str) -> int:
    """Return the number of parameters that the model's page states."""
    return int(json.loads((DATA / "models.json").read_text(encoding="utf-8"))[name]["parameters"])


def _table(name: str) -> list[Row]:
    with (DATA / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
