"""What an operation would do: the same plan is shown as a preview and carried out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

from webapp.domain.footprint import Footprint
from webapp.domain.modes import LaunchOptions, Mode
from webapp.errors import EngineFailed, EngineForbidden, EngineMissing, EngineUnavailable, EngineUnreachable
from webapp.message import Message

UNREACHABLE = frozenset(
    each.code for each in (EngineUnavailable, EngineMissing, EngineForbidden, EngineUnreachable, EngineFailed)
)
"""The reasons for which a mode cannot be chosen if its running instances do not respond either."""


class Verdict(StrEnum):
    """Whether a launch fits."""

    FITS = "fits"
    """It takes at most 80 % of the free memory."""
    TIGHT = "tight"
    """It fits and leaves at least the safety reserve."""
    REFUSED = "refused"
    """It does not fit, or something else forbids it; the reasons say which. Only ``Plan.overruled`` permits it
    nevertheless.
    """


@dataclass(frozen=True)
class SwitchRequest:
    """The request of a person. ``devices`` is ``None`` for "choose for me"."""

    mode: Mode
    model_id: str
    options: LaunchOptions = field(default_factory=LaunchOptions)
    devices: tuple[str, ...] | None = None
    keep_others: bool = False
    """The person's other models stay loaded, too: nothing is unloaded except the instances in ``unload``."""
    restore_on_failure: bool = True
    interrupt_busy: bool = False
    """Also unload models that are answering requests."""
    unload: tuple[str, ...] = ()
    """Instances that may be unloaded: another person's only if it is named here, and only if its memory is needed.

    With ``keep_others``, the person's own named instances are unloaded if the launch uses one of their devices; without
    it, all of them on those devices are.
    """
    load_anyway: bool = False
    """Load although the estimate says that there is not enough memory. It overrides nothing else."""
    lease_until: float | None = None
    """The end of the lease that starts with the model; seconds since the epoch."""
    reason: str = ""
    """The purpose of the model."""
    idle_minutes: float | None = None
    """See ``Lease.idle_minutes``."""
    override_reason: str | None = None
    """Why an administrator unloads another person's leased or busy model; ``None`` means no override."""


class Reach(IntEnum):
    """How far a plan may go to free memory. The lowest level that suffices is used; each level includes the previous
    ones.
    """

    OWN = 0
    """The person's own instances: all of them, or the named ones."""
    CONFIRMED = 1
    """Other people's idle models that were named or released for the person."""
    IDLE = 2
    """All models that are idle and not leased: they have to be confirmed by name first."""
    TAKEN = 3
    """Leased and busy models too: to name what is in the way, or to take them by an override."""


@dataclass(frozen=True)
class Eviction:
    """An instance that a plan would unload, and the bytes that this frees by device."""

    instance_id: str
    model_id: str
    mode: Mode
    owner: str
    in_flight: int | None
    freed_bytes: Mapping[str, int]
    is_others: bool = False
    """Whether it is another person's, released or not."""
    is_foreign: bool = False
    """Whether it is another person's who has not released it for the requester."""
    is_resting: bool = True
    """Whether it is loaded: neither loading nor unloading."""
    idle_s: float = 0.0
    """How long it has been unused."""
    lease_until: float | None = None
    """The end of its lease; ``None`` if it has none."""
    reason: str = ""
    """The purpose for which its owner holds it."""
    no_return: Message | None = None
    """Why it could not be loaded again if the launch fails; ``None`` if no reason is known."""

    @property
    def is_taken(self) -> bool:
        """Whether it is another person's and leased, in use, or possibly in use."""
        return self.is_foreign and (self.lease_until is not None or self.in_flight != 0)

    def is_confirmed_by(self, request: SwitchRequest) -> bool:
        """Whether its owner's consent is settled: it is the person's own, released for that person, or named."""
        return not self.is_foreign or self.instance_id in request.unload

    def is_kept_from(self, request: SwitchRequest) -> bool:
        """Whether ``request`` must not unload it: it is in use, or another person's and leased or possibly in use."""
        if self.is_taken and request.override_reason is None:
            return True
        return bool(self.in_flight) and not request.interrupt_busy

    def is_unendable_for(self, request: SwitchRequest) -> bool:
        """Whether its mode does not respond: it could be neither stopped in order nor restored if the launch fails."""
        return request.restore_on_failure and self.no_return is not None and self.no_return.code in UNREACHABLE

    def goes(self, request: SwitchRequest, reach: Reach) -> bool:
        """Whether ``request`` unloads it from one of its devices at level ``reach``.

        Another person's dead model has no memory to free: it is left to that person.
        """
        is_named = self.instance_id in request.unload
        if not self.is_others:
            return is_named or not request.keep_others
        if not self.is_resting or self.is_unendable_for(request) or (request.keep_others and not is_named):
            return False
        is_idle = not self.is_taken and not (self.in_flight and not request.interrupt_busy)
        return reach is Reach.TAKEN or (
            is_idle and (reach is Reach.IDLE or (reach is Reach.CONFIRMED and self.is_confirmed_by(request)))
        )


@dataclass(frozen=True)
class DevicePlan:
    """The arithmetic on one device; bytes, ``None`` is unknown."""

    device_id: str
    footprint: Footprint
    total_bytes: int | None
    free_before_bytes: int | None
    """Free now, within the memory limit."""
    freed_bytes: int
    """Freed by unloading."""
    free_after_bytes: int | None
    """Free once the model runs; negative if it does not fit."""
    reserve_bytes: int
    verdict: Verdict
    promised_bytes: int = 0
    """Memory that was promised to models that stay and that they have not taken yet: a KV cache grows with use."""

    @property
    def available_bytes(self) -> int | None:
        """Bytes that a launch may take after unloading."""
        if self.free_before_bytes is None:
            return None
        return self.free_before_bytes + self.freed_bytes - self.promised_bytes


@dataclass(frozen=True)
class WayOut:
    """A change to the request that would make it fit; ``request`` is the changed request, ready to send."""

    message: Message
    request: SwitchRequest


@dataclass(frozen=True)
class Plan:
    """What a switch would do and whether it is permitted.

    ``reasons`` explain the verdict, most important first. ``refusal`` is the error that carrying it out would raise, as a
    message, or ``None``.
    """

    request: SwitchRequest
    devices: tuple[DevicePlan, ...]
    unload: tuple[Eviction, ...]
    verdict: Verdict
    reasons: tuple[Message, ...] = ()
    ways_out: tuple[WayOut, ...] = ()
    refusal: Message | None = None
    anywhere: bool = False
    """Whether the request left the choice of the device to Warden; ``request`` names the chosen one."""
    overruled: Message | None = None
    """The shortage of memory that ``load_anyway`` overrides: the verdict stays, and the launch may run out of memory.
    """

    @property
    def touched(self) -> frozenset[str]:
        """The devices of the launch and those of its evictions, all of which the operation claims."""
        return frozenset({d.device_id for d in self.devices} | {d for e in self.unload for d in e.freed_bytes})
