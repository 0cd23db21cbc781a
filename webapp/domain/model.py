"""A model in the Hugging Face cache, with the facts that its files state."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from webapp.message import Message


class ModelProblem(StrEnum):
    """Why a cached model cannot be loaded."""

    INCOMPLETE = "model_incomplete"
    """A shard or another required file is missing, or a download was interrupted. Params: missing."""
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
    MISREAD = "model_misread"
    """Warden failed to read the files because of a defect of its own, which this model triggers. Params: model, detail.
    """


@dataclass(frozen=True)
class ExpertFacts:
    """A mixture of experts, from config.json."""

    experts: int
    """Experts in one layer."""
    active: int
    """Experts that process each token."""
    intermediate: int
    """Width of one expert."""
    shared_intermediate: int = 0
    """Width of the additional expert that processes every token; 0 if there is none."""
    has_dense_layers: bool = False
    """Whether some layers have one dense MLP instead, as wide as ``ModelShape.intermediate``."""


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
    experts: ExpertFacts | None = None


class CacheKind(StrEnum):
    """What a layer keeps of a request while the request is answered."""

    FULL = "full"
    """Key and value of every token, for each KV head (MHA, GQA, MQA)."""
    LATENT = "latent"
    """One compressed vector a token for all heads (MLA); it is not divided by tensor parallel."""
    WINDOW = "window"
    """As ``FULL``, for the last tokens only (sliding window)."""
    CHUNK = "chunk"
    """As ``FULL``, for the tokens of one chunk only."""
    STATE = "state"
    """A constant size per request, however long the request is (Mamba, linear attention, short convolutions)."""


@dataclass(frozen=True)
class CacheLayers:
    """Layers that keep the same data of a request."""

    kind: CacheKind
    count: int
    """Number of layers."""
    heads: int
    """Heads that tensor parallel can divide; 1 for ``LATENT``."""
    values: int
    """Numbers that one head keeps per token, key and value together; per request for ``STATE``."""
    window: int | None = None
    """Length in tokens, for ``WINDOW`` and ``CHUNK``."""


class AttentionDoubt(StrEnum):
    """Why the facts about the cache are not reliable."""

    UNKNOWN_ARCHITECTURE = "unknown_architecture"
    """The model type is unknown; the model was read as if its attention were the usual one."""
    UNSTATED_SIZES = "unstated_sizes"
    """config.json does not state the sizes that the cache follows from."""
    STATE_SIZES = "state_sizes"
    """Some layers keep a state, whose size follows from the usual rule."""
    ENCODER = "encoder"
    """An encoder in addition to the decoder; its keys and values are counted as if the input were as long as the
    context.
    """


@dataclass(frozen=True)
class AttentionFacts:
    """What a model keeps of a request, by kind of layer, from config.json."""

    layers: tuple[CacheLayers, ...]
    doubt: AttentionDoubt | None = None
    expanded_values: int = 0
    """Numbers per token that the attention of one layer works with if it expands what it keeps (MLA)."""
    is_eager: bool = False
    """Whether transformers supports only the attention that holds the scores of all pairs of tokens."""
    heads: int = 0
    """Query heads; 0 is not stated."""
    repeated_values: int = 0
    """Numbers per token of keys and values in one layer, after they are repeated for every query head."""
    rotary_width: int = 0
    """Numbers per position of the table of rotary angles that vLLM keeps; 0 if there is none."""


class WeightsSource(StrEnum):
    """The source of the facts about the weights, best first."""

    HEADERS = "headers"
    """The headers of the safetensors files: every tensor."""
    INDEX = "index"
    """The total that the index of the shards states."""
    SIZES = "sizes"
    """The sizes in config.json, converted to tensors by the architecture's rules."""
    FILES = "files"
    """The bytes of the files on disk."""


@dataclass(frozen=True)
class WeightFacts:
    """The weights as the safetensors headers state them; each tensor counts once, and so do tied copies.

    ``linear_elements`` are those of 2-D weights that bitsandbytes would convert (not embeddings, not the output head);
    ``linear_rows`` is the sum of their output sizes.
    """

    bytes: int
    elements: int
    linear_elements: int
    linear_rows: int
    dtypes: tuple[tuple[str, int], ...]
    """(safetensors dtype, elements), most elements first."""
    largest_linear: int = 0
    """Weights in the largest linear layer, unpacked if the files are quantized."""
    largest_bytes: int = 0
    """Bytes of the largest tensor in the files."""
    expert_elements: int = 0
    """Elements of the experts' weights, fused or not, that are not quantized in the files."""
    key_value_bytes: int = 0
    """Bytes in the files of the projections to keys and values: tensor parallel divides them by at most the number of
    KV heads.
    """
    replicated_bytes: int = 0
    """Bytes in the files of the tensors that every device of a tensor parallel group holds whole: norms, routers, MLA's
    down projections.
    """
    twice_bytes: int = 0
    """Bytes in the files in addition to ``bytes``: tied weights that were saved twice. transformers loads them to
    compare them.
    """
    embedding_elements: int = 0
    """Elements of the input embeddings, before the layers; 0 is unknown."""
    head_elements: int = 0
    """Elements of an output head that is not tied to the embeddings, after the layers."""
    source: WeightsSource = WeightsSource.HEADERS


@dataclass(frozen=True)
class CachedModel:
    """One model in the cache. ``problem`` is ``None`` if it can be loaded."""

    id: str
    """Repository id, ``owner/name``."""
    revision: str
    """Commit hash of the snapshot."""
    snapshot: Path
    size_bytes: int
    """Bytes on disk of the snapshot's files, each blob counted once."""
    parameters: int | None
    dtype: str | None
    """The type of most weights: ``float16``, ``bfloat16``, ``float32``…"""
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
    """Time of the newest change, in seconds since the epoch."""
    problem: Message | None
    """Why it cannot be loaded; the code is a ``ModelProblem``."""
    is_demo: bool = False
    """Whether Warden created it: tiny, with random weights."""
    attention: AttentionFacts | None = None
    stated_dtype: str | None = None
    """The type that config.json asks for; most weights may be stored in another."""
    has_vision: bool = False
    """Whether it accepts images or sound in addition to text."""
    revisions: frozenset[str] = frozenset()
    """The other snapshots in the cache, to which ``refs/main`` does not point."""
