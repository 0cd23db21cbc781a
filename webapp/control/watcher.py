"""Probe every loaded model once a second: does it respond, how many requests, how much memory, has it ended. Stuck
instances are probed too: their runtime may be back, or their last process may have ended.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from webapp.control.context import Context, Expired, held_by, side_by_side, within
from webapp.control.postmortem import explain
from webapp.domain.instance import ANSWERING, Instance, InstanceState
from webapp.errors import (
    EngineUnavailable,
    LaunchFailed,
    OutOfMemory,
    UnknownInstance,
    WardenError,
    WorkerGarbled,
    WorkerSilent,
)
from webapp.message import Message
from webapp.rounds import Rounds
from webapp.runtimes.base import Probe, ProbeState

log = logging.getLogger(__name__)

ROUND_S = 1.0
NUDGED_S = 0.1
"""The minimum time between two rounds, however often the watcher is nudged; the worker has counted its request by then.
"""
SILENT_AFTER = 3
"""Rounds without an answer after which a model is silent; one slow answer is not news."""
LOOK_AGAIN_S = 0.5
"""The longest time for which a request that would be refused waits for another probe of the models in its way."""
LOOKS_AGAIN = 3
LOOK_PAUSE_S = 0.03
"""A worker has sent the end of an answer a moment before it counts the request as finished."""
WATCHED = (*ANSWERING, InstanceState.STUCK)


class Watcher(Rounds):
    """The thread that updates the listed instances; ``each_round`` is called after each of its rounds and must not
    wait.
    """

    def __init__(self, context: Context, each_round: Callable[[], None]) -> None:
        super().__init__("watcher", self._look_around, ROUND_S, pause_s=NUDGED_S)
        self._context = context
        self._each_round = each_round
        self._missed: dict[str, int] = {}
        self._over: frozenset[str] = frozenset()
        self._round_at: float | None = None

    @property
    def over(self) -> frozenset[str]:
        """Return the stuck instances that have ended, as their runtimes report: their remains can be removed."""
        return self._over

    def age_s(self) -> float | None:
        """Return the seconds since the last full round; ``None`` before the first."""
        return None if self._round_at is None else self._context.monotonic() - self._round_at

    def _look_around(self) -> None:
        self.look()
        self._each_round()

    def look(self) -> None:
        """Probe the instances that are ready, silent or stuck, once."""
        watched = [i for i in self._context.state.instances.values() if i.state in WATCHED]
        self._missed = {i.id: self._missed.get(i.id, 0) for i in watched}
        results = side_by_side(lambda i: self._context.runtime(i).probe(i.id), watched, "probe")
        looks = tuple(zip(watched, results, strict=True))
        self._over = frozenset(i.id for i, result in looks if i.state is InstanceState.STUCK and _is_over(result))
        for instance, result in looks:
            if instance.id not in self._over:
                self._note(instance, result)
        self._round_at = self._context.monotonic()

    def look_again(self, instance_ids: Iterable[str]) -> None:
        """Probe the instances that the list shows as in use, until none is, for a few tenths of a second at most."""
        asked = frozenset(instance_ids)

        def look(expired: Expired) -> bool:
            for _ in range(LOOKS_AGAIN):
                listed = self._context.state.instances.values()
                busy = [i for i in listed if i.id in asked and i.may_be_busy and i.state in WATCHED]
                results = side_by_side(lambda i: self._context.runtime(i).probe(i.id), busy, "look")
                for instance, result in zip(busy, results, strict=True):
                    if isinstance(result, Probe):  # other changes are left to the next round
                        self._note(instance, result)
                if not busy or expired.wait(LOOK_PAUSE_S):
                    break
            return True

        within(LOOK_AGAIN_S, look, "look-again")

    def _note(self, instance: Instance, result: Probe | Exception) -> None:
        """Store the result, unless an operation has changed the instance's state in the meantime."""
        if isinstance(result, Probe):
            self._missed[instance.id] = 0
            measured = held_by(self._context.monitor.latest(), instance)
            self._change(instance, lambda i: _alive(i, result, measured))
        elif isinstance(result, WorkerSilent | WorkerGarbled | EngineUnavailable):
            self._missed[instance.id] += 1
            is_news = self._missed[instance.id] >= SILENT_AFTER and instance.state is InstanceState.READY
            if is_news and self._change(instance, lambda i: i.to(InstanceState.SILENT, problem=result.message)):
                log.warning("%s (%s) does not answer: %s", instance.id, instance.model_id, result)
        elif isinstance(result, LaunchFailed | UnknownInstance):
            if self._change(instance, lambda i: i.to(InstanceState.DEAD, problem=_why(i, result), in_flight=0)):
                log.warning("%s (%s) has died: %s", instance.id, instance.model_id, result)
                if isinstance(result, OutOfMemory):
                    explain(self._context, instance, result)
        elif not isinstance(result, WardenError):
            log.error("looking at %s failed", instance.id, exc_info=result)

    def _change(self, instance: Instance, change: Callable[[Instance], Instance]) -> bool:
        return self._context.state_store.change_in_state(instance.id, instance.state, change)


def _is_over(result: Probe | Exception) -> bool:
    """Return whether a stuck instance is gone, has ended, or was only starting; a runtime that does not answer proves
    nothing.
    """
    if isinstance(result, Probe):
        return result.state is not ProbeState.READY
    return isinstance(result, LaunchFailed | UnknownInstance) and not isinstance(result, WorkerGarbled)


def _alive(instance: Instance, probe: Probe, measured: Mapping[str, int]) -> Instance:
    changed = replace(
        instance,
        in_flight=probe.in_flight,
        last_used_at=probe.last_used_at,
        memory=probe.memory,
        measured_bytes={**instance.measured_bytes, **measured},
        pid=probe.pid,
        problem=None,
    )
    return changed.to(InstanceState.READY)


def _why(instance: Instance, error: Exception) -> Message:
    if isinstance(error, UnknownInstance):
        return Message("instance_vanished", {"model": instance.model_id})
    assert isinstance(error, WardenError)
    return error.message
