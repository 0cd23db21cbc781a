"""The libraries that come with an extra of the package: whether they are installed, found out without importing them."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Final

from webapp.domain.modes import Mode

LIBRARIES: Final = {
    Mode.TRANSFORMERS: ("torch", "transformers", "accelerate", "safetensors", "tokenizers", "numpy"),
    Mode.VLLM: ("docker", "requests"),
}
"""Without them a mode cannot be used. bitsandbytes is not among them: only quantized models need it."""


@cache
def are_installed(mode: Mode) -> bool:
    """Whether the extra of ``mode`` is installed. Asked of the disk once: each plan and each snapshot want to know."""
    return all(find_spec(name) is not None for name in LIBRARIES[mode])
