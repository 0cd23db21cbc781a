"""The two modes of running a model, and the options of a launch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from webapp.message import Message


class Mode(StrEnum):
    """How a model is run."""

    TRANSFORMERS = "transformers"
    """A Hugging Face model in a Python process of its own."""
    VLLM = "vllm"
    """A container of the vLLM image."""


NOT_INSTALLED: Final[Mapping[Mode, Message]] = {
    Mode.TRANSFORMERS: Message("transformers_not_installed", {"command": "pip install 'warden[transformers]'"}),
    Mode.VLLM: Message("vllm_not_installed", {"command": "pip install 'warden[vllm]'"}),
}
"""Why a mode cannot be chosen if the package's extra with its libraries is not installed."""


class Dtype(StrEnum):
    """The type that the weights are loaded in."""

    AUTO = "auto"
    """The type of the files; FP32 becomes FP16 on a GPU."""
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"


class Quantization(StrEnum):
    """How bitsandbytes quantizes the linear layers while loading."""

    NONE = "none"
    INT8 = "int8"
    """LLM.int8: one byte a weight."""
    INT4 = "int4"
    """NF4: 0.5625 byte a weight."""


class Precision(StrEnum):
    """The page's single choice for dtype and quantization together."""

    AUTO = "auto"
    FP16 = "fp16"
    BF16 = "bf16"
    FP32 = "fp32"
    INT8 = "int8"
    INT4 = "int4"

    @property
    def dtype(self) -> Dtype:
        """The dtype of the layers that stay unquantized."""
        return _PRECISION_DTYPE[self]

    @property
    def quantization(self) -> Quantization:
        """The quantization of the linear layers."""
        if self in (Precision.INT8, Precision.INT4):
            return Quantization(self.value)
        return Quantization.NONE

    @classmethod
    def of(cls, dtype: Dtype, quantization: Quantization) -> Precision:
        """Return the page's choice for a dtype and a quantization."""
        if quantization is not Quantization.NONE:
            return cls(quantization.value)
        return next(p for p in cls if p.quantization is Quantization.NONE and p.dtype is dtype)


_PRECISION_DTYPE = {
    Precision.AUTO: Dtype.AUTO,
    Precision.FP16: Dtype.FLOAT16,
    Precision.BF16: Dtype.BFLOAT16,
    Precision.FP32: Dtype.FLOAT32,
    # bitsandbytes computes INT8 in float16; given bfloat16 it warns once a layer a forward.
    Precision.INT8: Dtype.FLOAT16,
    Precision.INT4: Dtype.FLOAT16,
}

MAX_TOKENS_LIMIT = 4_194_304
BATCH_SIZE_LIMIT = 1024


@dataclass(frozen=True)
class LaunchOptions:
    """How a model is to be run, whatever the mode.

    ``max_tokens`` is the context length in tokens, prompt and output together; ``batch_size`` is the number of
    concurrent requests.
    """

    dtype: Dtype = Dtype.AUTO
    quantization: Quantization = Quantization.NONE
    max_tokens: int = 2048
    batch_size: int = 1

    @property
    def precision(self) -> Precision:
        """The page's single choice for the dtype and quantization of these options."""
        return Precision.of(self.dtype, self.quantization)
