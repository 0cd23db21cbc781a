"""Builders of cached models: tiny ones of several families, a big one for memory checks, and broken ones of all kinds.

They are real: transformers loads them, the tokenizer encodes any text, and the folder is a Hugging Face cache.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from webapp.domain.model import ModelProblem
from webapp.worker.demo import (
    Content,
    Shape,
    as_json,
    llama_config,
    llama_shapes,
    random_weights,
    tokenizer_files,
    train_tokenizer,
    write_repository,
)

BIG_MODEL = "tests/one-gigabyte"
BIG_SHAPE = Shape(layers=3, hidden=4096, intermediate=10240, heads=32, kv_heads=8, vocabulary=512)
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
_MOST_TOKENS = 960


def make_model(
    cache_dir: Path,
    repo_id: str = "tests/tiny-llama",
    *,
    architecture: str = "llama",
    layers: int = 2,
    hidden: int = 64,
    intermediate: int = 128,
    heads: int = 4,
    kv_heads: int = 2,
    vocab: int = 512,
    dtype: str = "float32",
    shards: int = 1,
    tie: bool = False,
    chat_template: bool = True,
    context_length: int = 512,
    seed: int = 0,
) -> Path:
    """Create a model with random weights in the cache and return its snapshot. ``vocab`` is at least 300."""
    shape = Shape(layers, hidden, intermediate, heads, kv_heads, vocab)
    shapes = _tensor_shapes(architecture, shape, tie)
    weights = random_weights(shapes, seed)
    tensors = [TensorData(name, dtype, shapes[name], (_encoded(value, dtype),)) for name, value in weights.items()]
    files: dict[str, Content] = {
        "config.json": as_json(_config(architecture, shape, dtype, context_length, tie)),
        **_weight_files(tensors, shards),
        **tokenizer_files(_tokenizer(min(vocab, _MOST_TOKENS)), context_length, chat_template=chat_template),
    }
    return write_repository(cache_dir, repo_id, files)[0]


def make_big_model(
    cache_dir: Path, repo_id: str = BIG_MODEL, shape: Shape = BIG_SHAPE, context_length: int = 2048
) -> Path:
    """Create a working model of bfloat16 noise, of about 1 GB by default, and return its snapshot."""
    config = llama_config(shape, "bfloat16", context_length)
    tensors = [TensorData(name, "bfloat16", size, _noise(name, size)) for name, size in llama_shapes(shape).items()]
    snapshot = _without_weights(cache_dir, repo_id, config, min(shape.vocabulary, _MOST_TOKENS), context_length)
    with _weights_blob(snapshot, repo_id).open("wb") as file:
        file.writelines(safetensors_file(tensors))
    return snapshot


def make_hollow_model(cache_dir: Path, repo_id: str, shape: Shape, *, number: int = 0) -> Path:
    """Create a model whose weights are a hole in the file, which takes no time and no disk space; return its snapshot.

    It takes as much memory as any other and answers as zero weights do. ``number`` makes configurations differ.
    """
    config = llama_config(shape, "bfloat16", 4096) | {"_number": number}
    snapshot = _without_weights(cache_dir, repo_id, config, _MOST_TOKENS, 4096)
    header, data_bytes = _header(llama_shapes(shape))
    with _weights_blob(snapshot, repo_id).open("wb") as file:
        file.write(header)
        file.truncate(len(header) + data_bytes)
    return snapshot


def _without_weights(
    cache_dir: Path, repo_id: str, config: Mapping[str, object], tokens: int, context_length: int
) -> Path:
    tokenizer = tokenizer_files(_tokenizer(tokens), context_length, chat_template=True)
    return write_repository(cache_dir, repo_id, {"config.json": as_json(config), **tokenizer})[0]


def _weights_blob(snapshot: Path, repo_id: str) -> Path:
    """Return the blob of a snapshot's weights, linked to it; its name is no hash, as reading the weights takes long."""
    blob = snapshot.parents[1] / "blobs" / hashlib.sha256(repo_id.encode()).hexdigest()
    (snapshot / WEIGHTS).symlink_to(Path("..", "..", "blobs", blob.name))
    return blob


