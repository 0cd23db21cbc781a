"""Whether a cached model fits, for a whole list of them: the planner's arithmetic without its plans. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from webapp.domain.model import CachedModel
from webapp.domain.plan import SwitchRequest
from webapp.domain.planner import Room, needed_bytes


class Fit(StrEnum):
    """How a model fits on the chosen devices, with given launch options."""

    NOW = "now"
    """Beside everything that is loaded."""
    AFTER_UNLOADING = "after_unloading"
    """Once what Warden has loaded there is unloaded."""
    TOO_LARGE = "too_large"
    UNKNOWN = "unknown"
    """No device's memory is known, or the model cannot be loaded at all."""


def needs_of(request: SwitchRequest, model: CachedModel, rooms: Sequence[Room]) -> tuple[int, ...]:
    """Return what ``request`` would take of ``model`` on each device alone, in bytes, in the order of ``rooms``.

    It depends on the devices' kinds and sizes only, and on what was learned, so it can be kept while the memory changes.
    """
    return tuple(needed_bytes(request, model, room) for room in rooms)


def fit_of(needs: Sequence[int], rooms: Sequence[Room]) -> Fit:
    """Return how a model that needs ``needs`` bytes fits into one of ``rooms``."""
    known = [(need, room) for need, room in zip(needs, rooms, strict=True) if room.alone_bytes is not None]
    if not known:
        return Fit.UNKNOWN
    if any(need <= (room.beside_bytes or 0) for need, room in known):
        return Fit.NOW
    return Fit.AFTER_UNLOADING if any(need <= (room.alone_bytes or 0) for need, room in known) else Fit.TOO_LARGE
