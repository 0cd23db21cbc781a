"""The parts of a footprint, each with its source and its confidence."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property


class PartName(StrEnum):
    """The purpose of a part of a footprint."""

    WEIGHTS = "weights"
    KV_CACHE = "kv_cache"
    """Keys and values of all tokens of all requests, and the states of layers that keep one."""
    ACTIVATION = "activation"
    """Memory that the computation needs at its peak in addition to weights and KV cache."""
    GRAPHS = "graphs"
    """CUDA graphs that vLLM captures."""
    NON_TORCH = "non_torch"
    """Memory that libraries take outside torch while vLLM runs: workspaces of kernels, buffers for communication with
    other GPUs.
    """
    CONTEXT = "context"
    """The CUDA context; on the host, the interpreter with its libraries."""


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
    """A rule that published measurements support; its docstring names them."""
    PUBLISHED = "published"
    """The largest value that is published for such a device."""
    MEASURED = "measured"
    """Measured on the authors' machines."""
    LEARNED = "learned"
    """Measured on this machine, when this model was loaded before."""
    DEVICE = "device"
    """Measured on this machine on this kind of device, when other models were loaded before."""
    GUESS = "guess"
    """No file states it; a model of this size usually takes as much."""
    NOTHING = "nothing"
    """There is no such part."""


class Confidence(StrEnum):
    """How reliable a figure is, best first."""

    HIGH = "high"
    """Within a few percent."""
    MEDIUM = "medium"
    """The rule is right, but one of its sizes or ranges is not exact."""
    LOW = "low"
    """A rough guess."""


_RANK = {each: rank for rank, each in enumerate(Confidence)}


def lowest(confidences: Iterable[Confidence]) -> Confidence:
    """Return the worst of ``confidences``; ``HIGH`` if there are none."""
    return max(confidences, key=_RANK.__getitem__, default=Confidence.HIGH)


class Note(StrEnum):
    """What a person must know to judge a footprint."""

    UNKNOWN_ARCHITECTURE = "unknown_architecture"
    """The model type is unknown; the model was read as if its attention were the usual one."""
    UNSTATED_SIZES = "unstated_sizes"
    """config.json does not state the sizes that KV cache and activations follow from."""
    STATE_LAYERS = "state_layers"
    """Some layers keep a constant state per request, whose size follows from the usual rule."""
    ENCODER = "encoder"
    """An encoder in addition to the decoder: its keys and values are counted for an input as long as the context."""
    NO_KV_CACHE = "no_kv_cache"
    """An encoder keeps no keys and values between tokens."""
    WEIGHTS_FROM_INDEX = "weights_from_index"
    """The weights are the total that the index states; no header was available."""
    WEIGHTS_FROM_SIZES = "weights_from_sizes"
    """The weights follow from the sizes in config.json; no header was available."""
    WEIGHTS_FROM_FILES = "weights_from_files"
    """The weights are the bytes of the files; they have no headers."""
    DEQUANTIZED = "dequantized"
    """transformers unpacks these quantized files to 16 bits while loading."""
    EXPERTS_NOT_QUANTIZED = "experts_not_quantized"
    """bitsandbytes skips fused experts, so the model shrinks little."""
    EXPERTS = "experts"
    """How evenly the tokens are distributed over the experts is not known beforehand."""
    EAGER_ATTENTION = "eager_attention"
    """transformers holds the scores of all pairs of tokens for this model: memory is quadratic in the prompt."""
    MASKED_WINDOW = "masked_window"
    """The prompt is longer than the window: transformers creates a mask of all pairs of tokens, and keeps every layer's
    keys until the first token.
    """
    VISION = "vision"
    """Images or sound take more than text; published figures say 0.2 to 0.5 GiB in vLLM."""
    DEVICE_MEMORY_UNKNOWN = "device_memory_unknown"
    """vLLM's own limits depend on the device's memory; those of a smaller card were assumed."""


@dataclass(frozen=True)
class Part:
    """One part of a footprint in bytes."""

    name: PartName
    bytes: int
    source: Source = Source.RULE
    confidence: Confidence = Confidence.HIGH


@dataclass(frozen=True)
class MeasuredSpread:
    """The number of measured launches of this kind, and the spread of their figures."""

    count: int
    spread_percent: float
    """Half of the difference between the largest and the smallest figure, in percent of their mean."""
    same_options: bool = True
    """False if the context length or the batch size differed between the launches."""


@dataclass(frozen=True)
class Footprint:
    """A launch's memory on one device; the parts exist together at the moment of the highest need."""

    device_id: str
    parts: tuple[Part, ...]
    load_peak_bytes: int = 0
    """The peak while the model loads, the context included; 0 is unknown."""
    notes: tuple[Note, ...] = ()
    seen: MeasuredSpread | None = None
    """The measurements that corrected the parts of the source ``LEARNED``."""
    warm_bytes: int = 0
    """The part of the activation that is held from the start: a worker on a GPU answers once before it is ready, and
    the libraries keep that memory.
    """
    batched_tokens: int | None = None
    """The batched tokens that the estimate for vLLM assumes, which are passed to it; ``None`` leaves them to the
    engine.
    """

    @cached_property
    def total_bytes(self) -> int:
        """Sum of the parts: the peak while it runs."""
        return sum(part.bytes for part in self.parts)

    @cached_property
    def required_bytes(self) -> int:
        """The bytes that must be available for the launch to succeed: the larger of the two peaks."""
        return max(self.total_bytes, self.load_peak_bytes)

    @property
    def confidence(self) -> Confidence:
        """The worst confidence of all parts that matter: guesses, and parts of at least a tenth of the sum."""
        total = self.total_bytes
        return lowest(p.confidence for p in self.parts if p.confidence is Confidence.LOW or p.bytes * 10 >= total)

    @property
    def exact(self) -> bool:
        """False if a part rests on a guess (no headers, unknown sizes)."""
        return self.confidence is not Confidence.LOW

    def on(self, device_id: str) -> Footprint:
        """Return the same footprint on another device."""
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
        """Bytes of the part ``name``, 0 if there is none."""
        return sum(part.bytes for part in self.parts if part.name is name)
