"""Operations: their steps, their progress, the memory that they freed, and their outcome."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from webapp.schema.base import Answer, MessageDocument, Mode, Size, Time
from webapp.schema.plans import WayOutDocument
from webapp.schema.requests import LaunchDocument, OptionsDocument

OperationKind = Literal["switch", "unload", "clean", "emergency", "demo", "stop_container", "restore", "selftest"]
OperationState = Literal["running", "succeeded", "warning", "failed", "cancelled", "abandoned"]


class StepDocument(Answer):
    """One step of an operation."""

    name: Literal[
        "plan",
        "grace",
        "unload",
        "settle",
        "clean",
        "check",
        "launch",
        "ready",
        "measure",
        "create",
        "end",
        "checks",
        "rollback",
    ]
    state: Literal["waiting", "running", "done", "warning", "failed", "skipped"]
    started_at: Time | None
    ended_at: Time | None
    progress: float | None = Field(description="From 0 to 1.")
    message: MessageDocument | None


class StillHeldDocument(Answer):
    """A process that still holds memory after an unload."""

    pid: int
    user: str | None
    command: str | None
    bytes: Size
    state: str | None = Field(description="The kernel's letter for the state of the process.")


class ReceiptDocument(Answer):
    """The memory that an operation freed on all devices; a sum is unknown if one of its summands is."""

    expected_bytes: Size
    freed_bytes: Size
    model_freed_bytes: Size = Field(description="Without the interpreter and the libraries.")
    seconds: float
    settled: bool = Field(description="The devices came to rest in time with the expected memory back.")
    still_held_by: tuple[StillHeldDocument, ...]


class DeviceReceiptDocument(Answer):
    """The memory that an unload freed on one device."""

    device_id: str
    instance_id: str | None
    model: str | None
    expected_bytes: Size
    freed_bytes: Size
    model_freed_bytes: Size = Field(description="Without the interpreter and the libraries.")
    others_bytes: Size = Field(description="What everybody else took meanwhile; negative if they gave back.")
    seconds: float
    settled: bool
    still_held_by: tuple[StillHeldDocument, ...]


class FindingDocument(Answer):
    """One line of the result of a clean or an emergency stop."""

    ok: bool
    message: MessageDocument


class CheckDocument(Answer):
    """One check of a self-test."""

    name: Literal[
        "memory",
        "state",
        "advice",
        "vllm",
        "model",
        "switch",
        "answer",
        "replace",
        "refusal",
        "clean",
        "unload",
    ]
    title: str
    mark: Literal["ok", "warning", "failed", "skipped"]
    seen: MessageDocument | None
    seconds: float
    advice: MessageDocument | None


class GraceDocument(Answer):
    """The period before other people's models are unloaded, in which the operation can still be stopped."""

    until: Time
    instances: tuple[str, ...] = Field(description="Other people's models that go.")
    owners: tuple[str, ...] = Field(
        description="Owners who can cancel until then, in addition to those who always can."
    )


class EvictedDocument(Answer):
    """A model that was unloaded and has not been loaded again, as it ran."""

    instance_id: str
    model: str
    revision: str
    mode: Mode
    options: OptionsDocument
    devices: tuple[str, ...]
    owner: str
    lease_until: Time | None


class HeldLineDocument(Answer):
    """A holder's memory when a model ran out of memory; the line without a kind combines all holders that are not
    listed.
    """

    kind: Literal["worker", "launcher", "container", "foreign"] | None
    own: bool = Field(description="It is the model itself.")
    model: str | None
    instance_id: str | None
    container_id: str | None
    pid: int | None
    user: str | None
    command: str | None
    before_bytes: Size
    bytes: Size


class DeviceAccountDocument(Answer):
    """A device at the moment at which a model ran out of memory."""

    id: str
    total_bytes: Size
    predicted_bytes: Size
    held_before_bytes: Size
    held_bytes: Size
    free_before_bytes: Size
    free_bytes: Size
    others_grown_bytes: Size
    holders: tuple[HeldLineDocument, ...]


class PostMortemDocument(Answer):
    """How a model ran out of memory; ``way_out`` is a launch that would have fitted."""

    taken_at: Time
    since: Time
    phase: Literal["starting", "loading", "kv_cache", "answering"]
    cause: Literal["neighbour_grew", "estimate_low", "load_peak", "kv_cache", "process_limit", "unknown"]
    device: str | None
    message: MessageDocument
    devices: tuple[DeviceAccountDocument, ...]
    log: tuple[str, ...]
    way_out: WayOutDocument | None


class OperationDocument(Answer):
    """An operation, running or ended."""

    id: str
    kind: OperationKind
    actor: str
    state: OperationState
    mode: Mode | None
    model: str | None
    instance_id: str | None
    devices: tuple[str, ...]
    evicted: tuple[str, ...] = Field(description="Models that were unloaded to make room.")
    to_restore: tuple[EvictedDocument, ...] = Field(description="Models that were unloaded and have not come back.")
    started_at: Time
    ended_at: Time | None
    steps: tuple[StepDocument, ...]
    receipt: ReceiptDocument | None
    receipts: tuple[DeviceReceiptDocument, ...]
    findings: tuple[FindingDocument, ...]
    error: MessageDocument | None
    outcome: MessageDocument | None = Field(description="How it ended.")
    cancel_requested_by: str | None
    checks: tuple[CheckDocument, ...] = Field(description="Of a self-test; they grow while it runs.")
    request: LaunchDocument | None = Field(description="Of a switch; of an unload what loads the model again.")
    post_mortem: PostMortemDocument | None
    grace: GraceDocument | None


class AcceptedOperationDocument(OperationDocument):
    """An operation that was begun or changed by the request."""

    stored: bool = Field(description="The database has its record; if not, the record follows.")
