"""The values that the controller exchanges with the web layer and the command line; all are frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from webapp.domain.instance import Instance
from webapp.domain.lease import Notice
from webapp.domain.memory import Holder, Sample
from webapp.domain.model import CachedModel
from webapp.domain.modes import Mode
from webapp.domain.operation import Operation
from webapp.domain.queue import QueuedLaunch, QueueEntry
from webapp.message import Message
from webapp.runtimes.base import ForeignContainer

__all__ = ["EmergencyPreview", "ForeignContainer", "Health", "Question", "Snapshot"]


@dataclass(frozen=True)
class Snapshot:
    """The whole state at one moment, for one page or one answer.

    ``version`` changes whenever anything else in it changes except the age of the reading.
    """

    version: str
    sample: Sample | None
    """The latest reading of the devices; ``None`` before the first."""
    sample_age_s: float | None
    sample_is_stale: bool
    instances: tuple[Instance, ...]
    running: tuple[Operation, ...]
    """Operations that run now, oldest first."""
    recent: tuple[Operation, ...]
    """Operations that ended recently, newest first."""
    models: tuple[CachedModel, ...]
    models_problem: Message | None
    """Why the cache cannot be read."""
    models_scanned_at: float | None
    mode_problems: Mapping[Mode, Message | None]
    """Why a mode cannot be chosen; ``None`` if it can."""
    claims: Mapping[str, str] = field(default_factory=dict)
    """Claimed devices and the id of the operation that claimed each."""
    containers: tuple[ForeignContainer, ...] = ()
    """Containers of vLLM's image that this Warden did not start."""
    waiting: tuple[QueueEntry, ...] = ()
    """Queued launches, in their positions."""
    waited: tuple[QueuedLaunch, ...] = ()
    """Launches that have left the queue, newest first."""
    present: frozenset[str] = frozenset()
    """The people who have a page open."""
    notices: tuple[Notice, ...] = ()
    """Notices to one person each, oldest first."""
    store_problem: Message | None = None
    """Why changes cannot be stored now; ``None`` if they can."""
    idle_unload_at: Mapping[str, float] = field(default_factory=dict)
    """By instance id, the moment at which an idle instance will be unloaded; it shifts if the clock is set, since the
    remaining time does not change.
    """

    @property
    def mode(self) -> str | None:
        """``vllm``, ``transformers``, ``mixed``, or ``None`` while nothing is loaded."""
        modes = {instance.mode.value for instance in self.instances if instance.is_live}
        return None if not modes else modes.pop() if len(modes) == 1 else "mixed"

    def instance(self, instance_id: str) -> Instance | None:
        """Return the instance ``instance_id`` or ``None``."""
        return next((i for i in self.instances if i.id == instance_id), None)

    def model(self, model_id: str) -> CachedModel | None:
        """Return the cached model ``model_id`` or ``None``."""
        return next((m for m in self.models if m.id == model_id), None)


@dataclass(frozen=True)
class EmergencyPreview:
    """What an emergency stop would end, and what it would not touch."""

    instances: tuple[Instance, ...]
    unlisted_workers: int
    """Workers that belong to no listed instance: a self-test's."""
    operations: tuple[Operation, ...]
    foreign: tuple[Holder, ...]
    """Other people's processes that hold memory, which are left alone."""
    containers: tuple[ForeignContainer, ...] = ()
    """Containers that Warden did not start, which are left alone."""
    launches: int = 0
    """Queued launches that would start automatically; the emergency stop pauses them."""


@dataclass(frozen=True)
class Health:
    """Whether Warden is alive: ages in seconds of the last reading and of the controller's last round, ``None`` before
    the first.
    """

    ok: bool
    monitor_age_s: float | None
    controller_age_s: float | None
    store_problem: Message | None = None
    """Why nothing can be stored."""


@dataclass(frozen=True)
class Question:
    """A person's question to a model. ``max_tokens`` is the limit of the answer; ``None`` is the instance's own."""

    prompt: str
    max_tokens: int | None = None
    temperature: float = 0.7
