"""Loading against the estimate: the shortfall, who could be affected, and the fields to send after confirmation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from webapp.control.contract import Snapshot
from webapp.domain.memory import HolderKind
from webapp.domain.modes import Mode
from webapp.domain.plan import Plan
from webapp.web import formats, words
from webapp.web.launch.form import LaunchForm
from webapp.web.phrases import where
from webapp.web.translate import gettext as _

HOST = "host"
SHOWN = 6
"""How many processes of other people are named."""


@dataclass(frozen=True)
class Neighbour:
    """A holder of memory on the same device that stays."""

    name: str
    owner: str
    size: str


@dataclass(frozen=True)
class LoadAnywayView:
    """The question; ``problem`` is the reason if there is nothing to confirm."""

    model: str
    where: str
    problem: str | None
    lack: str
    unload: tuple[str, ...]
    neighbours: tuple[Neighbour, ...]
    restores: bool
    on_host: bool
    is_vllm: bool
    sent: Mapping[str, str]
    """The fields of the form."""
    query: str
    """The same fields as a query, which leads back to the form."""


def load_anyway_view(form: LaunchForm, snapshot: Snapshot, plan: Plan) -> LoadAnywayView:
    """Return the question for ``form``, whose ``plan`` would be loaded against the estimate."""
    device_ids = [device.device_id for device in plan.devices]
    return LoadAnywayView(
        model=form.model,
        where=where(device_ids),
        problem=_problem(plan),
        lack="" if plan.overruled is None else words.say(plan.overruled),
        unload=tuple(f"{eviction.model_id} ({eviction.owner})" for eviction in plan.unload),
        neighbours=tuple(_neighbours(plan, snapshot)),
        restores=form.restore_on_failure and bool(plan.unload),
        on_host=HOST in device_ids,
        is_vllm=plan.request.mode is Mode.VLLM,
        sent=form.sent,
        query=form.query,
    )


def _problem(plan: Plan) -> str | None:
    if plan.refusal is not None:
        return words.say(plan.refusal)
    return _("There is enough memory now; you can load the model.") if plan.overruled is None else None


def _neighbours(plan: Plan, snapshot: Snapshot) -> Iterator[Neighbour]:
    """Yield the remaining models and other people's processes on the devices, largest first."""
    going = {eviction.instance_id for eviction in plan.unload}
    device_ids = {device.device_id for device in plan.devices}
    for instance in snapshot.instances:
        if instance.id not in going and instance.is_live and device_ids & set(instance.devices):
            size = sum(instance.held_bytes(device_id) for device_id in device_ids)
            yield Neighbour(instance.model_id, instance.owner, formats.size(size))
    readings = () if snapshot.sample is None else snapshot.sample.readings
    holders = [h for r in readings if r.device_id in device_ids for h in r.holders if h.kind is HolderKind.FOREIGN]
    for holder in sorted(holders, key=lambda h: -(h.used_bytes or 0))[:SHOWN]:
        name, user = holder.command or formats.unknown(), holder.user or formats.unknown()
        yield Neighbour(name, user, formats.size(holder.used_bytes))
