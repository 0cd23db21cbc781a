"""Accuracy of the plan: predicted memory against the memory that real workers held.

On the CPU, four models of 0.1 to 2 GB in five precisions; with ``--gpu``, four of 1 to 14 GB in BF16, INT8 and NF4 on
the first GPU. The real server plans and loads each, and it answers a prompt that fills its context. The worker's own
memory (anonymous pages on the CPU, NVML's figure for its pid on a GPU) is read every 10 ms: its peak during the load,
its value at rest once ready, and its peak during the answer. ``first`` compares with the plan before the model was ever
loaded, ``again`` with the plan after one load.

Fails if the gate is off by more than 5 % (3 % on a GPU), if the memory at rest, which is what calibration learns, is
off by more than that on the first load or 2 % on the second, or if a GPU's receipt is off by more than 1 %.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import psutil
import pynvml
from tokenizers import Tokenizer

from tests.engine.models import make_big_model, make_model
from tests.engine.server import WardenServer, running
from webapp.hardware.shared_pages import SharedPages
from webapp.worker.demo import Shape

ANSWER = 8
LOOK_S = 0.01
AGAIN_PERCENT, RECEIPT_PERCENT = 2.0, 1.0
MODELS: Mapping[str, Mapping[str, Any]] = {
    "lab/tenth": {
        "architecture": "llama",
        "layers": 12,
        "hidden": 512,
        "intermediate": 1536,
        "heads": 8,
        "kv_heads": 2,
        "vocab": 32000,
        "tie": True,
    },
    "lab/half": {
        "architecture": "qwen2",
        "layers": 24,
        "hidden": 896,
        "intermediate": 4864,
        "heads": 14,
        "kv_heads": 2,
        "vocab": 16384,
    },
    "lab/one": {
        "architecture": "qwen3",
        "layers": 28,
        "hidden": 1024,
        "intermediate": 3072,
        "heads": 16,
        "kv_heads": 8,
        "vocab": 65536,
        "tie": True,
    },
    "lab/two": {
        "architecture": "llama",
        "layers": 14,
        "hidden": 2048,
        "intermediate": 8192,
        "heads": 32,
        "kv_heads": 8,
        "vocab": 64000,
    },
}
PRECISIONS: Mapping[str, Mapping[str, str]] = {
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "float16": {"dtype": "float16"},
    "INT8": {"quantization": "int8"},
    "NF4": {"quantization": "int4"},
}
GPU_MODELS: Mapping[str, Shape] = {
    "lab/1gb": Shape(layers=24, hidden=896, intermediate=4864, heads=14, kv_heads=2, vocabulary=151936),
    "lab/4gb": Shape(layers=28, hidden=1536, intermediate=8960, heads=12, kv_heads=2, vocabulary=151936),
    "lab/7gb": Shape(layers=28, hidden=3072, intermediate=8192, heads=24, kv_heads=8, vocabulary=128256),
    "lab/14gb": Shape(layers=32, hidden=4096, intermediate=11008, heads=32, kv_heads=32, vocabulary=32000),
}
"""Sizes of known models with 0.6 to 6.7 billion weights."""
_shared = SharedPages()
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Held:
    """Memory of a worker, in bytes."""

    loading: int = 0
    resting: int = 0
    answering: int = 0
    freed: int | None = None
    """From the receipt of its unload."""


def _own_bytes(pid: int) -> int:
    """Return what the host's reading attributes to an instance: private memory of its worker and its keeper."""
    return _process_bytes(pid) + (_process_bytes(keeper) if (keeper := _keeper_of(pid)) else 0)


@cache
def _keeper_of(pid: int) -> int | None:
    with suppress(psutil.Error):
        parent = psutil.Process(pid).parent()
        return parent.pid if parent is not None and parent.cmdline()[:1] == ["warden-keeper"] else None
    return None


def _process_bytes(pid: int) -> int:
    """Return the anonymous memory without the pages shared with the launcher; 0 if the process is gone."""
    try:
        fields = Path(f"/proc/{pid}/statm").read_text().split()
    except OSError:
        return 0
    return max(0, (int(fields[1]) - int(fields[2])) * _PAGE_BYTES - _shared.shared_bytes(pid, anew=True))


def _gpu_bytes(_pid: int) -> int:
    """Return what NVML reports for all processes on the first GPU, which nobody else uses."""
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    return sum(process.usedGpuMemory or 0 for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle))


def _cpu_model(cache: Path, name: str, context: int) -> Path:
    return make_model(cache, name, dtype="bfloat16", chat_template=False, context_length=context, **MODELS[name])


def _gpu_model(cache: Path, name: str, context: int) -> Path:
    return make_big_model(cache, name, GPU_MODELS[name], context)


@dataclass(frozen=True)
class Place:
    """The kind of device to measure on."""

    device: str
    models: Sequence[str]
    make: Callable[[Path, str, int], Path]
    precisions: Sequence[str]
    context: int
    """Tokens of prompt plus answer."""
    around: int
    """Tokens that the model's template may add to a prompt."""
    percent: float
    bytes_of: Callable[[int], int]


HOST = Place("host", tuple(MODELS), _cpu_model, tuple(PRECISIONS), 512, 2, 5.0, _own_bytes)
GPU = Place("gpu-0", tuple(GPU_MODELS), _gpu_model, ("bfloat16", "INT8", "NF4"), 4096, 16, 3.0, _gpu_bytes)


