"""The memory that a launch will take on each device, by component. Pure; docs/design/estimating.md has the sources."""

from webapp.domain.footprint.conditions import Conditions, default_limits
from webapp.domain.footprint.estimate import (
    GPU_CONTEXT_BYTES,
    HOST_CONTEXT_BYTES,
    VLLM_CONTEXT_BYTES,
    VLLM_HOST_CONTEXT_BYTES,
    VLLM_SHARED_CONTEXT_BYTES,
    Launch,
    estimate,
)
from webapp.domain.footprint.parts import Confidence, Footprint, MeasuredSpread, Note, Part, PartName, Source, lowest
from webapp.domain.footprint.shares import UTILIZATION_SCALE, budget_bytes, in_whole_shares, share_of

__all__ = [
    "GPU_CONTEXT_BYTES",
    "HOST_CONTEXT_BYTES",
    "UTILIZATION_SCALE",
    "VLLM_CONTEXT_BYTES",
    "VLLM_HOST_CONTEXT_BYTES",
    "VLLM_SHARED_CONTEXT_BYTES",
    "Conditions",
    "Confidence",
    "Footprint",
    "Launch",
    "MeasuredSpread",
    "Note",
    "Part",
    "PartName",
    "Source",
    "budget_bytes",
    "default_limits",
    "estimate",
    "in_whole_shares",
    "lowest",
    "share_of",
]
