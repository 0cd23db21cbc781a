"""Assign the parts of a model to several GPUs by whole layers, as the plan counts them."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from webapp.domain.layers import layer_counts

Place = tuple[str, int]


def by_layers(model: nn.Module, devices: int) -> dict[str, int]:
    """Return the GPU of each part of ``model`` by the part's name; empty if the model has no list of layers.

    The list is the longest one. Parts before it are assigned to the first GPU, parts after it to the last. An output
    head that is tied to the embeddings is assigned to their GPU, since it shares their weights.
    """
    lists = [(name, len(each)) for name, each in model.named_modules() if isinstance(each, nn.ModuleList)]
    if not lists:
        return {}
    layers, count = max(lists, key=lambda each: each[1])
    numbers = [device for device, share in enumerate(layer_counts(count, devices)) for _ in range(share)]
    placed = dict(_places(model, "", layers, numbers, devices))
    _keep_ties(model, placed)
    return placed


def _places(module: nn.Module, prefix: str, layers: str, numbers: list[int], devices: int) -> Iterator[Place]:
    """Yield the GPU of each part of ``module``, which contains the list of layers."""
    behind = False
    yield from ((prefix + name, 0) for name, _ in module.named_parameters(recurse=False))
    yield from ((prefix + name, 0) for name, _ in module.named_buffers(recurse=False))
    for name, child in module.named_children():
        full = prefix + name
        if full == layers:
            yield from ((f"{full}.{n}", device) for n, device in enumerate(numbers))
        elif layers.startswith(full + "."):
            yield from _places(child, full + ".", layers, numbers, devices)
        else:
            yield full, devices - 1 if behind else 0
        behind = behind or full == layers or layers.startswith(full + ".")


def _keep_ties(model: nn.Module, placed: dict[str, int]) -> None:
    ties: dict[str, str] = getattr(model, "all_tied_weights_keys", None) or {}
    for tied, source in ties.items():
        if (part := _part_of(tied, placed)) is not None and (home := _part_of(source, placed)) is not None:
            placed[part] = placed[home]


def _part_of(weight: str, placed: dict[str, int]) -> str | None:
    return next((part for part in placed if weight == part or weight.startswith(part + ".")), None)
