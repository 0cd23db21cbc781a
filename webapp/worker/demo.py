"""Create the demo model: tiny, with random weights, a real tokenizer and a chat template, laid out as a Hugging Face
cache.

``python -m webapp.worker.demo --cache DIR`` prints one line of JSON: ``id``, ``revision``, ``snapshot`` and ``created``
(false if it existed already), or ``error`` with exit code 1. torch is not imported, so it takes about a second.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

DEMO_ID = "warden/demo-tiny-random"
MARKER = "warden-demo.json"
CONTEXT_LENGTH = 2048
VOCABULARY = 960
"""The text yields about a thousand tokens; a multiple of 64 suits every kernel."""

BEGIN, END, PAD = "<|begin|>", "<|end|>", "<|pad|>"
SPECIAL_TOKENS = (BEGIN, END, PAD, "<|system|>", "<|user|>", "<|assistant|>")

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + eos_token }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

TEXT = """
The memory of a graphics card is shared by everybody who works on the server. A model needs memory for its weights, for the
keys and values of every token that it has read, and for the work of the next step. When the model is unloaded, the memory must
come back, and a good program shows that it has come back.
Ask a short question and you will get a long answer. The answer makes no sense, because the weights of this model were drawn at
random and nobody has ever trained it. It is here to show how a model is loaded, how it answers word by word, and how it leaves.
Good morning! How are you today? What is the weather like? Tell me a story about a small cat and a large house near the sea.
One, two, three, four, five, six, seven, eight, nine, ten. Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday.
red green blue white black light dark open close start stop load wait ready free used total yes no here there now then never
Память видеокарты делят все, кто работает на сервере. Модели нужна память для весов, для ключей и значений каждого прочитанного
слова и для работы на следующем шаге. Когда модель выгружена, память должна вернуться, и хорошая программа показывает, что она
вернулась.
Задайте короткий вопрос, и вы получите длинный ответ. В ответе нет смысла: веса этой модели выбраны случайно, и никто никогда
её не обучал. Она нужна, чтобы показать, как модель загружается, как отвечает слово за словом и как уходит.
Доброе утро! Как ваши дела сегодня? Какая сейчас погода? Расскажи мне сказку о маленькой кошке и большом доме у моря.
Один, два, три, четыре, пять, шесть, семь, восемь, девять, десять. Понедельник, вторник, среда, четверг, пятница, суббота.
красный зелёный синий белый чёрный свет тьма открыть закрыть начать ждать готово свободно занято всего да нет здесь там теперь
"""

Array = NDArray[np.float32]
Content = bytes | Path
"""A file's content, or a file that is moved into the cache."""

_HOUR_S = 3600.0
_STAGE_PREFIX = ".warden-stage-"


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama-shaped model."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int

    @property
    def head_dim(self) -> int:
        """Size of a head."""
        return self.hidden // self.heads


@dataclass(frozen=True)
class Made:
    """The result, as the program prints it."""

    id: str
    revision: str
    snapshot: str
    created: bool


def make_demo(cache_dir: Path, seed: int = 0) -> Made:
    """Create the demo model in ``cache_dir``, all at once or not at all; does nothing if it exists already.

    Raises:
        OSError: the cache cannot be written.
    """
    tokenizer = train_tokenizer(VOCABULARY)
    shape = Shape(
        layers=2,
        hidden=256,
        intermediate=512,
        heads=4,
        kv_heads=2,
        vocabulary=tokenizer.get_vocab_size(with_added_tokens=True),
    )
    weights = {name: value.astype(np.float16) for name, value in _demo_weights(shape, tokenizer, seed).items()}
    files: dict[str, Content] = {
        "config.json": as_json(llama_config(shape, "float16", CONTEXT_LENGTH)),
        "model.safetensors": save(weights, {"format": "pt"}),
        MARKER: as_json({"note": "Made by Warden to try things out. Random weights: the answers make no sense."}),
        **tokenizer_files(tokenizer, CONTEXT_LENGTH, chat_template=True),
    }
    snapshot, created = write_repository(cache_dir, DEMO_ID, files)
    return Made(DEMO_ID, snapshot.name, str(snapshot), created)


