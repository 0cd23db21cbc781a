"""Keep the measured memory of launches: in memory for every plan, and in the store for the next start."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

from webapp.control.keeping import Keeper
from webapp.domain.calibration import KEPT, Calibration, Measurement
from webapp.domain.modes import Mode
from webapp.errors import StoreUnavailable

log = logging.getLogger(__name__)


class MeasurementStore(Protocol):
    """The store's methods that the calibration uses."""

    def save_measurement(self, measurement: Measurement, keep: int) -> None:
        """Store a measurement, and keep only the newest ``keep`` of its kind of launch. Raises StoreUnavailable."""

    def measurements(self) -> tuple[Measurement, ...]:
        """Return all stored measurements, oldest first. Raises StoreUnavailable."""


class Calibrator:
    """Holds the calibration as one frozen value, and has the keeper write each new measurement: no caller waits for the
    store.
    """

    def __init__(self, store: MeasurementStore, keeper: Keeper) -> None:
        self._store = store
        self._keeper = keeper
        self._lock = threading.Lock()
        self._calibration = Calibration()

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
        """Read the stored measurements. ``engines`` is the engine of each mode."""
        calibration = Calibration(engines).including(self._kept())
        with self._lock:
            self._calibration = calibration

    def record(self, measurement: Measurement) -> None:
        """Add a measurement to the calibration and queue it for writing; never waits."""
        with self._lock:
            self._calibration = self._calibration.including((measurement,))
            key = f"measurement {self._calibration.version}"
        self._keeper.later(key, lambda: self._store.save_measurement(measurement, KEPT))
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
