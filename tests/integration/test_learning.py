"""What a real worker took is what the next plan of the same load counts with, also after a restart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.engine.models import make_model
from tests.engine.server import WardenServer

MODEL = "lab/learned"
BODY = {"mode": "transformers", "model": MODEL}

STIR = 12 * 2**20
"""By so much differs what two forks of a launcher come to hold of the pages that they shared."""


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache with a model of 0.3 GB and two tiny ones."""
    folder = tmp_path / "cache"
    make_model(folder, MODEL, layers=6, hidden=1024, intermediate=3584, heads=16, kv_heads=8, dtype="float32")
    for number, name in enumerate(("lab/one", "lab/two")):
        make_model(folder, name, seed=number)
    return folder


def test_second_plan_says_measured_and_is_right_within_two_percent(
    start_server: Callable[..., WardenServer],
) -> None:
    server = start_server()
    assert server.post("/api/v1/plan", BODY).json()["measured"] is None
    assert server.load(MODEL)["state"] == "succeeded"
    server.load("lab/one")
    plan = server.post("/api/v1/plan", BODY).json()
    assert plan["measured"] == {"count": 1, "spread_percent": 0.0, "same_options": True}
    assert "plan_measured_once" in [reason["code"] for reason in plan["reasons"]]
    parts = plan["needed_bytes"]["host"]
    operation = server.load(MODEL)
    (step,) = [step for step in operation["steps"] if step["name"] == "measure"]
    figures = step["message"]["params"]
    assert figures["expected_bytes"] == parts["weights"] + parts["context"]
    assert abs(figures["expected_bytes"] - figures["measured_bytes"]) < max(figures["measured_bytes"] // 50, STIR), (
        figures
    )
    server.stop()
    server.start()
    server.models(3)
    again = server.post("/api/v1/plan", BODY | {"options": {"max_tokens": 256}}).json()["measured"]
    assert (again["count"], again["same_options"]) == (2, False)
    assert again["spread_percent"] < 4
