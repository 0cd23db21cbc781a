"""Whether memory is freed: a model of about 1 GB is loaded and unloaded 20 times on the real server.

Prints, for each cycle, the receipt compared with the weights and the free memory compared with the beginning; then the
extremes.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

from tests.engine.models import BIG_MODEL, make_big_model
from tests.engine.server import WardenServer, running

CYCLES = 20
WARM_UP = 1
"""The first cycle fills the page cache and the web process's arenas; it is printed but not counted."""
REST_S = 1.0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _free(server: WardenServer) -> int:
    time.sleep(REST_S)
    return int(server.status()["devices"][0]["free_bytes"])


def main(cycles: int = CYCLES) -> None:
    """Run the cycles and print the table."""
    with tempfile.TemporaryDirectory() as folder:
        make_big_model(Path(folder) / "cache")
        with running(WardenServer(Path(folder) / "state", Path(folder) / "cache")) as server:
            (model,) = server.models()
            _measure(server, model["size_bytes"], cycles)


def _measure(server: WardenServer, weights: int, cycles: int) -> None:
    drifts, errors, seconds = [], [], []
    began = _free(server)
    _say(f"weights {weights / 2**20:.0f} MiB, {cycles} cycles")
    for cycle in range(-WARM_UP, cycles):
        operation = server.load(BIG_MODEL)
        assert operation["state"] == "succeeded", operation
        instance = server.instance_of(BIG_MODEL)
        unload = server.finished(server.post(f"/api/v1/instances/{instance['id']}/unload").json()["id"])
        receipt = unload["receipt"]
        drift = (_free(server) - began) / weights
        error = (receipt["model_freed_bytes"] - weights) / weights
        _say(
            f"{cycle + 1:3d}  freed {receipt['freed_bytes'] / 2**20:7.0f} MiB of {receipt['expected_bytes'] / 2**20:7.0f}, "
            f"model {receipt['model_freed_bytes'] / 2**20:7.0f} ({error:+.1%} of the weights) in {receipt['seconds']:.2f} s; "
            f"free {drift:+.2%} of the model from the start"
        )
        if cycle < 0:
            began = _free(server)
            continue
        drifts.append(abs(drift))
        errors.append(abs(error))
        seconds.append(receipt["seconds"])
    _say(
        f"largest drift {max(drifts):.2%}, largest receipt error {max(errors):.2%}, "
        f"settle median {statistics.median(seconds):.2f} s; workers left {len(server.worker_pids())}, "
        f"folders left {len(list((server.state / 'workers').iterdir()))}"
    )
