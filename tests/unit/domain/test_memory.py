"""The level's boundaries, and the ledger that adds up whatever the driver says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webapp.domain.memory import (
    DeviceKind,
    Holder,
    HolderKind,
    LedgerKind,
    LedgerPart,
    Level,
    Reading,
    Sample,
    build_ledger,
    instance_bytes,
    level_of,
    used_percent,
    without_figures,
)
from webapp.domain.units import GIB, MIB
from webapp.message import Message

GPU = Reading(
    device_id="gpu-0",
    kind=DeviceKind.GPU,
    name="Test GPU",
    uuid="GPU-0",
    total_bytes=24 * GIB,
    reserved_bytes=1 * GIB,
    used_bytes=10 * GIB,
    free_bytes=13 * GIB,
    utilization_percent=7.0,
    temperature_c=50.0,
    power_w=100.0,
)


def foreign(pid: int, user: str | None, used_bytes: int | None, command: str | None = "python train.py") -> Holder:
    return Holder(pid, user, command, used_bytes, HolderKind.FOREIGN)


def worker(pid: int, instance_id: str, used_bytes: int | None) -> Holder:
    return Holder(pid, "warden", "python -m webapp.worker", used_bytes, HolderKind.WORKER, instance_id)


def parts_of(reading: Reading, **instances: str) -> tuple[LedgerPart, ...]:
    ledger = build_ledger(reading, instances)
    assert ledger is not None
    return ledger.parts


@pytest.mark.parametrize(
    ("free_bytes", "level"),
    [
        (4 * GIB, Level.GOOD),
        (4 * GIB - 1, Level.LOW),
        (2 * GIB, Level.LOW),
        (2 * GIB - 1, Level.CRITICAL),
        (0, Level.CRITICAL),
    ],
)
def test_the_level_changes_exactly_at_its_boundaries(free_bytes: int, level: Level) -> None:
    assert level_of(free_bytes) is level


def test_the_used_share_counts_the_reserve_as_used() -> None:
    assert used_percent(GPU) == pytest.approx(100 * 11 / 24)


@pytest.mark.parametrize("unknown", [{"total_bytes": None}, {"free_bytes": None}, {"total_bytes": 0}])
def test_the_used_share_is_unknown_without_total_or_free(unknown: dict[str, int | None]) -> None:
    assert used_percent(replace(GPU, **unknown)) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("unknown", ["total_bytes", "free_bytes"])
def test_there_is_no_ledger_without_total_or_free(unknown: str) -> None:
    changes: dict[str, Any] = {unknown: None}
    assert build_ledger(replace(GPU, **changes), {}) is None


def test_the_ledger_names_the_driver_each_instance_each_user_and_the_rest() -> None:
    reading = replace(
        GPU,
        holders=(
            worker(11, "a", 2 * GIB),
            worker(12, "a", 1 * GIB),
            Holder(13, "root", "vllm serve", 3 * GIB, HolderKind.CONTAINER, "b", "c" * 64),
            foreign(14, "olga", 1 * GIB),
            foreign(15, "ivan", GIB // 2),
            foreign(16, "ivan", GIB // 2),
        ),
    )
    assert parts_of(reading, a="Qwen", b="Llama") == (
        LedgerPart(LedgerKind.DRIVER, None, 1 * GIB, processes=0),
        LedgerPart(LedgerKind.CONTAINER, "Llama", 3 * GIB, "b"),
        LedgerPart(LedgerKind.WORKER, "Qwen", 3 * GIB, "a", processes=2),
        LedgerPart(LedgerKind.FOREIGN, "ivan", 1 * GIB, user="ivan", processes=2),
        LedgerPart(LedgerKind.FOREIGN, "olga · python train.py", 1 * GIB, user="olga"),
        LedgerPart(LedgerKind.UNATTRIBUTED, None, 2 * GIB, processes=0),
        LedgerPart(LedgerKind.FREE, None, 13 * GIB, processes=0),
    )


def test_a_process_of_unknown_size_is_no_part_and_stays_in_the_rest() -> None:
    reading = replace(GPU, holders=(foreign(14, "olga", None), worker(11, "a", None)))
    assert [part.kind for part in parts_of(reading)] == [
        LedgerKind.DRIVER,
        LedgerKind.UNATTRIBUTED,
        LedgerKind.FREE,
    ]


def test_a_process_of_an_unknown_user_is_called_by_its_command_or_not_at_all() -> None:
    reading = replace(GPU, holders=(foreign(14, None, 1 * GIB),))
    assert parts_of(reading)[1].label == "python train.py"
    reading = replace(GPU, holders=(foreign(14, None, 1 * GIB, command=None),))
    assert parts_of(reading)[1].label is None


def test_an_instance_without_a_label_is_still_a_part() -> None:
    reading = replace(GPU, holders=(worker(11, "spare-1", 1 * GIB),))
    assert parts_of(reading)[1] == LedgerPart(LedgerKind.WORKER, None, 1 * GIB, "spare-1")


def test_without_the_drivers_reserve_it_is_in_the_rest() -> None:
    reading = replace(GPU, reserved_bytes=None, used_bytes=11 * GIB)
    assert parts_of(reading) == (
        LedgerPart(LedgerKind.UNATTRIBUTED, None, 11 * GIB, processes=0),
        LedgerPart(LedgerKind.FREE, None, 13 * GIB, processes=0),
    )


def test_what_is_claimed_beyond_the_used_memory_comes_off_the_largest_part_and_is_told() -> None:
    reading = replace(GPU, holders=(worker(11, "a", 12 * GIB), foreign(14, "olga", 1 * GIB)))
    ledger = build_ledger(reading, {"a": "Qwen"})
    assert ledger is not None
    assert ledger.overcommitted_bytes == 3 * GIB
    assert ledger.unattributed_bytes == 0
    assert [part.used_bytes for part in ledger.parts] == [1 * GIB, 9 * GIB, 1 * GIB, 13 * GIB]


amounts = st.none() | st.integers(0, 64 * GIB)
holders = st.lists(
    st.builds(
        Holder,
        pid=st.integers(1, 2**22),
        user=st.sampled_from([None, "ivan", "olga"]),
        command=st.sampled_from([None, "python"]),
        used_bytes=amounts,
        kind=st.sampled_from(HolderKind),
        instance_id=st.sampled_from([None, "a", "b"]),
    ),
    max_size=12,
)


@given(total=amounts, reserved=amounts, used=amounts, free=amounts, holders=holders)
def test_the_ledger_always_adds_up(
    total: int | None, reserved: int | None, used: int | None, free: int | None, holders: list[Holder]
) -> None:
    reading = replace(
        GPU, total_bytes=total, reserved_bytes=reserved, used_bytes=used, free_bytes=free, holders=tuple(holders)
    )
    ledger = build_ledger(reading, {"a": "Qwen"})
    if total is None or free is None:
        assert ledger is None
        return
    assert ledger is not None
    assert sum(part.used_bytes for part in ledger.parts) == ledger.total_bytes == total
    assert all(part.used_bytes >= 0 for part in ledger.parts)
    assert ledger.unattributed_bytes >= 0
    assert ledger.overcommitted_bytes >= 0
    assert not (ledger.overcommitted_bytes and ledger.unattributed_bytes)
    assert len({(part.kind, part.instance_id, part.user, part.label) for part in ledger.parts}) == len(ledger.parts)


def test_an_instance_holds_the_sum_of_its_processes() -> None:
    reading = replace(GPU, holders=(worker(11, "a", 5 * MIB), worker(12, "a", 6 * MIB), worker(13, "b", 7 * MIB)))
    assert instance_bytes(reading, "a") == 11 * MIB
    assert instance_bytes(reading, "absent") == 0


def test_what_an_instance_holds_is_unknown_as_soon_as_one_process_is() -> None:
    reading = replace(GPU, holders=(worker(11, "a", 5 * MIB), worker(12, "a", None)))
    assert instance_bytes(reading, "a") is None
    assert instance_bytes(replace(GPU, holders_known=False), "a") is None


def test_a_device_without_figures_keeps_who_it_is() -> None:
    problem = Message("device_lost", {"device": "gpu-0"})
    lost = without_figures(replace(GPU, holders=(worker(11, "a", 1),)), problem)
    assert (lost.device_id, lost.kind, lost.name, lost.uuid) == ("gpu-0", DeviceKind.GPU, "Test GPU", "GPU-0")
    assert (lost.total_bytes, lost.used_bytes, lost.free_bytes, lost.reserved_bytes) == (None, None, None, None)
    assert (lost.utilization_percent, lost.temperature_c, lost.power_w) == (None, None, None)
    assert lost.holders == ()
    assert not lost.holders_known
    assert lost.problem == problem


def test_a_sample_finds_a_device_by_its_id() -> None:
    sample = Sample(1, 0.0, 0.0, (GPU,))
    assert sample.reading("gpu-0") is GPU
    assert sample.reading("gpu-1") is None
