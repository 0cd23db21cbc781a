"""The polled region: everything that changes without the person, as one value with a content tag."""

from __future__ import annotations

from dataclasses import dataclass

from webapp.control.contract import Snapshot
from webapp.domain.memory import DeviceKind
from webapp.domain.modes import Mode
from webapp.domain.operation import Operation
from webapp.web import words
from webapp.web.dashboard.presenters.containers import ContainerRow, container_rows
from webapp.web.dashboard.presenters.devices import DeviceCard, Histories, device_cards
from webapp.web.dashboard.presenters.instances import InstanceRow, instance_row
from webapp.web.leases.presenter import RowContext
from webapp.web.operations.presenters.operations import OperationView, operation_view
from webapp.web.phrases import Reason, reason_of
from webapp.web.queue.presenter import QueueSection, waiting_view
from webapp.web.versions import Versioned

FRESH_S = 90.0
"""How long an ended operation keeps its card, so that everybody sees the result."""
RECENT_SHOWN = 8


@dataclass(frozen=True)
class LiveView(Versioned):
    """All cards and lists of the polled region."""

    running: tuple[OperationView, ...]
    finished: OperationView | None
    """The operation that ended just now, unless another one is running."""
    devices: tuple[DeviceCard, ...]
    has_sample: bool
    is_stale: bool
    problem: str | None
    host_only: bool
    transformers: tuple[InstanceRow, ...]
    transformers_problem: Reason | None
    vllm: tuple[InstanceRow, ...]
    vllm_problem: Reason | None
    vllm_is_last_seen: bool
    """Whether Docker does not answer, so that the list may be outdated."""
    foreign: tuple[ContainerRow, ...]
    """Containers of vLLM's image that this Warden did not start."""
    recent: tuple[OperationView, ...]
    waiting: QueueSection
    """The launch queue."""
    newest_ended: str
    """Id of the operation that ended last; empty if none has."""


def live_view(
    snapshot: Snapshot,
    *,
    histories: Histories,
    recent: tuple[OperationView, ...],
    window_s: float,
    looked: RowContext,
) -> LiveView:
    """Return the view of ``snapshot`` in the context ``looked``; ``recent`` are the last ``RECENT_SHOWN``
    operations."""
    now = looked.now
    sample = snapshot.sample
    kinds = set() if sample is None else {reading.kind for reading in sample.readings}
    newest = snapshot.recent[0] if snapshot.recent else None
    listed = frozenset(instance.id for instance in snapshot.instances)
    return LiveView(
        running=tuple(operation_view(operation, listed) for operation in snapshot.running),
        finished=recent[0] if newest and _is_fresh(newest, snapshot, now) else None,
        devices=device_cards(snapshot, histories, window_s),
        has_sample=sample is not None,
        is_stale=snapshot.sample_is_stale,
        problem=None if sample is None or sample.problem is None else words.say(sample.problem),
        host_only=kinds == {DeviceKind.HOST},
        transformers=_rows(snapshot, Mode.TRANSFORMERS, looked),
        transformers_problem=_mode_problem(snapshot, Mode.TRANSFORMERS),
        vllm=_rows(snapshot, Mode.VLLM, looked),
        vllm_problem=_mode_problem(snapshot, Mode.VLLM),
        vllm_is_last_seen=_is_last_seen(snapshot),
        foreign=container_rows(snapshot),
        recent=recent,
        waiting=waiting_view(snapshot, now),
        newest_ended="" if newest is None else newest.id,
    )


def _is_fresh(operation: Operation, snapshot: Snapshot, now: float) -> bool:
    return not snapshot.running and operation.ended_at is not None and now - operation.ended_at < FRESH_S


def _rows(snapshot: Snapshot, mode: Mode, looked: RowContext) -> tuple[InstanceRow, ...]:
    return tuple(instance_row(instance, looked) for instance in snapshot.instances if instance.mode is mode)


def _is_last_seen(snapshot: Snapshot) -> bool:
    problem = snapshot.mode_problems.get(Mode.VLLM)
    return problem is not None and problem.code.startswith("engine_")


def _mode_problem(snapshot: Snapshot, mode: Mode) -> Reason | None:
    problem = snapshot.mode_problems.get(mode)
    return None if problem is None else reason_of(problem)
