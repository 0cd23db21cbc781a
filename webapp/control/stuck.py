"""Remove stuck instances once their runtime reports that they have ended: each by an ordinary operation, with a
receipt.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass

from webapp.control.context import Context
from webapp.control.run import Outcome, Run
from webapp.control.unloading import LastLook, end_instances, removed_outcome, unload_outcome
from webapp.domain.instance import Instance, InstanceState
from webapp.domain.operation import OperationState
from webapp.errors import IdleUsedAgain, WardenError
from webapp.message import Message

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 2.0
LONGEST_PAUSE_S = 3600.0
"""An instance that stays stuck is tried again after a pause that doubles up to this."""


@dataclass(frozen=True)
class _Try:
    """The last attempt at one instance; ``not_before`` is by the monotonic clock."""

    not_before: float
    pause_s: float


class StuckInstances:
    """Decides when an ended instance is tried again. Used only by the watcher's thread."""

    def __init__(self, context: Context, unload: Callable[[Instance], object]) -> None:
        """``unload`` starts the operation and may raise a refusal."""
        self._context = context
        self._unload = unload
        self._tries: dict[str, _Try] = {}

    def look(self, over: Collection[str]) -> None:
        """Start removing the instances in ``over``; one that an operation has claimed waits for another round."""
        state, now = self._context.state, self._context.monotonic()
        stuck = {i.id: i for i in state.instances.values() if i.state is InstanceState.STUCK}
        self._tries = {name: tried for name, tried in self._tries.items() if name in state.instances}
        for name in sorted(stuck.keys() & set(over)):
            tried = self._tries.get(name)
            is_due = tried is None or tried.not_before <= now
            if is_due and state.accepting and not set(stuck[name].devices) & set(state.claims):
                pause_s = FIRST_PAUSE_S if tried is None else min(2 * tried.pause_s, LONGEST_PAUSE_S)
                self._tries[name] = _Try(now + pause_s, pause_s)
                self._begin(stuck[name])

    def _begin(self, instance: Instance) -> None:
        try:
            self._unload(instance)
        except WardenError as exc:
            log.info("%s is over and stays on the list for now: %s", instance.id, exc)


def clear_stuck(run: Run, instance_id: str) -> Outcome:
    """Verify that nothing of a stuck instance is left, and remove it from the list: the body of an ``unload``
    operation.

    Raises:
        UnknownInstance: it has left the list in the meantime.
        StopFailed: one of its processes is still alive.
    """
    context = run.context
    instance = context.state.instance(instance_id)
    try:
        receipts = end_instances(run, (instance,), LastLook(_refuse_back, lambda instances: None))
    except IdleUsedAgain as exc:
        return Outcome(OperationState.CANCELLED, exc.message)
    gone = Message("stuck_cleared", {"model": instance.model_id})
    context.leases.tell(instance.owner, gone)
    outcome = unload_outcome(instance.model_id, receipts) if receipts else Outcome(OperationState.SUCCEEDED, gone)
    return removed_outcome(run, outcome)


def _refuse_back(instance: Instance) -> None:
    """Refuse an instance that is responding again. Raises IdleUsedAgain."""
    if instance.state is not InstanceState.STUCK:
        raise IdleUsedAgain(model=instance.model_id)
