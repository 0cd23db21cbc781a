"""Keep the measured memory of launches: in memory for every plan, and in the store for the next start."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

from webapp.domain.calibration import KEPT, Calibration, Measurement
from webapp.domain.modes import Mode
from webapp.errors import StoreUnavailable

log = logging.getLogger(__name__)

DRAIN_S = 5.0
"""How long a stop waits for measurements that are not written yet."""


class MeasurementStore(Protocol):
    """The store's methods that the calibration uses."""

    def save_measurement(self, measurement: Measurement, keep: int) -> None:
        """Store a measurement, and keep only the newest ``keep`` of its kind of launch. Raises StoreUnavailable."""

    def measurements(self) -> tuple[Measurement, ...]:
        """Return all stored measurements, oldest first. Raises StoreUnavailable."""


class Calibrator:
    """Holds the calibration as one frozen value, and writes each new measurement in a separate thread: no caller waits
    for the store.
    """

    def __init__(self, store: MeasurementStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._calibration = Calibration()
        self._pending: queue.SimpleQueue[Measurement | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    @property
    def calibration(self) -> Calibration:
        """The present calibration; a reference, so reading it never waits."""
        return self._calibration

    def with_engines(self, engines: Mapping[Mode, str], *, shares_libraries: bool = False) -> Calibration:
        """Return the present calibration for these ``engines``: waits only if one of them has changed, and then for an
        assignment.
        """
        if (self._calibration.engines, self._calibration.shares_libraries) != (engines, shares_libraries):
            with self._lock:
                self._calibration = replace(
                    self._calibration,
                    engines=engines,
                    shares_libraries=shares_libraries,
                    version=self._calibration.version + 1,
                )
        return self._calibration

    def start(self, engines: Mapping[Mode, str]) -> None:
        """Read the stored measurements, and start to write. ``engines`` is the engine of each mode."""
        calibration = Calibration(engines).including(self._kept())
        with self._lock:
            self._calibration = calibration
        self._thread = threading.Thread(target=self._run, name="warden-learning", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Write the remaining measurements, for a few seconds at most, and stop."""
        self._pending.put(None)
        if self._thread is not None:
            self._thread.join(DRAIN_S)
            self._thread = None

    def record(self, measurement: Measurement) -> None:
        """Add a measurement to the calibration and queue it for writing; never waits."""
        with self._lock:
            self._calibration = self._calibration.including((measurement,))
        self._pending.put(measurement)
        log.info(
            "measured %s: %s bytes, %s were expected",
            measurement.kind.setup.model_id,
            measurement.figure,
            measurement.predicted_bytes,
        )

    def _kept(self) -> tuple[Measurement, ...]:
        try:
            return self._store.measurements()
        except StoreUnavailable as exc:
            log.warning("earlier measurements cannot be read: %s", exc)
            return ()

    def _run(self) -> None:
        while (measurement := self._pending.get()) is not None:
            try:
                self._store.save_measurement(measurement, KEPT)
            except StoreUnavailable as exc:
                log.warning("a measurement was not written down: %s", exc)
            except Exception:
                log.exception("a measurement could not be written down")
