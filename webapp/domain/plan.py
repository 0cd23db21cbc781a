"""What an operation would do, before it does anything: the very plan that the page previews and that Apply runs."""

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
"""Why a mode cannot be chosen when what runs in it cannot be asked either."""


class Verdict(StrEnum):
    """Whether a launch fits."""

    FITS = "fits"
    """It takes at most 80 % of the free memory."""
    TIGHT = "tight"
    """It fits and leaves at least the safety reserve."""
    REFUSED = "refused"
    """It does not fit, or something else forbids it; the reasons say which. Only ``Plan.overruled`` lets it be done all the same."""


@dataclass(frozen=True)
class SwitchRequest:
    """What a person asks for. ``devices`` is ``None`` for "choose for me"."""

    mode: Mode
    model_id: str
    options: LaunchOptions = field(default_factory=LaunchOptions)
    devices: tuple[str, ...] | None = None
    keep_others: bool = False
    """The person's other models stay too: nothing is unloaded but what ``unload`` names."""
    restore_on_failure: bool = True
    interrupt_busy: bool = False
    """Unload also models that answer requests right now."""
    unload: tuple[str, ...] = ()
    """Instances that may go: another person's only where it is named here, and only where the room is needed.

    With ``keep_others`` the person's own that are named go, where the launch takes a device of theirs; without it all of them go there.
    """
    load_anyway: bool = False
    """Load although the estimate says that the memory will not do. It passes over nothing else."""
    lease_until: float | None = None
    """Until when nobody else takes the model once it runs; seconds since the epoch."""
    reason: str = ""
    """What the model is for."""
    idle_minutes: float | None = None
    """See ``Lease.idle_minutes``."""
    override_reason: str | None = None
    """Why an administrator unloads what is another person's, leased or busy; ``None`` is not to."""


class Reach(IntEnum):
    """How far a plan goes for room. The nearest that has it counts; each takes what the one before takes, and more."""

    OWN = 0
    """What is the person's own: all of it, or what was named."""
    CONFIRMED = 1
    """Other people's idle models that were named, or given up for the person."""
    IDLE = 2
    """All that are idle and not leased: their names have to be confirmed first."""
    TAKEN = 3
    """Those too that are leased or in use: to say who is in the way, or to take them by an override."""


@dataclass(frozen=True)
class Eviction:
    """An instance that a plan would unload, and what it gives back by device."""

    instance_id: str
    model_id: str
    mode: Mode
    owner: str
    in_flight: int | None
    freed_bytes: Mapping[str, int]
    is_others: bool = False
    """Another person's, given up or not."""
    is_foreign: bool = False
    """Another person's, who has not given it up for who asks."""
    is_resting: bool = True
    """It is loaded: not on its way, in one direction or the other."""
    idle_s: float = 0.0
    """How long nobody has used it."""
    lease_until: float | None = None
    """Until when a lease of it runs; ``None`` where none does."""
    reason: str = ""
    """What its owner holds it for."""
    no_return: Message | None = None
    """Why it could not be loaded again if the launch fails; ``None`` where nothing is known against it."""

    @property
    def is_taken(self) -> bool:
        """Whether it is another person's, leased or in use, or perhaps in use."""
        return self.is_foreign and (self.lease_until is not None or self.in_flight != 0)

    def is_confirmed_by(self, request: SwitchRequest) -> bool:
        """Whether it may go as far as its owner is concerned: it is the person's own, given up for that person, or named."""
        return not self.is_foreign or self.instance_id in request.unload

    def is_kept_from(self, request: SwitchRequest) -> bool:
        """Whether ``request`` must not unload it: it is in use, or another person's and leased, or another person's and perhaps in use."""
        if self.is_taken and request.override_reason is None:
            return True
        return bool(self.in_flight) and not request.interrupt_busy

    def is_unendable_for(self, request: SwitchRequest) -> bool:
        """Whether its mode cannot be asked: it could be neither ended in order nor brought back if the launch fails."""
        return request.restore_on_failure and self.no_return is not None and self.no_return.code in UNREACHABLE

    def goes(self, request: SwitchRequest, reach: Reach) -> bool:
        """Whether ``request`` takes it from a device of its, going as far as ``reach`` for room.

        A dead model of another person's has no memory to give: it is that person's to clear away.
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
    """What the unloading gives back."""
    free_after_bytes: int | None
    """Free once the model runs; negative when it does not fit."""
    reserve_bytes: int
    verdict: Verdict
    promised_bytes: int = 0
    """What models that stay have been promised and have not taken yet (their KV cache grows with use)."""

    @property
    def available_bytes(self) -> int | None:
        """What a launch may take once the unloading is done."""
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
    """What a switch would do and whether it may.

    ``reasons`` explain the verdict, most important first. ``refusal`` is the error that Apply would answer with, as a message, or
    ``None``.
    """

    request: SwitchRequest
    devices: tuple[DevicePlan, ...]
    unload: tuple[Eviction, ...]
    verdict: Verdict
    reasons: tuple[Message, ...] = ()
    ways_out: tuple[WayOut, ...] = ()
    refusal: Message | None = None
    anywhere: bool = False
    """The request left the choice of the device to Warden; ``request`` names the chosen one."""
    overruled: Message | None = None
    """The lack of memory that ``load_anyway`` passes over: the verdict stays as it is, and the launch may run out of memory."""

    @property
    def touched(self) -> frozenset[str]:
        """The devices of the launch, and those of what goes for it: all that carrying it out claims."""
        return frozenset({d.device_id for d in self.devices} | {d for e in self.unload for d in e.freed_bytes})
