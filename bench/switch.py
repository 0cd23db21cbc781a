"""How long the steps of a switch take, from the operations' own times; with and without a spare worker."""

from __future__ import annotations

import sys
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.engine.models import make_model
from tests.engine.server import WardenServer, running, wait_for

ROUNDS = 4


def main() -> None:
    """Switch to and fro and print the steps' medians."""
    for prewarm in (0, 1):
        with tempfile.TemporaryDirectory() as folder:
            cache = Path(folder) / "cache"
            make_model(cache, "lab/one", seed=1)
            make_model(cache, "lab/two", seed=2)
            with running(WardenServer(Path(folder) / "state", cache, prewarm=prewarm)) as server:
                server.models(2)
                _measure(server, prewarm)


def _measure(server: WardenServer, prewarm: int) -> None:
    times: dict[str, list[float]] = {}
    for number in range(ROUNDS + 1):
        if prewarm:
            wait_for(lambda: _has_spare(server), 60, lambda: "no spare")
        operation = server.load(("lab/one", "lab/two")[number % 2])
        assert operation["state"] == "succeeded", operation
        if number:
            for step in operation["steps"]:
                times.setdefault(step["name"], []).append(_seconds(step))
            times.setdefault("whole", []).append(_seconds(operation))
    line = ", ".join(f"{name} {sorted(values)[len(values) // 2]:.3f} s" for name, values in times.items())
    sys.stdout.write(f"prewarm {prewarm}, median of {ROUNDS}: {line}\n")


def _has_spare(server: WardenServer) -> bool:
    log = [p for p in (server.state / "workers").glob("spare-*/log") if "imported the libraries" in p.read_text()]
    return bool(log)


def _seconds(span: dict[str, Any]) -> float:
    if not span["started_at"] or not span["ended_at"]:
        return 0.0
    return (datetime.fromisoformat(span["ended_at"]) - datetime.fromisoformat(span["started_at"])).total_seconds()
