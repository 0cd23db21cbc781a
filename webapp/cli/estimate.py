"""``warden estimate``: reads the request, finds the model, and formats the answer as text and JSON."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from webapp.catalog.entry import PREFIX
from webapp.catalog.files import BadFile
from webapp.catalog.folder import describe_folder, find_folder
from webapp.domain.footprint import (
    Conditions,
    Footprint,
    Note,
    PartName,
    default_limits,
    estimate,
    lowest,
)
from webapp.domain.footprint.conditions import Version
from webapp.domain.memory import DeviceKind
from webapp.domain.model import CachedModel
from webapp.domain.modes import Dtype, LaunchOptions, Mode, Quantization
from webapp.domain.units import gib
from webapp.settings import load_settings

_DTYPES = {
    "half": Dtype.FLOAT16,
    "fp16": Dtype.FLOAT16,
    "bf16": Dtype.BFLOAT16,
    "float": Dtype.FLOAT32,
    "fp32": Dtype.FLOAT32,
}
_QUANTIZATIONS = {"8bit": Quantization.INT8, "nf4": Quantization.INT4, "4bit": Quantization.INT4}
_FP8 = "fp8"
Member = TypeVar("Member", Dtype, Quantization)
_MOST_DEVICE_GIB = 100_000
_VERSION = re.compile(r"v?(\d{1,6}(?:\.\d{1,6}){1,3})(?:[^\d.].*)?")

NOTES: Mapping[Note, str] = {
    Note.UNKNOWN_ARCHITECTURE: "The architecture is not known here; it was read as if it attended in the usual way.",
    Note.UNSTATED_SIZES: "config.json does not state the sizes that the KV cache and the activations follow from; they are guessed "
    "from the weights.",
    Note.STATE_LAYERS: "Some layers keep a constant state for each request; its size follows from the usual rule.",
    Note.ENCODER: "There is an encoder beside the decoder; its keys and values are counted for an input as long as the context.",
    Note.NO_KV_CACHE: "An encoder: it keeps no KV cache.",
    Note.WEIGHTS_FROM_INDEX: "No safetensors header was found; the weights are the total that the index states.",
    Note.WEIGHTS_FROM_SIZES: "No safetensors header was found; the weights follow from the sizes in config.json.",
    Note.WEIGHTS_FROM_FILES: "The weights are not safetensors; their bytes on disk were taken.",
    Note.DEQUANTIZED: "transformers unpacks these quantized files to 16 bits while loading.",
    Note.EXPERTS_NOT_QUANTIZED: "bitsandbytes passes over fused experts, so this model shrinks little.",
    Note.EXPERTS: "A mixture of experts: how evenly tokens spread over them is not known beforehand.",
    Note.EAGER_ATTENTION: "transformers holds the scores of all pairs of tokens for this model: memory grows with the square of the "
    "prompt.",
    Note.MASKED_WINDOW: "The prompt is longer than the attention window: transformers makes a mask of all pairs of its tokens.",
    Note.VISION: "Images or sound take more than text does.",
    Note.DEVICE_MEMORY_UNKNOWN: "The GPU's memory was not given: vLLM's limits on a smaller card were taken (--device-memory GIB).",
}


class CannotEstimate(Exception):
    """No estimate is possible; ``str()`` is a sentence with the reason and what to do."""


@dataclass(frozen=True)
class EstimateRequest:
    """The command's arguments as given."""

    model_or_folder: str
    mode: str = Mode.TRANSFORMERS.value
    max_tokens: int = 2048
    batch: int = 1
    prompt_tokens: int | None = None
    dtype: str = "auto"
    quantization: str = "none"
    devices: int = 1
    device_memory: float | None = None
    device_name: str = ""
    cpu: bool = False
    vllm_version: str | None = None
    max_num_seqs: int | None = None
    kv_cache_dtype: str = "auto"
    as_json: bool = False


@dataclass(frozen=True)
class Estimate:
    """The answer: one footprint per device, and the same as JSON."""

    title: str
    footprints: tuple[Footprint, ...]
    document: Mapping[str, Any]


def make(question: EstimateRequest) -> Estimate:
    """Return the estimate for ``question``. Raises CannotEstimate, or WardenError for invalid settings."""
    options, conditions, mode = _options(question), _conditions(question), Mode(question.mode.lower())
    if mode is Mode.VLLM and not question.cpu:
        seqs = max(question.batch, default_limits(conditions).requests)
        conditions = replace(conditions, max_num_seqs=question.max_num_seqs or seqs)
    model = find_model(question.model_or_folder)
    kind, name = (DeviceKind.HOST, "host") if question.cpu else (DeviceKind.GPU, "gpu")
    devices = [(f"{name}-{number}", kind) for number in range(question.devices)]
    footprints = estimate(model, options, devices, mode, conditions)
    notes = [*_notes(footprints[0]), *_remarks(question, model, mode, conditions)]
    return Estimate(f"{model.id}, {mode}", footprints, _document(footprints, notes))


