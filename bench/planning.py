"""Time of a plan, for which every keystroke in the form waits. Fails above ``LIMIT_MS``.

The model has the shape of Llama-3.1-405B, in a hundred shards whose headers are read once, as in the catalogue. The
most expensive case is a refusal on many full GPUs: each alternative is a search over the same arithmetic. The limit
applies to processor time, since a plan waits for nothing and wall time depends on the load of the machine.
"""

from __future__ import annotations

import json
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from webapp.catalog.folder import describe_folder
from webapp.domain.calibration import UNCALIBRATED, Calibration, Measurement
from webapp.domain.instance import Instance, InstanceState
from webapp.domain.memory import DeviceKind, Holder, HolderKind, Reading, Sample
from webapp.domain.model import CachedModel
from webapp.domain.modes import LaunchOptions, Mode
from webapp.domain.plan import SwitchRequest, Verdict
from webapp.domain.planning.admission import AdmissionPolicy
from webapp.domain.planning.planner import plan_switch
from webapp.domain.planning.requirement import needed_bytes
from webapp.domain.planning.state import PlanningState, headrooms
from webapp.domain.units import gib

LIMIT_MS = 50.0
ROUNDS = 30
SHARDS = 100
LAYERS = 126
WIDTH, INNER, WORDS = 16384, 53248, 128256
KEY_VALUE_WIDTH = 1024
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "torch_dtype": "bfloat16",
    "num_hidden_layers": LAYERS,
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
    "num_attention_heads": 128,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": WORDS,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
}
LOADED = 4
"""Models on each full device."""
HELD_BYTES, PROMISED_BYTES = gib(10), gib(2)
"""What each of them holds, and what it may still take."""


@dataclass(frozen=True)
class Case:
    """A state, a request, and the expected verdict."""

    name: str
    planning_state: PlanningState
    request: SwitchRequest
    verdict: Verdict