def make_listed_models(cache_dir: Path, count: int, shape: Shape | None = None) -> list[str]:
    """Create ``count`` hollow models and return their ids.

    With ``shape`` all have the headers of one architecture; without it the usual sizes are mixed.
    """
    usual = [shape] if shape is not None else [Shape(*sizes) for sizes in _USUAL_SIZES]
    ids = [f"lab-{number % 7}/model-{number:03}" for number in range(count)]
    for number, repo_id in enumerate(ids):
        make_hollow_model(cache_dir, repo_id, usual[number % len(usual)], number=number)
    return ids


_USUAL_SIZES = (
    (24, 896, 4864, 14, 2, 151936),
    (28, 1536, 8960, 12, 2, 151936),
    (28, 3072, 8192, 24, 8, 128256),
    (32, 4096, 14336, 32, 8, 128256),
    (40, 5120, 13824, 40, 8, 32000),
    (80, 8192, 28672, 64, 8, 128256),
)
"""Layers, hidden, intermediate, heads, KV heads and vocabulary of models with 0.5 to 70 billion weights."""


def _header(shapes: Mapping[str, tuple[int, ...]]) -> tuple[bytes, int]:
    """Return the header of a bfloat16 safetensors file, and the length of the data after it."""
    file = safetensors_file(TensorData(name, "bfloat16", size, ()) for name, size in shapes.items())
    return next(file), sum(2 * int(np.prod(size, dtype=np.int64)) for size in shapes.values())


def break_model(snapshot: Path, how: ModelProblem) -> None:
    """Change a model so that it has the problem ``how``."""
    _BREAKS[how](snapshot)


def put_file(snapshot: Path, name: str, content: bytes) -> None:
    """Put a file into a snapshot as a download does: a new blob, then a link that replaces the old one."""
    blob = snapshot.parents[1] / "blobs" / hashlib.sha256(content).hexdigest()
    blob.write_bytes(content)
    link = snapshot / f".{name}.new"
    link.symlink_to(Path("..", "..", "blobs", blob.name))
    link.replace(snapshot / name)


def change_config(snapshot: Path, **changes: object) -> None:
    """Change values in a snapshot's config.json; ``None`` removes a key."""
    config = json.loads((snapshot / "config.json").read_text()) | changes
    put_file(snapshot, "config.json", as_json({key: value for key, value in config.items() if value is not None}))


def remove_model(cache_dir: Path, repo_id: str) -> None:
    """Remove a repository from the cache."""
    shutil.rmtree(cache_dir / ("models--" + repo_id.replace("/", "--")))


# Weights