@dataclass
class _Watch:
    """The peak memory of a process while it is watched."""

    bytes_of: Callable[[int], int]
    most: int = 0
    pid: int = 0
    _done: threading.Event = field(default_factory=threading.Event)

    def look(self, find: Callable[[], int | None]) -> None:
        while not self._done.wait(LOOK_S):
            self.pid = self.pid or find() or 0
            if self.pid:
                self.most = max(self.most, self.bytes_of(self.pid))

    def end(self) -> None:
        self._done.set()


def main(options: list[str] | None = None) -> None:
    """Measure all models and precisions, or those in ``options`` (``--lab/half --INT8``), and print the table."""
    asked = {option.removeprefix("--") for option in options or ()}
    place = GPU if "gpu" in asked else HOST
    if place is GPU:
        pynvml.nvmlInit()
    models = [name for name in place.models if name in asked] or place.models
    precisions = [name for name in place.precisions if name in asked] or place.precisions
    wrong: list[str] = []
    _say(
        "| Model, precision | weights, MiB | | load peak | error | at rest | error | run peak | error | the gate | receipt |"
    )
    _say("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for model in models:
        with tempfile.TemporaryDirectory() as folder:
            cache = Path(folder) / "cache"
            prompt = _prompt(place.make(cache, model, place.context), place.context - ANSWER - place.around)
            for precision in precisions:
                with running(WardenServer(Path(folder) / precision, cache, launcher="start")) as server:
                    server.models(1)
                    server.launcher_ready()
                    wrong += _measure(server, place, model, precision, prompt)
    for line in wrong:
        sys.stderr.write(line + "\n")
    if wrong:
        raise SystemExit(1)


def _measure(server: WardenServer, place: Place, model: str, precision: str, prompt: str) -> Iterator[str]:
    options = {**PRECISIONS[precision], "max_tokens": place.context}
    body = {"mode": "transformers", "model": model, "devices": [place.device], "options": options}
    for turn, limit in (("first", place.percent), ("again", AGAIN_PERCENT)):
        plan = server.post("/api/v1/plan", body).json()
        held = _held(server, place, body, prompt)
        yield from _row(f"{model}, {precision}", turn, limit, place, plan, held)


def _row(name: str, turn: str, limit: float, place: Place, plan: Any, held: Held) -> Iterator[str]:
    parts = plan["needed_bytes"][place.device]
    load_peak, run_peak = (plan["footprints"][place.device][name] for name in ("load_peak_bytes", "run_peak_bytes"))
    resting = parts["weights"] + parts["context"] + plan["footprints"][place.device]["warm_bytes"]
    pairs = [(load_peak, held.loading), (resting, held.resting), (run_peak, held.answering)]
    gate = (max(load_peak, run_peak), max(held.loading, held.answering))
    cells = [f"{real / 2**20:.0f} | {_error(said, real):+.1f} %" for said, real in pairs]
    freed = "-" if held.freed is None else f"{_error(held.freed, held.answering):+.1f} %"
    _say(
        f"| {name} | {parts['weights'] / 2**20:.0f} | {turn} | {' | '.join(cells)} "
        f"| {gate[1] / 2**20:.0f}, {_error(*gate):+.1f} % | {freed} |"
    )
    for what, most, (said, real) in (("at rest", limit, pairs[1]), ("the gate", place.percent, gate)):
        if abs(_error(said, real)) > most:
            yield f"{name}, {turn}: {what} is {_error(said, real):+.1f} % off, more than {most:g} %"
    if place is GPU and (held.freed is None or abs(_error(held.freed, held.answering)) > RECEIPT_PERCENT):
        yield f"{name}, {turn}: the receipt is {freed} off"


def _error(said: int, real: int) -> float:
    return 100 * (said / real - 1)


def _held(server: WardenServer, place: Place, body: Mapping[str, Any], prompt: str) -> Held:
    """Load, answer, unload."""
    held = Held()
    with _watching(server, place) as watch:
        operation = server.finished(server.switch(**body)["id"], 300)
        assert operation["state"] == "succeeded", operation
    held.loading = watch.most
    instance = server.instance_of(body["model"])["id"]
    held.resting = place.bytes_of(watch.pid)
    with _watching(server, place) as watch:
        asked = httpx.post(
            f"{server.url}/api/v1/instances/{instance}/ask", json={"prompt": prompt, "max_tokens": ANSWER}, timeout=600
        )
        assert asked.is_success, asked.text
    held.answering = watch.most
    unloaded = server.finished(server.post(f"/api/v1/instances/{instance}/unload").json()["id"])
    held.freed = unloaded["receipt"]["freed_bytes"]
    return held


@contextmanager
def _watching(server: WardenServer, place: Place) -> Iterator[_Watch]:
    watch = _Watch(place.bytes_of)
    thread = threading.Thread(target=watch.look, args=(lambda: next(iter(server.worker_pids()), None),))
    thread.start()
    try:
        yield watch
    finally:
        watch.end()
        thread.join()


def _prompt(snapshot: Path, tokens: int) -> str:
    """Return a text of ``tokens`` tokens."""
    tokenizer = Tokenizer.from_file(str(snapshot / "tokenizer.json"))
    word = " a"  # short: a question may have at most 20 000 characters
    words = word * (tokens // len(tokenizer.encode(word).ids))
    while len(tokenizer.encode(words).ids) > tokens:
        words = words.removesuffix(word)
    return words


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
