"""A model in the Hugging Face cache, with the facts that its own files state."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from webapp.message import Message


class ModelProblem(StrEnum):
    """Why a cached model cannot be loaded."""

    INCOMPLETE = "model_incomplete"
    """A shard or another needed file is missing or a download was cut off. Params: missing."""
    NO_WEIGHTS = "model_no_weights"
    """The snapshot has no weights at all."""
    NO_CONFIG = "model_no_config"
    """config.json is missing."""
    BROKEN_CONFIG = "model_broken_config"
    """config.json cannot be read. Params: detail."""
    BROKEN_WEIGHTS = "model_broken_weights"
    """A safetensors file's header or length is wrong. Params: file, detail."""
    PICKLE_ONLY = "model_pickle_only"
    """Only pickle weights, which can run code; a setting allows them."""
    REMOTE_CODE = "model_remote_code"
    """Needs code from the model's repository; a setting allows it."""
    NOT_A_LANGUAGE_MODEL = "model_not_causal"
    """Not a model that generates text. Params: architecture."""
    NO_TOKENIZER = "model_no_tokenizer"
    """The snapshot has no tokenizer."""
    UNREADABLE = "model_unreadable"
    """The files cannot be read by this user. Params: detail."""


@dataclass(frozen=True)
class ModelShape:
    """The architecture's sizes that a footprint needs, from config.json; ``None`` is not stated."""

    layers: int | None
    hidden: int | None
    intermediate: int | None
    heads: int | None
    kv_heads: int | None
    head_dim: int | None
    vocabulary: int | None


@dataclass(frozen=True)
class WeightFacts:
    """The weights as the safetensors headers state them; each tensor counts once, tied copies included only once.

    ``linear_elements`` are those of 2-D weights that bitsandbytes would convert (not embeddings, not the output head);
    ``linear_rows`` is the sum of their output sizes.
    """

    bytes: int
    elements: int
    linear_elements: int
    linear_rows: int
    dtypes: tuple[tuple[str, int], ...]
    """(safetensors dtype, elements), most elements first."""


@dataclass(frozen=True)
class CachedModel:
    """One model of the cache. ``problem`` is ``None`` when it can be loaded."""

    id: str
    """Repository id, ``owner/name``."""
    revision: str
    """Commit hash of the snapshot."""
    snapshot: Path
    size_bytes: int
    """Bytes on disk of the snapshot's files, each blob once."""
    parameters: int | None
    dtype: str | None
    """``float16``, ``bfloat16``, ``float32``… of most weights."""
    architecture: str | None
    """First entry of ``architectures`` in config.json."""
    quantization: str | None
    """Method stored in the files: ``gptq``, ``awq``, ``fp8``, ``bitsandbytes``…"""
    context_length: int | None
    """Tokens, from config.json."""
    has_chat_template: bool
    shape: ModelShape | None
    weights: WeightFacts | None
    modified_at: float
    """Seconds since the epoch of the newest change."""
    problem: Message | None
    """Why it cannot be loaded; the code is a ``ModelProblem``."""
    is_demo: bool = False
    """Made by Warden: tiny, random weights."""
