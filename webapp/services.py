"""The composition root: the one place that names concrete classes, and starts and stops them in order."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from webapp.catalog.scan import Catalog
from webapp.control.board import Board
from webapp.control.controller import Controller
from webapp.control.journal import Journal
from webapp.control.lock import StateLock
from webapp.control.parts import Parts
from webapp.domain.modes import Mode
from webapp.hardware.holders import Holders
from webapp.hardware.host import HostProbe
from webapp.hardware.monitor import Monitor
from webapp.hardware.nvml import NvmlProbe
from webapp.runtimes.demo import DemoProgram
from webapp.runtimes.transformers import TransformersRuntime
from webapp.runtimes.vllm import VllmRuntime
from webapp.settings import Settings
from webapp.store.store import Store

log = logging.getLogger(__name__)

FIRST_READING_S = 2.0
"""How long a start waits for the first reading; a driver that hangs does not keep the page from coming up."""


class Services:
    """All parts of a running Warden. The constructor stores; ``start`` and ``stop`` do. ``make_journal`` is a seam."""

    def __init__(self, settings: Settings, make_journal: Callable[[Store], Journal] = Journal) -> None:
        self.settings = settings
        self._lock = StateLock(settings.state_dir)
        self._store = Store(settings.database)
        self._transformers = TransformersRuntime(settings)
        self._vllm = VllmRuntime(settings)
        self._catalog = Catalog(
            settings.hf_cache, settings.cache_poll_s, settings.allow_pickle, settings.allow_remote_code
        )
        holders = Holders(workers=self._transformers.processes, containers=self._vllm.containers)
        self._monitor = Monitor(
            (NvmlProbe(holders), HostProbe(holders)),
            settings.reading_interval_s,
            settings.busy_reading_interval_s,
            settings.history_minutes * 60,
            settings.stale_after_s,
        )
        self.controller = Controller(
            Parts(
                settings=settings,
                board=Board(),
                journal=make_journal(self._store),
                monitor=self._monitor,
                catalog=self._catalog,
                runtimes={Mode.TRANSFORMERS: self._transformers, Mode.VLLM: self._vllm},
                containers=self._vllm,
                demo=DemoProgram(settings.hf_cache),
                clock=time.time,
                monotonic=time.monotonic,
            ),
            self._lock,
        )

    def start(self) -> None:
        """Start everything.

        Raises:
            AlreadyRunning, ConfigurationError: see ``StateLock``.
            StoreUnavailable: the database cannot be opened.
        """
        logging.basicConfig(level=self.settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        logging.getLogger("alembic").setLevel(logging.WARNING)
        self._lock.take()
        self._store.open()
        self._catalog.start()
        self._monitor.start()
        if self._monitor.fresh(FIRST_READING_S) is None:
            log.warning("the devices did not answer within %s s; the page says so until they do", FIRST_READING_S)
        self.controller.start()

    def stop(self) -> tuple[str, ...]:
        """Stop everything; return what the person at the console should know of the models that stay loaded."""
        lines = self.controller.stop()
        self._monitor.stop()
        self._catalog.stop()
        self._store.close()
        return lines

    def end_everything(self) -> tuple[str, ...]:
        """End all models while no Warden runs. Raises AlreadyRunning."""
        return self.controller.end_everything()


def build_services(settings: Settings) -> Services:
    """Return the parts for ``settings``, none of them started."""
    return Services(settings)
