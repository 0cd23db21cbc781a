"""The store keeps what launches were measured to take, the newest of each kind."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from webapp.domain.calibration import LaunchKind, LaunchSetup, Measurement
from webapp.domain.instance import MemoryReport
from webapp.domain.modes import Mode
from webapp.store.measurements import MeasurementRepository

KIND = LaunchKind(LaunchSetup("lab/модель", "a" * 40, Mode.VLLM, "vllm:1", "Card", 1, "auto", "none"), 2048, 1)
TOLD = MemoryReport(weights_bytes=2**30, graphs_bytes=0)


def measurement(number: int, kind: LaunchKind = KIND) -> Measurement:
    return Measurement(kind, float(number), 2**30, 2**30 + number, TOLD)


def test_measurements_come_back_as_they_were_oldest_first(measurements: MeasurementRepository) -> None:
    unknown = replace(measurement(1), measured_bytes=None, told=MemoryReport())
    for each in (measurement(2), unknown):
        measurements.save_measurement(each, keep=20)
    assert measurements.measurements() == (unknown, measurement(2))


def test_of_each_kind_only_the_newest_are_kept(measurements: MeasurementRepository) -> None:
    other = replace(KIND, max_tokens=512)
    measurements.save_measurement(measurement(0, other), keep=3)
    for number in range(1, 6):
        measurements.save_measurement(measurement(number), keep=3)
    assert measurements.measurements() == (measurement(0, other), *(measurement(number) for number in (3, 4, 5)))


def test_second_measurement_of_one_moment_takes_the_place_of_the_first(measurements: MeasurementRepository) -> None:
    again = replace(measurement(1), measured_bytes=5)
    measurements.save_measurement(measurement(1), keep=3)
    measurements.save_measurement(again, keep=3)
    assert measurements.measurements() == (again,)


def test_measurement_that_cannot_be_read_is_left_out(measurements: MeasurementRepository, file: Path) -> None:
    measurements.save_measurement(measurement(1), keep=3)
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("INSERT INTO measurements VALUES ('x', 2.0, '{}')")
    assert measurements.measurements() == (measurement(1),)
