"""The KV cache, by kind of layer and by what each engine keeps of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from webapp.domain.footprint.conditions import ASYNC_SCHEDULING, BatchLimits, Conditions
from webapp.domain.footprint.parts import Confidence, Note, Source
from webapp.domain.model import AttentionDoubt, CachedModel, CacheKind, CacheLayers

BLOCK_TOKENS = 16
"""Tokens of one block of vLLM's KV cache on a GPU."""
STATE_VALUE_BYTES = 4
"""States are kept in FP32 (``mamba_ssm_cache_dtype``; the gated delta net's in transformers 5.23)."""
_GUESSED_SHARE = 32768
"""Fraction of the weights per token if nothing is stated: what a 7B model with a KV head for every head takes."""

_OF_DOUBT = {
    AttentionDoubt.UNKNOWN_ARCHITECTURE: (Source.SIZES, Confidence.LOW, Note.UNKNOWN_ARCHITECTURE),
    AttentionDoubt.UNSTATED_SIZES: (Source.GUESS, Confidence.LOW, Note.UNSTATED_SIZES),
    AttentionDoubt.STATE_SIZES: (Source.SIZES, Confidence.MEDIUM, Note.STATE_LAYERS),
    AttentionDoubt.ENCODER: (Source.SIZES, Confidence.MEDIUM, Note.ENCODER),
}


@dataclass(frozen=True)
class CacheRule:
    """What a model keeps of requests, in a form ready for multiplication."""

    layers: tuple[CacheLayers, ...]
    value: int
    """Bytes of a number."""
    guessed_token_bytes: int = 0
    """Used if no layers are known."""
    source: Source = Source.SIZES
    confidence: Confidence = Confidence.HIGH
    notes: tuple[Note, ...] = ()


def cache_rule(model: CachedModel, weights_bytes: int, value: int) -> CacheRule:
    """Return the cache rule of ``model``, and its confidence."""
    facts = model.attention
    if facts is None:
        layers = _plain_layers(model)
        if layers:
            return CacheRule(layers, value)
        doubt: AttentionDoubt | None = AttentionDoubt.UNSTATED_SIZES
    else:
        layers, doubt = facts.layers, facts.doubt
    if doubt is None:
        return CacheRule(layers, value, notes=() if layers else (Note.NO_KV_CACHE,))
    source, confidence, note = _OF_DOUBT[doubt]
    guessed = 0 if layers else max(weights_bytes // _GUESSED_SHARE, 1)
    return CacheRule(layers, value, guessed, source, confidence, (note,))


def _plain_layers(model: CachedModel) -> tuple[CacheLayers, ...]:
    shape = model.shape
    if shape is None or not (shape.layers and shape.kv_heads and shape.head_dim):
        return ()
    return (CacheLayers(CacheKind.FULL, shape.layers, shape.kv_heads, 2 * shape.head_dim),)


def token_bytes(rule: CacheRule) -> int:
    """Return the bytes of one more token while it is inside every window: 131072 for Llama-3.1-8B in 16 bits,
    73728 for gpt-oss-120b.
    """
    growing = (each for each in rule.layers if each.kind is not CacheKind.STATE)
    return sum(each.count * each.heads * each.values for each in growing) * rule.value + rule.guessed_token_bytes


def in_transformers(rule: CacheRule, tokens: int, requests: int, *, prefill: bool = False) -> int:
    """Return the KV cache in transformers (``DynamicCache``): windows and chunks hold their last tokens.

    In a ``prefill`` every layer holds the whole prompt: what a window keeps is a view of it, which only the next token
    replaces.
    """

    def held(layers: CacheLayers) -> int:
        return tokens if prefill or layers.window is None else min(tokens, layers.window)

    return requests * (_sum(rule, held) + tokens * rule.guessed_token_bytes)


def in_vllm(rule: CacheRule, tokens: int, requests: int, limits: BatchLimits, devices: int, *, block: int) -> int:
    """Return the KV cache of ``requests`` of ``tokens`` in vLLM on each of ``devices``, in whole blocks.

    As ``max_memory_usage_bytes`` of its specs (0.32): a window holds ``window - 1`` tokens and those in flight, in one
    block more; a chunk holds its own and those in flight. Layers of different kinds form groups of one size. Heads are
    divided over the devices as far as possible.
    """
    group = _group_size(rule.layers)

    def held(layers: CacheLayers) -> int:
        if layers.window is None:
            return _blocks(tokens, block)
        if layers.kind is CacheKind.CHUNK:
            return _blocks(min(layers.window + limits.tokens, tokens), block)
        return _blocks(min(layers.window - 1 + limits.tokens, tokens), block) + block

    return requests * (_sum(rule, held, devices, group) + _blocks(tokens, block) * rule.guessed_token_bytes)


def second_batch_bytes(rule: CacheRule, tokens: int, limits: BatchLimits, devices: int, conditions: Conditions) -> int:
    """Return the bytes that the windows hold for a second batch in flight, which vLLM counts in its start check."""
    if conditions.is_before(ASYNC_SCHEDULING):
        return 0
    twice = BatchLimits(2 * limits.tokens, limits.requests)
    one, two = (in_vllm(rule, tokens, 1, each, devices, block=1) for each in (limits, twice))
    return two - one


def _sum(rule: CacheRule, held: Callable[[CacheLayers], int], devices: int = 1, group: int = 1) -> int:
    total = 0
    for layers in rule.layers:
        heads = -(-layers.heads // min(devices, layers.heads))
        if layers.kind is CacheKind.STATE:
            total += layers.count * heads * layers.values * STATE_VALUE_BYTES
        else:
            total += -(-layers.count // group) * group * heads * layers.values * rule.value * held(layers)
    return total


def _group_size(layers: Sequence[CacheLayers]) -> int:
    """Return the number of layers that share a table of blocks (``_get_kv_cache_groups_uniform_page_size``): as many as
    the rarest kind has.
    """
    counts = [each.count for each in layers if each.kind is not CacheKind.STATE]
    if len(counts) < 2 or any(each.kind is CacheKind.STATE for each in layers):
        return 1
    fewest, most = min(counts), max(counts)
    return most if most < 1.5 * fewest else fewest


def _blocks(tokens: int, block: int) -> int:
    return -(-tokens // block) * block