def main() -> None:
    """Print each case's median processor and wall time in milliseconds; fail if processor time exceeds the limit."""
    _say("| World | Verdict | Ways out | Median | On the clock |")
    _say("| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        model = _model(Path(folder))
    slow = [case.name for case in _cases(model) if _measure(case) > LIMIT_MS]
    if slow:
        sys.exit(f"Above {LIMIT_MS:g} ms: {', '.join(slow)}.")


def _measure(case: Case) -> float:
    plan = plan_switch(case.request, case.planning_state, "ivan")
    assert plan.verdict == case.verdict, (case.name, plan.verdict, plan.reasons)
    busy, clock = (_median_ms(case, now) for now in (time.thread_time, time.perf_counter))
    _say(f"| {case.name} | {plan.verdict} | {len(plan.ways_out)} | {busy:.2f} ms | {clock:.2f} ms |")
    return busy


def _median_ms(case: Case, now: Callable[[], float]) -> float:
    """Return the median of plans from fresh copies of the state, so that what the state caches is measured too."""
    times = []
    for _ in range(ROUNDS):
        planning_state = replace(case.planning_state)
        began = now()
        plan_switch(case.request, planning_state, "ivan")
        times.append(1000 * (now() - began))
    return statistics.median(times)


def _cases(model: CachedModel) -> Iterator[Case]:
    """Yield cases with devices that are large enough, that barely suffice, and that are full of other models."""
    words = {Mode.TRANSFORMERS: "Transformers", Mode.VLLM: "vLLM"}
    for name, sizes in (
        ("host", {"host": gib(1600)}),
        ("1 GPU", {"gpu-0": gib(1600)}),
        ("2 GPUs", {f"gpu-{n}": gib(1600) for n in range(2)}),
        ("8 GPUs", {f"gpu-{n}": gib(1600) for n in range(8)}),
    ):
        roomy, close = _planning_state(model, sizes), _planning_state(model, dict.fromkeys(sizes, gib(860)))
        full = _planning_state(model, dict.fromkeys(sizes, gib(40 + 860 / len(sizes))), loaded_each=LOADED)
        for mode in _modes(sizes):
            asked = SwitchRequest(mode, model.id, LaunchOptions(max_tokens=8192))
            long = replace(asked, options=LaunchOptions(max_tokens=131072, batch_size=8), keep_others=True)
            short = replace(long, options=LaunchOptions(max_tokens=16384, batch_size=4))
            here = f"{name}, {words[mode]}"
            yield Case(here, roomy, asked, Verdict.FITS)
            yield Case(here, close, asked, Verdict.TIGHT)
            yield Case(f"{here}, full", full, long, Verdict.REFUSED)
            yield Case(f"{here}, one each in the way", _crowded(model, full, short), short, Verdict.REFUSED)
            yield Case(f"{here}, full, learned", replace(full, calibration=_calibration(model)), long, Verdict.REFUSED)


def _crowded(model: CachedModel, full: PlanningState, request: SwitchRequest) -> PlanningState:
    """Return devices that would suffice if one model on each were unloaded: each is short of half of that model."""
    needed = max(needed_bytes(request, model, headrooms(full)))
    held = (HELD_BYTES + PROMISED_BYTES) * LOADED
    total = round((needed + held - HELD_BYTES // 2) / (1 - full.policy.reserve_percent / 100))
    return _planning_state(model, dict.fromkeys(full.device_ids, total), loaded_each=LOADED)


def _modes(sizes: Mapping[str, int]) -> tuple[Mode, ...]:
    return (Mode.TRANSFORMERS,) if "host" in sizes else (Mode.TRANSFORMERS, Mode.VLLM)


def _planning_state(model: CachedModel, sizes: Mapping[str, int], loaded_each: int = 0) -> PlanningState:
    instances = tuple(_loaded(f"i{n}-{device}", device, n) for device in sizes for n in range(loaded_each))
    taken = HELD_BYTES * loaded_each
    readings = tuple(
        Reading(
            device_id=device,
            kind=DeviceKind.HOST if device == "host" else DeviceKind.GPU,
            name=None if device == "host" else "NVIDIA H100",
            uuid=None,
            total_bytes=size,
            reserved_bytes=0,
            used_bytes=taken + number * gib(0.1),
            free_bytes=size - taken - number * gib(0.1),
            utilization_percent=None,
            temperature_c=None,
            power_w=None,
            holders=tuple(_holder(device, n) for n in range(loaded_each)),
        )
        for number, (device, size) in enumerate(sizes.items())
    )
    return PlanningState(
        now=10_000.0,
        sample=Sample(1, 10_000.0, 0.0, readings, None),
        sample_is_stale=False,
        instances=instances,
        models={model.id: model},
        policy=AdmissionPolicy(),
    )


def _holder(device: str, number: int) -> Holder:
    return Holder(
        4000 + number, "ivan", "python -m webapp.worker", HELD_BYTES, HolderKind.WORKER, f"i{number}-{device}"
    )


def _loaded(instance_id: str, device: str, number: int) -> Instance:
    return Instance(
        id=instance_id,
        mode=Mode.TRANSFORMERS,
        model_id=f"lab/chat-{number}",
        revision="a" * 40,
        options=LaunchOptions(),
        devices=(device,),
        owner="ivan" if number % 2 else "maria",
        state=InstanceState.READY,
        started_at=float(number),
        predicted_bytes={device: HELD_BYTES + PROMISED_BYTES},
        measured_bytes={device: HELD_BYTES},
    )


def _calibration(model: CachedModel) -> Calibration:
    kind = UNCALIBRATED.kind_of(model.id, model.revision, Mode.TRANSFORMERS, LaunchOptions(), ["NVIDIA H100"])
    return UNCALIBRATED.including(Measurement(kind, float(n), gib(757), gib(757) + n) for n in range(5))


def _model(folder: Path) -> CachedModel:
    """Create a folder with headers but without weights, which is all that a plan needs."""
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    tensors = list(_tensors())
    for number in range(SHARDS):
        name = f"model-{number + 1:05d}-of-{SHARDS:05d}.safetensors"
        _write(folder / name, dict(tensors[number::SHARDS]))
    return describe_folder(folder, "lab/llama-405b")


def _tensors() -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "model.embed_tokens.weight", (WORDS, WIDTH)
    yield "lm_head.weight", (WORDS, WIDTH)
    yield "model.norm.weight", (WIDTH,)
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        yield at + "self_attn.q_proj.weight", (WIDTH, WIDTH)
        yield at + "self_attn.k_proj.weight", (KEY_VALUE_WIDTH, WIDTH)
        yield at + "self_attn.v_proj.weight", (KEY_VALUE_WIDTH, WIDTH)
        yield at + "self_attn.o_proj.weight", (WIDTH, WIDTH)
        yield at + "mlp.gate_proj.weight", (INNER, WIDTH)
        yield at + "mlp.up_proj.weight", (INNER, WIDTH)
        yield at + "mlp.down_proj.weight", (WIDTH, INNER)
        yield at + "input_layernorm.weight", (WIDTH,)
        yield at + "post_attention_layernorm.weight", (WIDTH,)


def _write(path: Path, tensors: Mapping[str, tuple[int, ...]]) -> None:
    begun, header = 0, {}
    for name, shape in tensors.items():
        size = 2
        for length in shape:
            size *= length
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begun, begun + size]}
        begun += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + begun)  # a hole, which takes no disk space


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
