"""The geometry of the charts that the server draws as SVG: a stacked bar, and a line of the last minutes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

BAR_WIDTH = 1000
"""Width of the bar's ``viewBox``, which is stretched to the available space."""
GAP = 3
LEAST_WIDTH = 5
"""The least width of a slice, so that it stays visible however small it is."""
LINE_WIDTH = 600
LINE_HEIGHT = 44
BUCKETS = 120
"""Steps of the line: it moves once per bucket, so that an idle page is not redrawn in between."""


@dataclass(frozen=True)
class Slice:
    """One part of a bar, in units of its ``viewBox``."""

    kind: str
    x: float
    width: float


@dataclass(frozen=True)
class ChartLine:
    """SVG paths: the line, the area under it, and the marked moments."""

    path: str
    area: str
    marks: str


def bar(parts: Sequence[tuple[str, int]], total: int) -> tuple[Slice, ...]:
    """Return slices for ``parts`` (kind, bytes) of ``total`` from the left, with gaps, each at least ``LEAST_WIDTH``
    wide.

    The rest of the width is the bar's background, which stands for free memory.
    """
    if total <= 0:
        return ()
    shown = [(kind, size) for kind, size in parts if size > 0]
    widths = [max(LEAST_WIDTH, BAR_WIDTH * size / total - GAP) for _, size in shown]
    room = BAR_WIDTH - GAP * len(shown)
    shrink = min(1.0, room / sum(widths)) if widths else 1.0
    slices, x = [], 0.0
    for (kind, _), width in zip(shown, widths, strict=True):
        slices.append(Slice(kind, _calm(x), _calm(width * shrink)))
        x += width * shrink + GAP
    return tuple(slices)


def line(
    points: Sequence[tuple[float, int | None]], total: int | None, window_s: float, moments: Sequence[float] = ()
) -> ChartLine | None:
    """Return the line of ``points`` (time, bytes) over the last ``window_s``, as steps; ``None`` if there is nothing to
    draw.

    A bucket without a figure leaves a gap. ``moments`` are times to mark.
    """
    if not points or not total:
        return None
    bucket_s = window_s / BUCKETS
    last = math.floor(points[-1][0] / bucket_s)
    values: dict[int, int] = {}
    for taken_at, used in points:
        index = math.floor(taken_at / bucket_s) - last + BUCKETS - 1
        if used is not None and index >= 0:
            values[index] = used
    if not values:
        return None
    step = LINE_WIDTH / BUCKETS
    runs = _runs(values, step, total)
    marks = {math.floor(moment / bucket_s) - last + BUCKETS - 1 for moment in moments}
    return ChartLine(
        path="".join(path for path, _, _ in runs),
        area="".join(
            f"M{_n(x0)} {LINE_HEIGHT}V{path.removeprefix('M').split(' ', 1)[1]}V{LINE_HEIGHT}Z" for path, x0, _ in runs
        ),
        marks="".join(f"M{_n(i * step)} 0V{LINE_HEIGHT}" for i in sorted(marks) if 0 <= i < BUCKETS),
    )


def _runs(values: dict[int, int], step: float, total: int) -> list[tuple[str, float, float]]:
    """Return the segments without a gap: path, first x, last x."""
    runs: list[tuple[str, float, float]] = []
    path, start, end, height = "", 0, -1, -1.0
    for index in sorted(values):
        y = _calm(LINE_HEIGHT - (LINE_HEIGHT - 2) * min(1.0, values[index] / total))
        if index != end + 1 or not path:
            if path:
                runs.append((f"{path}H{_n((end + 1) * step)}", start * step, (end + 1) * step))
            path, start = f"M{_n(index * step)} {_n(y)}", index
        elif y != height:
            path += f"H{_n(index * step)}V{_n(y)}"
        end, height = index, y
    runs.append((f"{path}H{_n((end + 1) * step)}", start * step, (end + 1) * step))
    return runs


def _calm(units: float) -> float:
    """Round to half a unit, which is invisible; finer steps would redraw an idle page every second."""
    return round(2 * units) / 2


def _n(value: float) -> str:
    return f"{value:g}"