def find_model(name: str) -> CachedModel:
    """Return the model in a folder or in the cache. Raises CannotEstimate."""
    path = Path(name)
    if path.name == "config.json" and path.is_file():
        path = path.parent
    if not path.is_dir():
        path = load_settings().models.hf_cache / (PREFIX + name.replace("/", "--"))
        if not _is_model_id(name) or not path.is_dir():
            raise CannotEstimate(
                f"{name} is neither a folder nor a model in the cache {path.parent}. Give a folder with a config.json, or "
                "download the model and give its name as owner/name."
            )
    try:
        folder = find_folder(path)
        return describe_folder(folder, name)
    except BadFile as exc:
        raise CannotEstimate(
            f"No estimate can be made of {name}: {exc}. The folder needs the model's config.json and its safetensors files, "
            "of which the headers are enough."
        ) from exc
    except OSError as exc:
        raise CannotEstimate(f"{name} cannot be read: {exc}. Run it as a user who may.") from exc


def _is_model_id(name: str) -> bool:
    return re.fullmatch(r"[\w.-]+(?:/[\w.-]+)?", name) is not None and ".." not in name


def _options(question: EstimateRequest) -> LaunchOptions:
    quantization = question.quantization.lower()
    return LaunchOptions(
        dtype=_choice("--dtype", question.dtype, list(Dtype), _DTYPES),
        quantization=Quantization.NONE
        if quantization == _FP8
        else _choice("--quantization", quantization, list(Quantization), _QUANTIZATIONS, _FP8),
        max_tokens=question.max_tokens,
        batch_size=question.batch,
    )


def _choice(option: str, value: str, members: Sequence[Member], others: Mapping[str, Member], *more: str) -> Member:
    word = value.lower().removeprefix("torch.")
    known = {**{member.value: member for member in members}, **others}
    if word in known:
        return known[word]
    names = ", ".join([*(member.value for member in members), *more])
    raise CannotEstimate(f"{option} {value} is not known. Give one of: {names}.")


def _conditions(question: EstimateRequest) -> Conditions:
    memory = question.device_memory
    if memory is not None and not (math.isfinite(memory) and 0 < memory <= _MOST_DEVICE_GIB):
        raise CannotEstimate(f"--device-memory {memory:g} is no GPU's memory. Give GiB, for example 24.")
    prompt = question.prompt_tokens
    if prompt is not None and prompt > question.max_tokens:
        raise CannotEstimate(
            f"--prompt-tokens {prompt} is more than --max-tokens {question.max_tokens}, which counts prompt and output together. Raise "
            "--max-tokens or lower --prompt-tokens."
        )
    return Conditions(
        device_memory_bytes=None if memory is None or question.cpu else gib(memory),
        device_name=question.device_name,
        vllm_version=_version(question.vllm_version),
        prompt_tokens=prompt,
        max_num_seqs=question.max_num_seqs,
        kv_value_bytes=1 if question.kv_cache_dtype == _FP8 else None,
        quantizes_to_fp8=question.quantization.lower() == _FP8,
    )


def _version(text: str | None) -> Version | None:
    if text is None:
        return None
    found = _VERSION.fullmatch(text.strip())
    if found is None:
        raise CannotEstimate(f"--vllm-version {text} is no version. Give it as vLLM does, for example 0.19.0.")
    return tuple(int(number) for number in found[1].split("."))


def _document(footprints: tuple[Footprint, ...], notes: list[str]) -> dict[str, Any]:
    """Return the JSON of ``warden estimate --json``, which is a contract."""
    return {
        "per_device": [
            {
                "parts": {name.value: footprint.part(name) for name in PartName},
                "run_peak_bytes": footprint.total_bytes,
                "load_peak_bytes": footprint.load_peak_bytes,
            }
            for footprint in footprints
        ],
        "total_bytes": sum(footprint.total_bytes for footprint in footprints),
        "confidence": lowest(footprint.confidence for footprint in footprints).value,
        "notes": notes,
    }


def _notes(footprint: Footprint) -> Iterator[str]:
    return (NOTES[note] for note in footprint.notes)


def _remarks(question: EstimateRequest, model: CachedModel, mode: Mode, conditions: Conditions) -> Iterator[str]:
    """Yield remarks that follow from the options rather than from the model."""
    if model.context_length is not None and question.max_tokens > model.context_length:
        yield f"The model was made for {model.context_length} tokens; {question.max_tokens} were asked for."
    quantization = question.quantization.lower()
    if model.quantization is not None and quantization != "none":
        yield f"The files are quantized already ({model.quantization}) and stay as they are."
    elif quantization != "none" and (quantization == _FP8) is not (mode is Mode.VLLM):
        yield f"Warden does not start {mode} with {quantization}."
    if mode is not Mode.VLLM or question.cpu:
        return
    limits = default_limits(conditions)
    yield (
        f"vLLM warms up for {conditions.max_num_seqs} requests and up to {limits.tokens} tokens at once. Warden starts "
        f"it for the batch alone: --max-num-seqs {question.batch} estimates that."
    )
    heads = model.shape.heads if model.shape else None
    if heads and heads % question.devices:
        yield f"vLLM cannot divide {heads} attention heads by {question.devices} devices."
