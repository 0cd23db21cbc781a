"""The store keeps queued launches, and the last of those that have left the queue."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from webapp.domain.modes import LaunchOptions, Mode, Quantization
from webapp.domain.plan import SwitchRequest
from webapp.domain.queue import QueuedLaunch, QueueState
from webapp.message import Message
from webapp.store.queue import QueueRepository

OPTIONS = LaunchOptions(quantization=Quantization.INT8, max_tokens=1024)
REQUEST = SwitchRequest(Mode.VLLM, "lab/модель", OPTIONS, ("gpu-0", "gpu-1"), keep_others=True, unload=("i1",))


def ticket(number: int, **changes: object) -> QueuedLaunch:
    return replace(QueuedLaunch(f"t{number}", number, REQUEST, "анна", 1000.5), **changes)  # type: ignore[arg-type]


def ended(number: int) -> QueuedLaunch:
    return ticket(
        number, state=QueueState.FAILED, ended_at=float(number), outcome=Message("worker_died", {"exit": "1"})
    )


def test_tickets_come_back_as_they_were_in_their_order(queue: QueueRepository) -> None:
    second, first = (
        ticket(2, paused_by="ivan", tries=1, not_before=5.5),
        ticket(1, state=QueueState.READY, told_at=9.0),
    )
    for one in (second, first):
        queue.save(one, keep=3)
    assert queue.launches() == (first, second)
    queue.save(ended(1), keep=3)
    assert queue.launches() == (ended(1), second)


def test_of_those_that_ended_only_the_newest_are_kept(queue: QueueRepository) -> None:
    queue.save(ticket(9), keep=2)
    for number in range(1, 5):
        queue.save(ended(number), keep=2)
    assert [one.number for one in queue.launches()] == [3, 4, 9]


def test_ticket_that_cannot_be_read_is_left_out(queue: QueueRepository, file: Path) -> None:
    queue.save(ticket(1), keep=3)
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("INSERT INTO tickets VALUES ('x', 2, NULL, '{}')")
    assert queue.launches() == (ticket(1),)
