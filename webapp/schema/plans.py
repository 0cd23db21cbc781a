"""What a launch would do, and the memory that it would take."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from webapp.schema.base import Answer, MessageDocument, Mode, Time
from webapp.schema.requests import LaunchDocument

PartName = Literal["weights", "kv_cache", "activation", "graphs", "non_torch", "context"]
Confidence = Literal["high", "medium", "low"]


class PartDocument(Answer):
    """One component of a launch's memory on a device."""

    name: PartName
    bytes: int
    source: Literal[
        "headers", "index", "sizes", "files", "rule", "published", "measured", "learned", "device", "guess", "nothing"
    ]
    confidence: Confidence


class NoteDocument(Answer):
    """A note that helps to judge an estimate."""

    code: Literal[
        "unknown_architecture",
        "unstated_sizes",
        "state_layers",
        "encoder",
        "no_kv_cache",
        "weights_from_index",
        "weights_from_sizes",
        "weights_from_files",
        "dequantized",
        "experts_not_quantized",
        "experts",
        "eager_attention",
        "masked_window",
        "vision",
        "device_memory_unknown",
    ]
    text: str


class MeasuredDocument(Answer):
    """The measurements of earlier launches on this server."""

    count: int
    spread_percent: float | None
    same_options: bool


class FootprintDocument(Answer):
    """A launch's memory on one device, by component; the larger of the two peaks decides whether it fits."""

    parts: tuple[PartDocument, ...]
    run_peak_bytes: int
    load_peak_bytes: int
    warm_bytes: int
    confidence: Confidence
    notes: tuple[NoteDocument, ...]
    seen: MeasuredDocument | None


class EvictionDocument(Answer):
    """A model that would be unloaded."""

    instance_id: str
    model: str
    mode: Mode
    owner: str
    in_flight: int | None
    lease_until: Time | None
    freed_bytes: dict[str, int] = Field(description="By device.")
    no_return: MessageDocument | None = Field(description="Why it could not be loaded again if the launch fails.")
    confirmed: bool = Field(description="If not, it is another person's and has to be named in `unload`.")


class WayOutDocument(Answer):
    """A launch that would fit."""

    message: MessageDocument
    request: LaunchDocument


class PlanDocument(Answer):
    """What a launch would do. Figures are by device."""

    verdict: Literal["fits", "tight", "refused"]
    devices: tuple[str, ...]
    unload: tuple[EvictionDocument, ...]
    needed_bytes: dict[str, dict[PartName, int]]
    total_needed_bytes: dict[str, int]
    free_before_bytes: dict[str, int | None]
    free_after_bytes: dict[str, int | None]
    reserve_bytes: dict[str, int]
    footprints: dict[str, FootprintDocument]
    measured: MeasuredDocument | None
    reasons: tuple[MessageDocument, ...]
    ways_out: tuple[WayOutDocument, ...]
    refusal: MessageDocument | None
    overruled: MessageDocument | None = Field(description="The memory shortage that `load_anyway` overrides.")
