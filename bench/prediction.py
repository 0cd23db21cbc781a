"""Is the plan right? Real workers on the CPU, four models of 0.1 to 2 GB in five precisions: predicted against what the process held.

Each model is planned and loaded by the real server and answers a prompt that fills its context. The worker's own anonymous memory is
looked at every 2 ms: the most while it loads, at rest once it is ready, the most while it answers. ``first`` is held against the plan that
knew nothing of the model, ``again`` against the plan after one load. Fails where the gate is further off than 5 %, or what is held at
rest, which is what is learned, further than 5 % the first time and 2 % after one load.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from tokenizers import Tokenizer

from tests.engine.models import make_model
from tests.engine.server import WardenServer, running, wait_for

CONTEXT = 512
"""Tokens of prompt and answer together."""
ANSWER = 8
LOOK_S = 0.002
FIRST_PERCENT, AGAIN_PERCENT = 5.0, 2.0
MODELS: Mapping[str, Mapping[str, Any]] = {
    "lab/tenth": {
        "architecture": "llama",
        "layers": 10,
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
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Held:
    """What a worker held, in bytes."""

    loading: int = 0
    resting: int = 0
    answering: int = 0


@dataclass
class _Watch:
    """The most that a process holds, while somebody looks."""

    most: int = 0
    pid: int = 0
    _done: threading.Event = field(default_factory=threading.Event)

    def look(self, find: Callable[[], int | None]) -> None:
        while not self._done.wait(LOOK_S):
            self.pid = self.pid or find() or 0
            if self.pid:
                self.most = max(self.most, _own_bytes(self.pid))

    def end(self) -> None:
        self._done.set()


def main(options: list[str] | None = None) -> None:
    """Measure all, or the models and precisions that ``options`` name (``--lab/half --INT8``), and print the table."""
    asked = {option.removeprefix("--") for option in options or ()}
    models = [name for name in MODELS if not asked & MODELS.keys() or name in asked]
    precisions = [name for name in PRECISIONS if not asked & PRECISIONS.keys() or name in asked]
    wrong: list[str] = []
    _say("| Model, precision | weights, MiB | | load peak | error | at rest | error | run peak | error | the gate |")
    _say("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for model in models:
        with tempfile.TemporaryDirectory() as folder:
            cache = Path(folder) / "cache"
            snapshot = make_model(
                cache, model, dtype="bfloat16", chat_template=False, context_length=CONTEXT, **MODELS[model]
            )
            prompt = _prompt(snapshot)
            for precision in precisions:
                with running(WardenServer(Path(folder) / precision, cache)) as server:
                    server.models(1)
                    wrong += _measure(server, model, precision, prompt)
    for line in wrong:
        sys.stderr.write(line + "\n")
    if wrong:
        raise SystemExit(1)


def _measure(server: WardenServer, model: str, precision: str, prompt: str) -> Iterator[str]:
    body = {"mode": "transformers", "model": model, "options": {**PRECISIONS[precision], "max_tokens": CONTEXT}}
    for turn, limit in (("first", FIRST_PERCENT), ("again", AGAIN_PERCENT)):
        plan = server.post("/api/v1/plan", body).json()
        held = _held(server, model, body, prompt)
        yield from _row(f"{model}, {precision}", turn, limit, plan, held)


def _row(name: str, turn: str, limit: float, plan: Any, held: Held) -> Iterator[str]:
    parts = plan["needed_bytes"]["host"]
    load_peak, run_peak = (plan["footprints"]["host"][name] for name in ("load_peak_bytes", "run_peak_bytes"))
    resting = parts["weights"] + parts["context"]
    pairs = [(load_peak, held.loading), (resting, held.resting), (run_peak, held.answering)]
    gate = (max(load_peak, run_peak), max(held.loading, held.answering))
    cells = [f"{real / 2**20:.0f} | {_error(said, real):+.1f} %" for said, real in pairs]
    _say(
        f"| {name} | {parts['weights'] / 2**20:.0f} | {turn} | {' | '.join(cells)} | {gate[1] / 2**20:.0f}, {_error(*gate):+.1f} % |"
    )
    for what, most, (said, real) in (("at rest", limit, pairs[1]), ("the gate", FIRST_PERCENT, gate)):
        if abs(_error(said, real)) > most:
            yield f"{name}, {turn}: {what} is {_error(said, real):+.1f} % off, more than {most:g} %"


def _error(said: int, real: int) -> float:
    return 100 * (said / real - 1)


def _held(server: WardenServer, model: str, body: Mapping[str, object], prompt: str) -> Held:
    """Load, answer, unload."""
    held = Held()
    with _watching(server) as watch:
        operation = server.finished(server.switch(**body)["id"])
        assert operation["state"] == "succeeded", operation
    held.loading = watch.most
    instance = server.instance_of(model)["id"]
    held.resting = _own_bytes(watch.pid)
    with _watching(server) as watch:
        asked = httpx.post(
            f"{server.url}/api/v1/instances/{instance}/ask", json={"prompt": prompt, "max_tokens": ANSWER}, timeout=600
        )
        assert asked.is_success, asked.text
    held.answering = watch.most
    server.finished(server.post(f"/api/v1/instances/{instance}/unload").json()["id"])
    wait_for(lambda: not server.worker_pids(), 20, lambda: "the worker did not end")
    return held


@contextmanager
def _watching(server: WardenServer) -> Iterator[_Watch]:
    watch = _Watch()
    thread = threading.Thread(target=watch.look, args=(lambda: next(iter(server.worker_pids()), None),))
    thread.start()
    try:
        yield watch
    finally:
        watch.end()
        thread.join()


def _own_bytes(pid: int) -> int:
    """Resident less shared pages, as the host's reading counts a process; 0 when it has gone."""
    try:
        fields = Path(f"/proc/{pid}/statm").read_text().split()
    except OSError:
        return 0
    return (int(fields[1]) - int(fields[2])) * _PAGE_BYTES


def _prompt(snapshot: Path) -> str:
    """Text of as many tokens as the context holds beside the answer."""
    tokenizer = Tokenizer.from_file(str(snapshot / "tokenizer.json"))
    words = "memory"
    while len(tokenizer.encode(words + " memory").ids) <= CONTEXT - ANSWER - 2:
        words += " memory"
    return words


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
