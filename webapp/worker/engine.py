"""The interface between the worker's program and the libraries that run a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from webapp.runtimes.protocol import LoadSpec

Progress = Callable[[int, int], None]
"""Called with the number of loaded tensors and their total."""
Emit = Callable[[str], None]
"""Takes a piece of the answer; may raise to end the generation."""
Message = Mapping[str, str]
"""One message of a chat: ``role`` and ``content``."""


class LoadFailed(Exception):
    """The load cannot succeed; the text says why."""


class PromptRefused(ValueError):
    """The model's chat template rejects these messages; the text is the template's own."""


class FinishReason(StrEnum):
    """Why an answer ended, in OpenAI's words."""

    STOP = "stop"
    """The model ended it, or a stop string was found."""
    LENGTH = "length"
    """The maximum number of tokens was reached."""
    CANCELLED = "cancelled"
    """The client has disconnected, or the worker is stopping."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen; ``None`` is the model's own default."""

    max_new_tokens: int
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None


@dataclass(frozen=True)
class Completion:
    """How a generation ended."""

    reason: FinishReason
    tokens: int


@dataclass(frozen=True)
class DeviceMemory:
    """torch's own figures on its devices, in bytes."""

    allocated_bytes: int
    reserved_bytes: int


class LoadedModel(Protocol):
    """A model that answers. ``generate`` may be called from several threads."""

    has_chat_template: bool
    context_length: int | None
    """The context length in tokens that the model was built for."""

    def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        """Return a chat as tokens by the model's own template. Raises PromptRefused."""

    def encode_text(self, prompt: str) -> list[int]:
        """Return a text as tokens."""

    def generate(
        self, prompt: Sequence[int], sampling: Sampling, emit: Emit, is_cancelled: Callable[[], bool]
    ) -> Completion:
        """Continue ``prompt``; ``is_cancelled`` is called for every token."""


class InferenceEngine(Protocol):
    """The libraries: imported once, then at most one model loaded."""

    def import_libraries(self) -> None:
        """Import the libraries that every load needs; touches no device."""

    def prepare(self, spec: LoadSpec) -> None:
        """Choose the device and import the additional libraries of this load. Raises LoadFailed."""

    def load(self, spec: LoadSpec, progress: Progress) -> LoadedModel:
        """Load the model. Raises LoadFailed, and whatever the libraries raise."""

    def memory(self) -> DeviceMemory | None:
        """Return the device's memory; ``None`` on the host, or before a device was touched."""

    def clean(self) -> None:
        """Free memory that is not needed."""