@dataclass(frozen=True)
class TensorData:
    """A tensor to write; ``dtype`` is float32, float16, bfloat16, or a name of the safetensors format."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: Iterable[bytes]


def safetensors_file(tensors: Iterable[TensorData]) -> Iterator[bytes]:
    """Yield the bytes of a safetensors file (numpy has no bfloat16, so the library's writer does not accept it)."""
    tensors = list(tensors)
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        dtype = _DTYPES.get(tensor.dtype, tensor.dtype)
        start, end = end, end + int(np.prod(tensor.shape, dtype=np.int64)) * _item_bytes(dtype)
        header[tensor.name] = {"dtype": dtype, "shape": tensor.shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for tensor in tensors:
        yield from tensor.data


def _item_bytes(dtype: str) -> int:
    return {"F32": 4, "I32": 4, "F16": 2, "BF16": 2, "U8": 1, "I8": 1, "F8_E4M3": 1}[dtype]


def _weight_files(tensors: list[TensorData], shards: int) -> dict[str, Content]:
    if shards == 1:
        return {WEIGHTS: b"".join(safetensors_file(tensors))}
    files: dict[str, Content] = {}
    weight_map: dict[str, str] = {}
    for index in range(shards):
        name = f"model-{index + 1:05}-of-{shards:05}.safetensors"
        part = tensors[index::shards]
        files[name] = b"".join(safetensors_file(part))
        weight_map |= {tensor.name: name for tensor in part}
    total = sum(len(data) for tensor in tensors for data in tensor.data)
    files[INDEX] = as_json({"metadata": {"total_size": total}, "weight_map": weight_map})
    return files


def _encoded(value: np.ndarray, dtype: str) -> bytes:
    if dtype == "bfloat16":
        return ((value.view(np.uint32) + 0x8000) >> 16).astype(np.uint16).tobytes()
    return value.astype(dtype).tobytes()


def _noise(name: str, size: tuple[int, ...]) -> Iterator[bytes]:
    """Yield random bfloat16 values of a tensor: one repeated block of 1 MB, since drawing a gigabyte takes long."""
    left = int(np.prod(size, dtype=np.int64)) * 2
    if len(size) == 1:
        yield _encoded(np.ones(size, np.float32), "bfloat16")
        return
    block = _noise_block()
    while left > 0:
        yield block[:left]
        left -= len(block)


@cache
def _noise_block() -> bytes:
    values = np.random.default_rng(0).standard_normal(2**19, dtype=np.float32)
    return _encoded(values * np.float32(0.02), "bfloat16")


@cache
def _tokenizer(vocabulary: int) -> Tokenizer:
    return train_tokenizer(vocabulary)


# Families


def _config(architecture: str, shape: Shape, dtype: str, context_length: int, tie: bool) -> Mapping[str, object]:
    config = llama_config(shape, dtype, context_length, tied=tie)
    config |= {"architectures": [_CLASSES[architecture]], "model_type": architecture}
    if architecture == "qwen2":
        # Qwen2 always has these biases and has no setting for them or for the head size.
        del config["attention_bias"], config["mlp_bias"], config["head_dim"]
    return config


def _tensor_shapes(architecture: str, shape: Shape, tie: bool) -> dict[str, tuple[int, ...]]:
    shapes = llama_shapes(shape, tied=tie)
    for name, size in list(shapes.items()):
        if architecture == "qwen2" and name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight")):
            shapes[name.removesuffix("weight") + "bias"] = size[:1]
        if architecture == "qwen3" and name.endswith(("q_proj.weight", "k_proj.weight")):
            shapes[name.replace("_proj", "_norm")] = (shape.head_dim,)
    return shapes


# Breaking


def _weights_of(snapshot: Path) -> list[Path]:
    return sorted(snapshot.glob("*.safetensors"))


def _cut_download(snapshot: Path) -> None:
    link = _weights_of(snapshot)[-1]
    blob = link.resolve()
    link.unlink()
    blob.rename(blob.with_name(blob.name + ".incomplete"))


def _remove_weights(snapshot: Path) -> None:
    for link in [*_weights_of(snapshot), snapshot / INDEX]:
        link.resolve().unlink(missing_ok=True)
        link.unlink(missing_ok=True)


def _truncate_weights(snapshot: Path) -> None:
    blob = _weights_of(snapshot)[-1].resolve()
    with blob.open("r+b") as file:
        file.truncate(blob.stat().st_size - 1)


def _only_pickle(snapshot: Path) -> None:
    _remove_weights(snapshot)
    put_file(snapshot, "pytorch_model.bin", b"PK\x03\x04 not opened by anybody")


def _need_remote_code(snapshot: Path) -> None:
    code = "modeling_secret.SecretForCausalLM"
    put_file(snapshot, "modeling_secret.py", b"raise SystemExit('code of a repository was run')\n")
    change_config(
        snapshot,
        model_type="secret",
        architectures=["SecretForCausalLM"],
        auto_map={"AutoConfig": "modeling_secret.SecretConfig", "AutoModelForCausalLM": code},
    )


def _remove_tokenizer(snapshot: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (snapshot / name).unlink()


def _make_unreadable(snapshot: Path) -> None:
    # Root ignores modes; a link to itself stops everybody.
    config = snapshot / "config.json"
    config.unlink()
    config.symlink_to("config.json")


_BREAKS = {
    ModelProblem.INCOMPLETE: _cut_download,
    ModelProblem.NO_WEIGHTS: _remove_weights,
    ModelProblem.NO_CONFIG: lambda snapshot: (snapshot / "config.json").unlink(),
    ModelProblem.BROKEN_CONFIG: lambda snapshot: put_file(snapshot, "config.json", b'{"architectures": ['),
    ModelProblem.BROKEN_WEIGHTS: _truncate_weights,
    ModelProblem.PICKLE_ONLY: _only_pickle,
    ModelProblem.REMOTE_CODE: _need_remote_code,
    ModelProblem.NOT_A_LANGUAGE_MODEL: lambda snapshot: change_config(
        snapshot, architectures=["BertForMaskedLM"], model_type="bert"
    ),
    ModelProblem.NO_TOKENIZER: _remove_tokenizer,
    ModelProblem.UNREADABLE: _make_unreadable,
}

BREAKABLE = tuple(_BREAKS)
"""Every problem that files can have, which excludes a defect of Warden itself."""
