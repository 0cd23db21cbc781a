"""Two readings compared holder by holder."""

from __future__ import annotations

from tests.unit.domain.readings import holder, reading
from webapp.domain.growth import growths, net_bytes
from webapp.domain.units import gib


def test_what_grew_most_comes_first_and_what_came_or_went_counts() -> None:
    before = reading(holder(1, gib(1)), holder(2, gib(3)), holder(3, gib(2)))
    now = reading(holder(1, gib(4)), holder(3, gib(2)), holder(4, gib(1)))

    found = growths(before, now)

    assert found is not None
    assert [(growth.holder.pid, growth.grown_bytes) for growth in found] == [
        (1, gib(3)),
        (4, gib(1)),
        (3, 0),
        (2, -gib(3)),
    ]
    assert net_bytes(found) == gib(1)


def test_processes_of_a_model_and_of_a_container_are_one_each() -> None:
    before = reading(holder(1, gib(1), instance_id="a"), holder(2, gib(1), container_id="c"))
    now = reading(
        holder(9, gib(2), instance_id="a"), holder(2, gib(1), container_id="c"), holder(3, gib(2), container_id="c")
    )

    found = growths(before, now)

    assert found is not None
    assert [(growth.holder.pid, growth.grown_bytes) for growth in found] == [(3, gib(2)), (9, gib(1))]
    assert [growth.holder.container_id for growth in growths(before, now, without="a") or ()] == ["c"]


def test_unknown_bytes_say_nothing_and_an_unknown_list_nothing_at_all() -> None:
    assert growths(reading(holder(1, None)), reading(holder(1, gib(9)))) == ()
    assert growths(reading(holders_known=False), reading(holder(1, gib(9)))) is None
