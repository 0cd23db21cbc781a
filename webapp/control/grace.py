"""The grace period before other people's models are ended: nothing is touched, and the people affected can still stop
it.
"""

from __future__ import annotations

from collections.abc import Iterable

from webapp.control.context import Context
from webapp.control.run import Run
from webapp.domain.instance import Instance
from webapp.domain.operation import Grace, StepName
from webapp.domain.plan import Eviction
from webapp.message import Message


def before_unload(context: Context, instance: Instance, actor: str) -> Grace | None:
    """Return the grace period for a single model that ``actor`` unloads; ``None`` for an own model and for one that has
    ended.
    """
    if instance.owner == actor or not instance.is_live:
        return None
    held = instance.lease.runs(context.clock()) or instance.in_flight != 0
    is_taken = instance.is_foreign_to(actor) and held
    return _grace(context, [instance.id], [] if is_taken else [instance.owner])


def before_switch(context: Context, unload: Iterable[Eviction]) -> Grace | None:
    """Return the grace period for the evictions of a switch; ``None`` if none of them is another person's."""
    others = [eviction for eviction in unload if eviction.is_others]
    return _grace(context, [e.instance_id for e in others], [e.owner for e in others if not e.is_taken])


def _grace(context: Context, instances: list[str], owners: list[str]) -> Grace | None:
    """Return the grace period; an owner whom an administrator overrides is notified, but cannot stop it."""
    seconds = context.settings.sharing.undo_s
    if not instances or seconds <= 0:
        return None
    return Grace(context.clock() + seconds, tuple(instances), tuple(dict.fromkeys(owners)))


def give_grace(run: Run) -> None:
    """Wait until nobody may stop the operation any longer. Raises Cancelled; nothing was touched then."""
    if run.operation.grace is None:
        return
    with run.step(StepName.GRACE) as note:
        run.wait(run.context.settings.sharing.undo_s)
        note.message = Message("grace_over")
