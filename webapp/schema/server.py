"""What is on the server: devices, loaded models, containers, cached models."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from webapp.schema.base import Answer, MessageDocument, Mode, Precision, Size, Time
from webapp.schema.operations import OperationDocument
from webapp.schema.requests import OptionsDocument


class HolderDocument(Answer):
    """A process that holds memory of a device."""

    pid: int
    user: str | None
    command: str | None
    bytes: Size
    kind: Literal["worker", "launcher", "container", "foreign"]
    instance_id: str | None
    container_id: str | None


class DeviceDocument(Answer):
    """A GPU, or the host's RAM on a server without GPUs (`host`)."""

    id: str
    kind: Literal["gpu", "host"]
    name: str | None
    uuid: str | None
    total_bytes: Size
    reserved_bytes: Size = Field(description="What the driver keeps for itself.")
    used_bytes: Size
    free_bytes: Size
    used_percent: float | None
    level: Literal["good", "low", "critical"] | None
    utilization_percent: float | None
    temperature_c: float | None
    power_w: float | None
    holders: tuple[HolderDocument, ...] | None = Field(description="`null` if the driver does not name them.")
    unattributed_bytes: Size = Field(description="In use, by nobody who is known.")
    claimed_by: str | None = Field(description="The operation that works on the device.")
    problem: MessageDocument | None


class LeaseDocument(Answer):
    """The lease that protects an instance from eviction."""

    until: Time | None
    reason: str | None


class ReleaseDocument(Answer):
    """The last request to release an instance."""

    asker: str
    asked_at: Time
    why: str | None
    answer: Literal["keep", "release"] | None
    answered_at: Time | None
    answered_by: str | None = Field(description="`null` with an answer: the owner did not react in time.")
    word: str | None = Field(description="The owner's message.")


class InstanceDocument(Answer):
    """A loaded model. Sums are over its devices; the figures of each device follow them."""

    id: str
    mode: Mode
    model: str
    revision: str | None
    state: Literal["starting", "loading", "ready", "silent", "stopping", "stuck", "dead"]
    options: OptionsDocument
    devices: tuple[str, ...]
    owner: str
    started_at: Time
    last_used_at: Time | None
    in_flight: int | None = Field(description="Requests that are being answered.")
    predicted_bytes: Size = Field(description="The expected peak while it answers.")
    measured_bytes: Size
    predicted_bytes_by_device: dict[str, int] | None
    resting_bytes_by_device: dict[str, int] | None = Field(description="What it is expected to hold at rest.")
    measured_bytes_by_device: dict[str, int] | None
    progress: float | None = Field(description="Of the load, from 0 to 1.")
    adopted: bool = Field(description="It was loaded already when Warden started.")
    pid: int | None
    problem: MessageDocument | None
    explained_by: str | None = Field(description="The operation that explains the problem.")
    lease: LeaseDocument
    idle_unload_minutes: float | None
    idle_unload_at: Time | None
    release: ReleaseDocument | None


class ContainerDocument(Answer):
    """A container of vLLM's image that this Warden did not start."""

    id: str
    name: str
    image: str
    state: str
    created_at: Time | None
    owner: str | None
    model: str | None
    ports: tuple[str, ...]
    pids: tuple[int, ...]
    of_warden: str | None = Field(description="The other Warden that started it.")


class StatusDocument(Answer):
    """The state of the server at a moment."""

    version: str = Field(description="Warden's.")
    mode: Literal["transformers", "vllm", "mixed"] | None = Field(description="Of the loaded models.")
    devices: tuple[DeviceDocument, ...]
    instances: tuple[InstanceDocument, ...]
    operations: tuple[OperationDocument, ...] = Field(description="Those that run.")
    containers: tuple[ContainerDocument, ...]
    taken_at: Time | None
    age_s: float | None
    stale: bool = Field(description="The reading is too old to rely on.")
    problem: MessageDocument | None = Field(description="Why the devices cannot be read.")
    models_problem: MessageDocument | None = Field(description="Why the cache cannot be read.")
    models_scanned_at: Time | None
    mode_problems: dict[Mode, MessageDocument | None] = Field(description="Why a mode is not available.")
    store_problem: MessageDocument | None = Field(description="Why nothing can be stored.")


class ModelDocument(Answer):
    """A cached model."""

    id: str = Field(description="Its repository.")
    revision: str | None
    size_bytes: Size
    parameters: int | None
    dtype: str | None
    architecture: str | None
    quantization: str | None
    context_length: int | None
    problem: str | None = Field(description="Why it cannot be loaded.")
    problem_code: str | None
    has_chat_template: bool
    is_demo: bool


class AdviceDocument(Answer):
    """Recommended settings; ``options`` can be sent in a launch unchanged."""

    mode: Mode
    usable_mode: Mode = Field(description="The mode to use if the recommended one is not available here.")
    precision: Precision
    max_tokens: int
    batch_size: int
    mark: Literal["ok", "limited", "none"] = Field(description="`none`: nothing of the chosen model fits.")
    reasons: tuple[MessageDocument, ...]
    options: OptionsDocument


class ReplyDocument(Answer):
    """A model's whole answer to a question."""

    answer: str
