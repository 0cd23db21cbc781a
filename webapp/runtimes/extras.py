"""Whether the libraries of the package's extras are installed, without importing them."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Final

from webapp.domain.modes import Mode

LIBRARIES: Final = {
    Mode.TRANSFORMERS: ("torch", "transformers", "accelerate", "safetensors", "tokenizers", "numpy"),
    Mode.VLLM: ("docker", "requests"),
}
"""The libraries that a mode cannot be used without; bitsandbytes is left out, as only quantized models need it."""


@cache
def are_installed(mode: Mode) -> bool:
    """Whether the extra of ``mode`` is installed. Looked up once per run: every plan and every snapshot asks."""
    return all(find_spec(name) is not None for name in LIBRARIES[mode])
