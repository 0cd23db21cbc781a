"""The parts of a footprint, each with where it comes from and how far it is to be trusted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property


class PartName(StrEnum):
    """What a part of a footprint is for."""

    WEIGHTS = "weights"
    KV_CACHE = "kv_cache"
    """Keys and values of all tokens of all requests, and the states of layers that keep one."""
    ACTIVATION = "activation"
    """What the computation needs beyond weights and KV cache at its widest moment."""
    GRAPHS = "graphs"
    """CUDA graphs that vLLM captures."""
    NON_TORCH = "non_torch"
    """What libraries take past torch while vLLM runs: kernels' workspaces, buffers to talk to other GPUs."""
    CONTEXT = "context"
    """The CUDA context, or on the host the interpreter with its libraries."""


class Source(StrEnum):
    """Where a part's figure comes from."""

    HEADERS = "headers"
    """Every tensor, from the headers of the safetensors files."""
    INDEX = "index"
    """The total that the index of the shards states."""
    SIZES = "sizes"
    """The sizes in config.json."""
    FILES = "files"
    """The bytes of the files on disk."""
    RULE = "rule"
    """A rule that published measurements bear out; its docstring names them."""
    PUBLISHED = "published"
    """The upper end of what is published for such a device."""
    MEASURED = "measured"
    """Measured on machines of ours."""
    LEARNED = "learned"
    """Measured here, when this very model was loaded before."""
    DEVICE = "device"
    """Measured here on this kind of device, when other models were loaded before."""
    GUESS = "guess"
    """Nothing states it; a model of this weight usually takes as much."""
    NOTHING = "nothing"
    """There is no such part here."""


class Confidence(StrEnum):
    """How far a figure is to be trusted, best first."""

    HIGH = "high"
    """Within a few percent."""
    MEDIUM = "medium"
    """The rule is right, a size or a range in it is not exact."""
    LOW = "low"
    """A guess that is better than nothing."""


_RANK = {each: rank for rank, each in enumerate(Confidence)}


def lowest(confidences: Iterable[Confidence]) -> Confidence:
    """Return the worst of ``confidences``, ``HIGH`` of none."""
    return max(confidences, key=_RANK.__getitem__, default=Confidence.HIGH)


class Note(StrEnum):
    """What a person has to know about a footprint to judge it."""

    UNKNOWN_ARCHITECTURE = "unknown_architecture"
    """The model type is not known here; it was read as if it attended in the usual way."""
    UNSTATED_SIZES = "unstated_sizes"
    """config.json does not state the sizes that KV cache and activations follow from."""
    STATE_LAYERS = "state_layers"
    """Some layers keep a constant state a request, whose size follows from the usual rule."""
    ENCODER = "encoder"
    """An encoder beside the decoder: its keys and values are counted for an input as long as the context."""
    NO_KV_CACHE = "no_kv_cache"
    """An encoder keeps no keys and values between tokens."""
    WEIGHTS_FROM_INDEX = "weights_from_index"
    """The weights are the total that the index states; no header was at hand."""
    WEIGHTS_FROM_SIZES = "weights_from_sizes"
    """The weights follow from the sizes in config.json; no header was at hand."""
    WEIGHTS_FROM_FILES = "weights_from_files"
    """The weights are the bytes of the files; they have no headers."""
    DEQUANTIZED = "dequantized"
    """transformers unpacks these quantized files to 16 bits while loading."""
    EXPERTS_NOT_QUANTIZED = "experts_not_quantized"
    """bitsandbytes passes over fused experts, so the model shrinks little."""
    EXPERTS = "experts"
    """How evenly the tokens spread over the experts is not known beforehand."""
    EAGER_ATTENTION = "eager_attention"
    """transformers holds the scores of all pairs of tokens for this model: memory grows with the square of the prompt."""
    MASKED_WINDOW = "masked_window"
    """The prompt is longer than the window: transformers makes a mask of all pairs of tokens, and keeps every layer's keys until the first
    token."""
    VISION = "vision"
    """Images or sound take more than text; published figures say 0.2 to 0.5 GiB in vLLM."""
    DEVICE_MEMORY_UNKNOWN = "device_memory_unknown"
    """vLLM's own limits depend on the device's memory; those of a smaller card were taken."""


@dataclass(frozen=True)
class Part:
    """One part of a footprint in bytes."""

    name: PartName
    bytes: int
    source: Source = Source.RULE
    confidence: Confidence = Confidence.HIGH


@dataclass(frozen=True)
class MeasuredSpread:
    """How often a launch like this was measured here, and how far the figures lie apart."""

    count: int
    spread_percent: float
    """Half of the distance between the largest and the smallest, of their mean."""
    same_options: bool = True
    """False where the context length or the batch size was another one each time."""


@dataclass(frozen=True)
class Footprint:
    """A launch's memory on one device; the parts live at the same time, at the moment when most is needed."""

    device_id: str
    parts: tuple[Part, ...]
    load_peak_bytes: int = 0
    """The most that is held while the model loads, the context included; 0 is not known."""
    notes: tuple[Note, ...] = ()
    seen: MeasuredSpread | None = None
    """What was measured here and has corrected the parts that say ``LEARNED``."""
    warm_bytes: int = 0
    """What of the activation is held from the start: a worker on a GPU answers once before it is ready, and the libraries keep what that
    took."""
    batched_tokens: int | None = None
    """Tokens that vLLM was counted to take in at once and is to be told; ``None`` leaves them to the engine."""

    @cached_property
    def total_bytes(self) -> int:
        """Sum of the parts: the peak while it runs."""
        return sum(part.bytes for part in self.parts)

    @cached_property
    def required_bytes(self) -> int:
        """What has to be there for the launch to succeed: the larger of the two peaks."""
        return max(self.total_bytes, self.load_peak_bytes)

    @property
    def confidence(self) -> Confidence:
        """The worst of all parts that decide: a guess always does, a range only where it is a tenth of the sum."""
        total = self.total_bytes
        return lowest(p.confidence for p in self.parts if p.confidence is Confidence.LOW or p.bytes * 10 >= total)

    @property
    def exact(self) -> bool:
        """False when a part rests on a guess (no headers, unknown sizes)."""
        return self.confidence is not Confidence.LOW

    def on(self, device_id: str) -> Footprint:
        """Return the same on another device."""
        return Footprint(
            device_id,
            self.parts,
            self.load_peak_bytes,
            notes=self.notes,
            seen=self.seen,
            warm_bytes=self.warm_bytes,
            batched_tokens=self.batched_tokens,
        )

    def part(self, name: PartName) -> int:
        """Bytes of the part ``name``, 0 when there is none."""
        return sum(part.bytes for part in self.parts if part.name is name)
