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
    MISREAD = "model_misread"
    """Warden itself has failed at the files: a defect of the program, which this model shows. Params: model, detail."""


@dataclass(frozen=True)
class ExpertFacts:
    """A mixture of experts, from config.json."""

    experts: int
    """Of one layer."""
    active: int
    """That each token goes through."""
    intermediate: int
    """Width of one expert."""
    shared_intermediate: int = 0
    """Width of the expert that every token goes through beside them; 0 when there is none."""
    has_dense_layers: bool = False
    """Some layers have one dense MLP instead, as wide as ``ModelShape.intermediate``."""


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
    """What a layer keeps of a request while it is answered."""

    FULL = "full"
    """Key and value of every token, for each KV head (MHA, GQA, MQA)."""
    LATENT = "latent"
    """One compressed vector a token for all heads (MLA); it is not divided by tensor parallel."""
    WINDOW = "window"
    """As ``FULL``, of the last tokens only (sliding window)."""
    CHUNK = "chunk"
    """As ``FULL``, of the tokens of one chunk only."""
    STATE = "state"
    """A constant a request, however long it is (Mamba, linear attention, short convolutions)."""


@dataclass(frozen=True)
class CacheLayers:
    """Layers that keep the same of a request."""

    kind: CacheKind
    count: int
    """Layers."""
    heads: int
    """Heads that tensor parallel can divide; 1 for ``LATENT``."""
    values: int
    """Numbers that one head keeps of a token, key and value together; of a request for ``STATE``."""
    window: int | None = None
    """Tokens, for ``WINDOW`` and ``CHUNK``."""


class AttentionDoubt(StrEnum):
    """Why the facts about what a model keeps are not to be relied on."""

    UNKNOWN_ARCHITECTURE = "unknown_architecture"
    """A model type that is not known here; it was read as if it attended in the usual way."""
    UNSTATED_SIZES = "unstated_sizes"
    """config.json does not state the sizes that the cache follows from."""
    STATE_SIZES = "state_sizes"
    """Layers that keep a state, whose size follows from the usual rule for it."""
    ENCODER = "encoder"
    """An encoder beside the decoder; its keys and values are counted as if the input were as long as the context."""


@dataclass(frozen=True)
class AttentionFacts:
    """What a model keeps of a request, by kind of layer, from config.json."""

    layers: tuple[CacheLayers, ...]
    doubt: AttentionDoubt | None = None
    expanded_values: int = 0
    """Numbers a token that the attention of one layer works with where it expands what it keeps (MLA)."""
    is_eager: bool = False
    """transformers has no other attention for it than the one that holds the scores of all pairs of tokens."""
    heads: int = 0
    """Query heads; 0 is not stated."""
    repeated_values: int = 0
    """Numbers a token of keys and values once they are repeated for every query head, in one layer."""
    rotary_width: int = 0
    """Numbers a position of the table of rotary angles that vLLM keeps; 0 when there is none."""


class WeightsSource(StrEnum):
    """Where the facts about the weights come from, best first."""

    HEADERS = "headers"
    """The headers of the safetensors files: every tensor."""
    INDEX = "index"
    """The total that the index of the shards states."""
    SIZES = "sizes"
    """The sizes of config.json, as the architecture makes tensors of them."""
    FILES = "files"
    """The bytes of the files on disk."""


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
    largest_linear: int = 0
    """Weights in the largest linear layer, unpacked where the files are quantized."""
    largest_bytes: int = 0
    """Bytes of the largest tensor in the files."""
    expert_elements: int = 0
    """Elements of the experts' weights, fused or not, that are not quantized in the files."""
    key_value_bytes: int = 0
    """Bytes in the files of the projections to keys and values: tensor parallel divides them by KV heads at the most."""
    replicated_bytes: int = 0
    """Bytes in the files of what every device of a tensor parallel group holds whole: norms, routers, MLA's projections down."""
    twice_bytes: int = 0
    """Bytes in the files beyond ``bytes``: tied weights that were saved twice. transformers loads them to compare them."""
    embedding_elements: int = 0
    """Elements of the input embeddings, before the layers; 0 is not known."""
    head_elements: int = 0
    """Elements of an output head that is not tied to them, behind the layers."""
    source: WeightsSource = WeightsSource.HEADERS


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
    attention: AttentionFacts | None = None
    stated_dtype: str | None = None
    """The type that config.json asks for; most weights may be stored in another."""
    has_vision: bool = False
    """Images or sound go in beside text."""
    revisions: frozenset[str] = frozenset()
    """The other snapshots in the cache, which ``refs/main`` does not name."""
