"""Time of a scan of the model cache, cold and unchanged, compared with huggingface_hub's scan of the same folder.

"Nothing changed" is the scan of every two seconds, which checks the weight files in turns; "every file asked" is a full
rescan.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import scan_cache_dir

from tests.engine.models import make_model
from webapp.catalog.scan import Catalog

COUNTS = (10, 200, 500)
ROUNDS = 7
SHARDS = 4
SETTLED_S = 0.3
"""Files that changed just before are read again, so the measurement waits until the cache is at rest."""


def main() -> None:
    """Print medians in milliseconds, and how many times longer huggingface_hub takes."""
    _say("| Models | Cold | Nothing changed | and every file asked | huggingface_hub | times cold | times unchanged |")
    _say("| --- | --- | --- | --- | --- | --- | --- |")
    for count in COUNTS:
        with tempfile.TemporaryDirectory() as folder:
            cache = Path(folder)
            _fill(cache, count)
            time.sleep(SETTLED_S)
            _say(_row(cache, count))


def _fill(cache: Path, count: int) -> None:
    """Create one real model in four shards, and copies of it under other names."""
    make_model(cache, "lab/model-000", shards=SHARDS)
    first = cache / "models--lab--model-000"
    for number in range(1, count):
        shutil.copytree(first, cache / f"models--lab--model-{number:03d}", symlinks=True)


def _row(cache: Path, count: int) -> str:
    cold = _median_ms(lambda: _look(Catalog(cache), count))
    catalog = Catalog(cache)
    _look(catalog, count)
    warm = _median_ms(lambda: _look(catalog, count, in_turns=True))
    every = _median_ms(lambda: _look(catalog, count))
    hub = _median_ms(lambda: scan_cache_dir(cache))
    return f"| {count} | {cold:.1f} ms | {warm:.1f} ms | {every:.1f} ms | {hub:.1f} ms | {hub / cold:.1f} | {hub / warm:.0f} |"


def _look(catalog: Catalog, count: int, *, in_turns: bool = False) -> None:
    models = catalog.look(in_turns=in_turns).models
    assert len(models) == count, len(models)
    assert all(model.problem is None for model in models)


def _median_ms(call: Callable[[], object]) -> float:
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
