"""Decides for a whole list of cached models whether each fits, by the planner's arithmetic without a plan. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice, product

from webapp.domain.memory import DeviceKind
from webapp.domain.model import CachedModel
from webapp.domain.plan import SwitchRequest
from webapp.domain.planning.requirement import needed_bytes
from webapp.domain.planning.sharing import counts
from webapp.domain.planning.state import Headroom


class Fit(StrEnum):
    """How a model fits on the chosen devices, with given launch options."""

    NOW = "now"
    """It fits next to all loaded models."""
    AFTER_UNLOADING = "after_unloading"
    """It fits after Warden's models on the devices are unloaded."""
    TOO_LARGE = "too_large"
    UNKNOWN = "unknown"
    """No device's memory is known, or the model cannot be loaded at all."""


@dataclass(frozen=True)
class Share:
    """The bytes for each of ``count`` out of several equal GPUs; ``headrooms`` are their indices in the headrooms."""

    headrooms: tuple[int, ...]
    count: int
    needed_bytes: int


@dataclass(frozen=True)
class Needs:
    """The bytes of a launch on each single device, and on several GPUs if a plan may choose them."""

    alone: tuple[int, ...]
    """In the order of the headrooms; empty if devices were named, since those are used together."""
    together: tuple[tuple[Share, ...], ...] = ()
    """For each mixture of GPU classes, the share on each."""


def needs_of(request: SwitchRequest, model: CachedModel, headrooms: Sequence[Headroom]) -> Needs:
    """Return the bytes that ``request`` needs for ``model``.

    They depend only on the devices' kinds and sizes and on the calibration, so they stay valid while the memory
    changes.
    """
    if request.devices is not None:
        return Needs((), tuple(_named(request, model, headrooms)))
    alike: dict[tuple[object, ...], list[int]] = {}
    for place, headroom in enumerate(headrooms):
        alike.setdefault((headroom.kind, headroom.device_name, headroom.usable_bytes), []).append(place)
    alone = {
        p: needed
        for places in alike.values()
        for needed in _needed(request, model, headrooms, places[:1])
        for p in places
    }
    gpus = [places for (kind, *_), places in alike.items() if kind is DeviceKind.GPU]
    together = _together(request, model, headrooms, gpus)
    return Needs(tuple(alone[place] for place in range(len(headrooms))), tuple(together))


def _named(request: SwitchRequest, model: CachedModel, headrooms: Sequence[Headroom]) -> Iterator[tuple[Share, ...]]:
    """Yield the share on each of the named devices, which are used together."""
    if headrooms:
        needed = _needed(request, model, headrooms, range(len(headrooms)))
        yield tuple(Share((place,), 1, size) for place, size in enumerate(needed))


def _together(
    request: SwitchRequest, model: CachedModel, headrooms: Sequence[Headroom], gpus: Sequence[list[int]]
) -> Iterator[tuple[Share, ...]]:
    for count in counts(request.mode, model, sum(map(len, gpus))):
        for taken in product(*(range(min(len(places), count) + 1) for places in gpus)):
            if sum(taken) == count:
                chosen = [(places, n) for places, n in zip(gpus, taken, strict=True) if n]
                needed = iter(_needed(request, model, headrooms, [p for places, n in chosen for p in places[:n]]))
                yield tuple(Share(tuple(places), n, max(islice(needed, n))) for places, n in chosen)


def _needed(
    request: SwitchRequest, model: CachedModel, headrooms: Sequence[Headroom], places: Sequence[int]
) -> tuple[int, ...]:
    return needed_bytes(request, model, [headrooms[place] for place in places])


def fit_of(needs: Needs, headrooms: Sequence[Headroom]) -> Fit:
    """Return how a model with ``needs`` fits into one or several of ``headrooms``."""
    if all(headroom.free_after_unload_bytes is None for headroom in headrooms):
        return Fit.UNKNOWN
    if _fits(needs, [headroom.free_now_bytes for headroom in headrooms]):
        return Fit.NOW
    return (
        Fit.AFTER_UNLOADING
        if _fits(needs, [headroom.free_after_unload_bytes for headroom in headrooms])
        else Fit.TOO_LARGE
    )


def _fits(needs: Needs, free: Sequence[int | None]) -> bool:
    if any(has is not None and need <= has for need, has in zip(needs.alone, free, strict=False)):
        return True
    return any(all(_holds(share, free) for share in mixture) for mixture in needs.together)


def _holds(share: Share, free: Sequence[int | None]) -> bool:
    return (
        sum((has := free[place]) is not None and share.needed_bytes <= has for place in share.headrooms) >= share.count
    )
