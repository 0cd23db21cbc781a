"""Containers of vLLM's image that this Warden did not start: their rows, and the texts of the confirmation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from webapp.control.contract import ForeignContainer, Snapshot
from webapp.domain.memory import Holder, Reading, Sample
from webapp.web import formats, words
from webapp.web.phrases import where
from webapp.web.translate import gettext as _

TONES = {
    "running": "foreign",
    "created": "wait",
    "restarting": "wait",
    "paused": "warn",
    "exited": "off",
    "dead": "bad",
}
"""The tone by state; an unknown state has the tone of an ended container."""


@dataclass(frozen=True)
class HeldOn:
    """The memory of a container on one device."""

    device: str
    size: str


@dataclass(frozen=True)
class ContainerRow:
    """A foreign container. Texts are empty if nothing is known."""

    id: str
    name: str
    image: str
    model: str
    owner: str
    state: str
    state_word: str
    tone: str
    ports: str
    created_at: float
    where: str
    held: str
    held_on: tuple[HeldOn, ...]
    """By device, if there are several."""
    other_warden: str | None
    """The state folder of the other Warden that started it."""
    stop_word: str


def container_rows(snapshot: Snapshot) -> tuple[ContainerRow, ...]:
    """Return the rows of all foreign containers."""
    return tuple(container_row(container, snapshot.sample) for container in snapshot.containers)


def container_row(container: ForeignContainer, sample: Sample | None) -> ContainerRow:
    """Return the row of one container, with its memory according to ``sample``."""
    held = _held(container, sample)
    known = [size for size in held.values() if size is not None]
    total = sum(known) if len(known) == len(held) and sample is not None else None
    there = [device for device, size in held.items() if size != 0]
    return ContainerRow(
        id=container.id,
        name=container.name,
        image=container.image,
        model=container.model or "",
        owner=container.owner or "",
        state=container.state,
        state_word=_state_words().get(container.state, container.state),
        tone=TONES.get(container.state, "off"),
        ports=", ".join(container.ports),
        created_at=container.created_at,
        where=where(there),
        held=formats.size(total),
        held_on=_by_device((device, held[device]) for device in there) if len(there) > 1 else (),
        other_warden=container.of_warden,
        stop_word=_("Stop the container %(name)s of another person", name=container.name),
    )


def _held(container: ForeignContainer, sample: Sample | None) -> dict[str, int | None]:
    """Return the bytes by device; ``None`` if the device or one of the container's processes cannot be read."""
    readings = () if sample is None else sample.readings
    return {reading.device_id: _held_on(container, reading) for reading in readings}


def _held_on(container: ForeignContainer, reading: Reading) -> int | None:
    if not reading.holders_known:
        return None
    claims = [holder.used_bytes for holder in reading.holders if _is_inside(holder, container)]
    return None if None in claims else sum(claim for claim in claims if claim is not None)


def _is_inside(holder: Holder, container: ForeignContainer) -> bool:
    """Return whether a process is in a container, by its control group or else by the engine's list of processes."""
    if holder.container_id is not None:
        return holder.container_id == container.id
    return holder.pid in container.pids


def _by_device(held: Iterable[tuple[str, int | None]]) -> tuple[HeldOn, ...]:
    return tuple(HeldOn(words.capital(words.device_label(device)), formats.size(size)) for device, size in held)


def _state_words() -> dict[str, str]:
    return {
        "created": _("created, not started"),
        "running": _("running"),
        "paused": _("paused"),
        "restarting": _("restarting"),
        "removing": _("being removed"),
        "exited": _("exited"),
        "dead": _("dead"),
    }