# The tokenizer


def train_tokenizer(vocabulary: int) -> Tokenizer:
    """Return a byte-level BPE tokenizer of at most ``vocabulary`` tokens, trained on the text above; it can encode any text."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT.splitlines(), trainer)
    return tokenizer


def tokenizer_files(tokenizer: Tokenizer, context_length: int, *, chat_template: bool) -> dict[str, Content]:
    """Return the files of a tokenizer as transformers reads them, and the settings for generation."""
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BEGIN,
        "eos_token": END,
        "pad_token": PAD,
        "model_max_length": context_length,
        "clean_up_tokenization_spaces": False,
        **({"chat_template": CHAT_TEMPLATE} if chat_template else {}),
    }
    return {
        "tokenizer.json": tokenizer.to_str(pretty=False).encode(),
        "tokenizer_config.json": as_json(config),
        "generation_config.json": as_json({**token_ids(), "do_sample": True, "temperature": 0.7}),
    }


def token_ids() -> dict[str, int]:
    """Return the ids of the special tokens under the names that config.json uses."""
    return {
        f"{name}_token_id": SPECIAL_TOKENS.index(token) for name, token in (("bos", BEGIN), ("eos", END), ("pad", PAD))
    }


# The model


def llama_config(shape: Shape, dtype: str, context_length: int, *, tied: bool = False) -> dict[str, object]:
    """Return config.json of a Llama."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": dtype,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": context_length,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "rope_theta": 10000.0,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": tied,
        "use_cache": True,
        **token_ids(),
    }


def llama_shapes(shape: Shape, *, tied: bool = False) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of a Llama's tensors."""
    hidden, kv = shape.hidden, shape.kv_heads * shape.head_dim
    layer = {
        "self_attn.q_proj": (shape.heads * shape.head_dim, hidden),
        "self_attn.k_proj": (kv, hidden),
        "self_attn.v_proj": (kv, hidden),
        "self_attn.o_proj": (hidden, shape.heads * shape.head_dim),
        "mlp.gate_proj": (shape.intermediate, hidden),
        "mlp.up_proj": (shape.intermediate, hidden),
        "mlp.down_proj": (hidden, shape.intermediate),
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
    }
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (shape.vocabulary, hidden)}
    for index in range(shape.layers):
        shapes |= {f"model.layers.{index}.{name}.weight": size for name, size in layer.items()}
    shapes["model.norm.weight"] = (hidden,)
    if not tied:
        shapes["lm_head.weight"] = (shape.vocabulary, hidden)
    return shapes


def random_weights(shapes: Mapping[str, tuple[int, ...]], seed: int, scale: float = 0.02) -> dict[str, Array]:
    """Return normally distributed weights; vectors, which are the norms, are ones."""
    random = np.random.default_rng(seed)

    def draw(size: tuple[int, ...]) -> Array:
        return random.standard_normal(size, dtype=np.float32) * np.float32(scale)

    return {name: draw(size) if len(size) > 1 else np.ones(size, np.float32) for name, size in shapes.items()}


def _demo_weights(shape: Shape, tokenizer: Tokenizer, seed: int) -> dict[str, Array]:
    """Return random weights that produce whole letters.

    Tokens are bytes, and random ones would mostly be halves of letters. So the first feature is the same for every
    token, no layer writes to it, and the output head uses it to make halves of letters and special tokens all but
    impossible.
    """
    weights = random_weights(llama_shapes(shape), seed, scale=0.05)
    weights["model.embed_tokens.weight"] *= 20
    weights["model.embed_tokens.weight"][:, 0] = 4
    for name, value in weights.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            value[0] = 0
    head = weights["lm_head.weight"]
    head *= 2
    head[:, 0] = 0
    head[_unspeakable(tokenizer), 0] = -8
    return weights


