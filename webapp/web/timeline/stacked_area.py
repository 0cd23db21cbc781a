"""The geometry of the timeline: layers stacked over time, marks that do not overlap, and round figures for the axes.

Heights are in thousandths of the drawing, widths in thousandths or in percent, so that it fits any window without being
redrawn.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

UNITS: Final = 1000
"""Width and height of the drawing."""
LABEL_UNITS: Final = 64
"""Height of a line of text in a drawing 300 px high."""
LANES: Final = 3
"""Rows of marks, one below the other."""
MARK_PERCENT: Final = 7.5
"""Width of a mark in its lane: a finger's 24 px on the narrowest phone."""
STEPS: Final = (0.1, 0.25, 0.5, 1, 2, 4, 8, 10, 16, 20, 32, 40, 64, 80, 100, 128, 200, 256, 500, 512, 1000, 2000, 5000)
MOST_STEPS: Final = 6

Column = Sequence[int] | None
"""The sizes of all layers at one time, lowest first; ``None`` if unknown."""


@dataclass(frozen=True)
class LabelSpot:
    """The largest space in a layer for one line of text: its middle and width in percent."""

    x: float
    y: float
    width: float


@dataclass(frozen=True)
class LayerOutline:
    """One layer's outline as an SVG path in thousandths, empty if it is never visible, and the spot of its label."""

    path: str
    room: LabelSpot | None


@dataclass(frozen=True)
class Stretch:
    """A period without data, in percent."""

    x: float
    width: float


@dataclass(frozen=True)
class MarkSpot:
    """The position of a mark and its moments: several if separate marks would overlap."""

    x: float
    lane: int
    moments: tuple[int, ...]
    """Indices of the moments."""


def stack(columns: Sequence[Column], top: int) -> tuple[LayerOutline, ...]:
    """Return the layers of ``columns``, lowest first; ``top`` is the size that the whole height represents."""
    layers = next((len(column) for column in columns if column is not None), 0)
    edges = [None if column is None else _edges(column, top) for column in columns]
    return tuple(_layer(edges, index) for index in range(layers))


def gaps(columns: Sequence[Column]) -> tuple[Stretch, ...]:
    """Return the periods without data."""
    share = 100 / max(len(columns), 1)
    runs = _runs([column is None for column in columns])
    return tuple(Stretch(_percent(first * share), _percent((end - first) * share)) for first, end in runs)


def places(shares: Sequence[float]) -> tuple[MarkSpot, ...]:
    """Return positions for moments (in percent of the width, in order), so that no two marks overlap.

    If all lanes are taken, a moment joins the nearest mark before it.
    """
    found: list[MarkSpot] = []
    newest: dict[int, int] = {}
    for moment, share in enumerate(shares):
        free = (lane for lane in range(LANES) if lane not in newest or share - found[newest[lane]].x >= MARK_PERCENT)
        lane = next(free, None)
        if lane is None:
            index = max(newest.values())
            place = found[index]
            found[index] = MarkSpot(place.x, place.lane, (*place.moments, moment))
        else:
            newest[lane] = len(found)
            found.append(MarkSpot(_percent(share), lane, (moment,)))
    return tuple(found)


def round_steps(top: float) -> tuple[float, ...]:
    """Return a handful of round figures from 0 to ``top``."""
    step = next((step for step in STEPS if top / step <= MOST_STEPS), STEPS[-1])
    return tuple(step * index for index in range(math.floor(top / step) + 1))


def round_minutes(begin: float, end: float, step_s: int) -> tuple[float, ...]:
    """Return the multiples of ``step_s`` since the epoch from ``begin`` to ``end``."""
    first = math.ceil(begin / step_s)
    return tuple(float(index * step_s) for index in range(first, math.floor(end / step_s) + 1))


def midnights(begin: float, end: float) -> tuple[float, ...]:
    """Return the beginnings of days in the server's time zone, correct even after days of 23 or 25 hours."""
    day = datetime.fromtimestamp(begin).replace(hour=0, minute=0, second=0, microsecond=0)
    days = (day + timedelta(days=index) for index in range(math.ceil((end - begin) / 86400) + 2))
    return tuple(moment for moment in (day.timestamp() for day in days) if begin <= moment <= end)


def _edges(column: Sequence[int], top: int) -> list[int]:
    """Return the heights between the layers, from the bottom up; adjacent layers share them, so that no gap shows."""
    edges, filled = [UNITS], 0
    for size in column:
        filled += size
        edges.append(round(UNITS * (1 - filled / top)))
    return edges


def _layer(edges: Sequence[list[int] | None], index: int) -> LayerOutline:
    bands = [None if e is None or e[index] == e[index + 1] else (e[index + 1], e[index]) for e in edges]
    runs = _runs([band is not None for band in bands])
    known = [band or (0, 0) for band in bands]
    step = UNITS / max(len(bands), 1)
    path = "".join(_outline(known[first:end], first * step, step) for first, end in runs)
    rooms = [_room(known[first:end], first) for first, end in runs]
    widest = max((room for room in rooms if room is not None), key=lambda room: room[1] - room[0], default=None)
    return LayerOutline(path, None if widest is None else _as_room(widest, len(bands)))


def _runs(flags: Iterable[bool]) -> list[tuple[int, int]]:
    """Return the runs of true flags: first index, and the index after the last."""
    runs: list[tuple[int, int]] = []
    for index, flag in enumerate(flags):
        if flag and runs and runs[-1][1] == index:
            runs[-1] = (runs[-1][0], index + 1)
        elif flag:
            runs.append((index, index + 1))
    return runs


def _outline(bands: Sequence[tuple[int, int]], x: float, step: float) -> str:
    """Return the path along the upper edge and back along the lower one."""
    upper, lower = [band[0] for band in bands], [band[1] for band in bands]
    path = [f"M{_n(x)} {upper[0]}"]
    for index in range(1, len(bands)):
        if upper[index] != upper[index - 1]:
            path.append(f"H{_n(x + index * step)}V{upper[index]}")
    path.append(f"H{_n(x + len(bands) * step)}V{lower[-1]}")
    for index in range(len(bands) - 1, 0, -1):
        if lower[index] != lower[index - 1]:
            path.append(f"H{_n(x + index * step)}V{lower[index - 1]}")
    path.append(f"H{_n(x)}Z")
    return "".join(path)


def _room(bands: Sequence[tuple[int, int]], offset: int) -> tuple[int, int, int, int] | None:
    """Return the longest run, found in one pass, in which a line of text fits: first and end column, upper and lower
    edge."""
    best: tuple[int, int, int, int] | None = None
    first, upper, lower = 0, 0, UNITS
    for index, band in enumerate(bands):
        upper, lower = max(upper, band[0]), min(lower, band[1])
        if lower - upper < LABEL_UNITS:
            first, (upper, lower) = index, band
        if lower - upper < LABEL_UNITS:
            first, upper, lower = index + 1, 0, UNITS
        elif best is None or index + 1 - first > best[1] - best[0]:
            best = (first, index + 1, upper, lower)
    return None if best is None else (best[0] + offset, best[1] + offset, best[2], best[3])


def _as_room(found: tuple[int, int, int, int], columns: int) -> LabelSpot:
    first, end, upper, lower = found
    return LabelSpot(
        x=_percent(50 * (first + end) / columns),
        y=_percent(50 * (upper + lower) / UNITS),
        width=_percent(100 * (end - first) / columns),
    )


def _percent(value: float) -> float:
    return round(value, 2)


def _n(value: float) -> str:
    return f"{round(value, 1):g}"