def _unspeakable(tokenizer: Tokenizer) -> list[int]:
    def is_unspeakable(token: int) -> bool:
        text = tokenizer.decode([token], skip_special_tokens=False)
        return not text.isprintable() or "\ufffd" in text or text in SPECIAL_TOKENS

    end = SPECIAL_TOKENS.index(END)
    return [token for token in range(tokenizer.get_vocab_size()) if token != end and is_unspeakable(token)]


# The cache


def write_repository(cache_dir: Path, repo_id: str, files: Mapping[str, Content]) -> tuple[Path, bool]:
    """Put a repository of ``files`` into the cache; return its snapshot, and whether it had to be written.

    It is written in a temporary folder and moved into place, so nobody sees a part of it. A different repository of the
    same name is replaced.

    Raises:
        OSError: the cache cannot be written.
    """
    cache_dir.mkdir(parents=True, exist_ok=True)
    _remove_old_stages(cache_dir)
    place = cache_dir / ("models--" + repo_id.replace("/", "--"))
    stage = cache_dir / f"{_STAGE_PREFIX}{uuid.uuid4().hex}"
    try:
        fresh = stage / "new"
        revision, links = _fill(fresh, files)
        snapshot = place / "snapshots" / revision
        if _stands(place, revision, links):
            return snapshot, False
        _move_in(fresh, place, stage / "old")
        return snapshot, True
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _fill(repository: Path, files: Mapping[str, Content]) -> tuple[str, dict[str, str]]:
    blobs = repository / "blobs"
    blobs.mkdir(parents=True)
    links = {name: _store(blobs, content) for name, content in files.items()}
    revision = hashlib.sha1(json.dumps(sorted(links.items())).encode(), usedforsecurity=False).hexdigest()
    snapshot = repository / "snapshots" / revision
    snapshot.mkdir(parents=True)
    for name, blob in links.items():
        (snapshot / name).symlink_to(Path("..", "..", "blobs", blob))
    refs = repository / "refs"
    refs.mkdir()
    (refs / "main").write_text(revision)
    return revision, links


def _store(blobs: Path, content: Content) -> str:
    """Store one file under the name that the hub would give it: git's SHA-1 for text, SHA-256 for files stored outside
    git.
    """
    if isinstance(content, Path):
        with content.open("rb") as file:
            name = hashlib.file_digest(file, "sha256").hexdigest()
        content.replace(blobs / name)
        return name
    if b"\0" in content[:8192]:
        name = hashlib.sha256(content).hexdigest()
    else:
        name = hashlib.sha1(b"blob %d\0%b" % (len(content), content), usedforsecurity=False).hexdigest()
    (blobs / name).write_bytes(content)
    return name


def _stands(place: Path, revision: str, links: Mapping[str, str]) -> bool:
    try:
        if (place / "refs" / "main").read_text() != revision:
            return False
        snapshot = place / "snapshots" / revision
        return all((snapshot / name).resolve(strict=True).name == blob for name, blob in links.items())
    except OSError:
        return False


def _move_in(fresh: Path, place: Path, old: Path) -> None:
    if place.is_symlink() or place.exists():
        place.rename(old)
    fresh.rename(place)


def _remove_old_stages(cache_dir: Path) -> None:
    """Remove the remains of runs that were killed; a recent one may belong to a process that is still running."""
    for stage in cache_dir.glob(f"{_STAGE_PREFIX}*"):
        if stage.lstat().st_mtime < time.time() - _HOUR_S:
            shutil.rmtree(stage, ignore_errors=True)


def as_json(value: Mapping[str, object]) -> bytes:
    """Return a value as the bytes of a JSON file."""
    return json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n"


def main(arguments: Sequence[str] | None = None, write: Callable[[str], object] = sys.stdout.write) -> int:
    """Run the program and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m webapp.worker.demo", description="Make Warden's demo model.")
    parser.add_argument(
        "--cache", type=Path, required=True, help="the Hugging Face cache, the folder that holds models--…"
    )
    try:
        made = make_demo(parser.parse_args(arguments).cache.absolute())
    except OSError as exc:
        write(json.dumps({"error": f"{exc.strerror or exc}: {os.fspath(exc.filename or '')}".rstrip(": ")}) + "\n")
        return 1
    write(json.dumps(asdict(made)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
