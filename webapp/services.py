"""The composition root: the one place that names concrete classes, and starts and stops them in order."""

from __future__ import annotations

import logging
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from webapp.audit.trail import Audit
from webapp.auth.accounts import Accounts, SessionLimits, nobody
from webapp.auth.passwords import Passwords
from webapp.catalog.scan import Catalog
from webapp.control.calibration import Calibrator
from webapp.control.context import Context
from webapp.control.controller import Controller
from webapp.control.journal import Journal
from webapp.control.keeping import Keeper
from webapp.control.lock import StateLock, last_holder
from webapp.control.pausing import PauseMark
from webapp.control.recorder import Recorder, Timeline
from webapp.control.state import ControllerState, StateStore
from webapp.control.terms import Leases
from webapp.domain.instance import InstanceState
from webapp.domain.modes import Mode
from webapp.domain.people import Permission
from webapp.domain.selftest import Witness
from webapp.domain.units import GIB
from webapp.errors import AlreadyRunning, ConfigurationError, SandboxFailed, WardenError
from webapp.hardware.holders import Holders
from webapp.hardware.host import HOST_ID, HostProbe
from webapp.hardware.monitor import Monitor
from webapp.hardware.nvml import NvmlProbe
from webapp.runtimes import extras
from webapp.runtimes.base import Runtime
from webapp.runtimes.demo import DemoProgram
from webapp.runtimes.launcher import Launcher
from webapp.runtimes.transformers.command import worker_environment
from webapp.runtimes.transformers.runtime import TransformersRuntime
from webapp.settings import Settings, is_local, setting_notes, sqlite_url
from webapp.store.audit import AuditRepository
from webapp.store.database import Database
from webapp.store.leases import LeaseRepository
from webapp.store.measurements import MeasurementRepository
from webapp.store.operations import OperationRepository
from webapp.store.people import PeopleRepository
from webapp.store.queue import QueueRepository
from webapp.store.timeline import TimelineRepository
from webapp.store.urls import misconfigured, shown_database

if TYPE_CHECKING:
    from webapp.runtimes.vllm.runtime import VllmRuntime

log = logging.getLogger(__name__)

SANDBOXES = "selftest"
"""The folder in the state folder that self-tests work in."""
HOUR_S = 3600.0
DAY_S = 86_400.0
FIRST_READING_S = 2.0
"""How long a start waits for the first reading; a driver that hangs does not keep the page from coming up."""


class _OwnSandbox:
    """A sandbox (``control.context.Sandbox``) with Transformers mode only, its own cache and store, and the real
    Warden's readings.
    """

    def __init__(self, settings: Settings, monitor: Monitor, launcher: Launcher | None) -> None:
        self._folder = settings.storage.state_dir
        self._database = Database(settings.storage.database)
        self._transformers = TransformersRuntime(settings, launcher)
        self._catalog = Catalog(settings.models.hf_cache, settings.models.cache_poll_s)
        keeper, state_store = Keeper(self._database), StateStore()
        self.controller = Controller(
            Context(
                settings=settings,
                state_store=state_store,
                keeper=keeper,
                journal=Journal(OperationRepository(self._database), keeper, state_store),
                monitor=monitor,
                catalog=self._catalog,
                runtimes={Mode.TRANSFORMERS: self._transformers},
                demo=DemoProgram(settings.models.hf_cache),
                clock=time.time,
                monotonic=time.monotonic,
            ),
            StateLock(settings.storage.state_dir),
        )

    def start(self) -> None:
        """Start the sandbox. Raises ConfigurationError, StoreUnavailable."""
        self._database.open()
        self._catalog.start()
        self.controller.start()

    def stop(self) -> None:
        """Stop the sandbox, and end all of its processes."""
        self.controller.stop()
        self._catalog.stop()
        self._database.close()

    def processes(self) -> Mapping[int, str]:
        """Return the pids of the live models, with the instance of each; see ``Sandbox``."""
        return self._transformers.processes()


def _start(sandbox: _OwnSandbox) -> None:
    """Start ``sandbox``. Raises SandboxFailed."""
    try:
        sandbox.start()
    except WardenError as exc:
        raise SandboxFailed(detail=str(exc)) from exc


class Sandboxes:
    """Creates sandboxes, one at a time per state folder; see ``SandboxMaker``. The leftovers of a killed one are
    removed before the next one is created, and at every start.
    """

    def __init__(self, settings: Settings, monitor: Callable[[], Monitor], launcher: Launcher | None = None) -> None:
        self._settings = settings
        self._launcher = launcher
        self._root = settings.storage.state_dir.absolute() / SANDBOXES
        self._monitor = monitor
        self._open: _OwnSandbox | None = None

    @contextmanager
    def open(self, limit_bytes: int) -> Iterator[_OwnSandbox]:
        """Yield a sandbox; see ``SandboxMaker``."""
        lock = StateLock(self._root)
        settings = self._settings_in(self._root / secrets.token_hex(6), limit_bytes)
        try:
            lock.take()
            self._remove_all()
            self._open = sandbox = _OwnSandbox(settings, self._monitor(), self._launcher)
        except AlreadyRunning:
            raise
        except WardenError as exc:
            lock.release()
            raise SandboxFailed(detail=str(exc)) from exc
        try:
            _start(sandbox)
            yield sandbox
        finally:
            sandbox.stop()
            self._open = None
            try:
                self._remove_all()
            finally:
                lock.release()

    def witnesses(self) -> Mapping[str, Witness]:
        """Return the host's memory from a second source; see ``SandboxMaker``."""
        memory = psutil.virtual_memory()
        return {HOST_ID: Witness(memory.total, memory.available)}

    def processes(self) -> Mapping[int, str]:
        """Return the pids of the open sandbox's models, with the instance of each. Never waits."""
        sandbox = self._open
        return {} if sandbox is None else sandbox.processes()

    def remove_leftovers(self) -> None:
        """Remove the leftovers of a killed self-test; a running one is left alone."""
        if not self._root.is_dir():
            return
        lock = StateLock(self._root)
        try:
            lock.take()
            self._remove_all()
        except WardenError as exc:
            log.warning("what a self-test left is not removed: %s", exc)
        finally:
            lock.release()

    def _settings_in(self, folder: Path, limit_bytes: int) -> Settings:
        changes: dict[str, object] = {
            "state_dir": folder,
            "hf_cache": folder / "cache",
            "database_url": None,
            "memory_limit_gib": limit_bytes / GIB,
            "idle_unload_minutes": 0.0,
            "on_stop": "unload",
            "allow_pickle": False,
            "allow_remote_code": False,
        }
        return self._settings.changed(**changes)

    def _remove_all(self) -> None:
        """Remove every sandbox: first its processes, then its folder. Raises SandboxFailed."""
        for folder in [path for path in self._root.iterdir() if path.is_dir()]:
            runtime = TransformersRuntime(self._settings.changed(state_dir=folder))
            left = runtime.reap(frozenset)
            if not all(one.ok for one in left):
                raise SandboxFailed(detail=f"processes of {folder} are still there")
            shutil.rmtree(folder, ignore_errors=True)
            if folder.exists():
                raise SandboxFailed(detail=f"{folder} cannot be removed")


class Services:
    """All parts of a running Warden. The constructor only builds them; ``start`` and ``stop`` act. ``make_journal``
    creates the journal.
    """

    def __init__(
        self, settings: Settings, make_journal: Callable[[OperationRepository, Keeper, StateStore], Journal] = Journal
    ) -> None:
        self.settings = settings
        self._lock = StateLock(settings.storage.state_dir, shown_database(settings.storage.database))
        self._database = Database(settings.storage.database)
        operations = OperationRepository(self._database)
        points = TimelineRepository(self._database)
        self.audit = _audit(settings, self._database)
        self._state_store = StateStore()
        self.accounts = _accounts(settings, self._database, lambda: owners(self._state_store.state))
        self._launcher = _launcher(settings)
        self._transformers = TransformersRuntime(settings, self._launcher)
        self._vllm = _vllm(settings)
        self._catalog = Catalog(
            settings.models.hf_cache,
            settings.models.cache_poll_s,
            settings.models.allow_pickle,
            settings.models.allow_remote_code,
        )
        self._sandboxes = Sandboxes(settings, lambda: self._monitor, self._launcher)
        holders = Holders(
            workers=self._workers,
            containers=dict if self._vllm is None else self._vllm.containers,
            launchers=self._launchers,
        )
        self._monitor = Monitor(
            (NvmlProbe(holders), HostProbe(holders)),
            settings.monitor.reading_interval_s,
            settings.monitor.busy_reading_interval_s,
            settings.monitor.history_minutes * 60,
            settings.monitor.stale_after_s,
        )
        self._keeper = Keeper(self._database, places=max(1, settings.server.threads // 4))
        self.controller = Controller(
            Context(
                settings=settings,
                state_store=self._state_store,
                keeper=self._keeper,
                journal=make_journal(operations, self._keeper, self._state_store),
                monitor=self._monitor,
                catalog=self._catalog,
                runtimes=_runtimes(self._transformers, self._vllm),
                containers=self._vllm,
                sandboxes=self._sandboxes,
                calibrator=Calibrator(MeasurementRepository(self._database), self._keeper),
                queue_store=QueueRepository(self._database),
                pause_mark=PauseMark(settings.storage.state_dir),
                leases=Leases(LeaseRepository(self._database), self._keeper),
                may_switch=self._may_switch,
                record=self.audit.record,
                demo=DemoProgram(settings.models.hf_cache),
                clock=time.time,
                monotonic=time.monotonic,
            ),
            self._lock,
        )
        self._recorder = Recorder(self._monitor, lambda: self._state_store.state.instances, points)
        self.timeline = Timeline(self._monitor, points, operations)

    def start(self, addresses: Iterable[str] = ()) -> None:
        """Start everything. ``addresses`` are those that the server listens on, if they may differ from the setting.

        Raises:
            AlreadyRunning, ConfigurationError: see ``StateLock``; or strangers could reach a page without sign-in; or a
                relative database is where earlier versions had it.
            StoreUnavailable: the database cannot be opened.
        """
        logging.basicConfig(
            level=self.settings.server.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
        )
        for chatty in ("alembic", "httpx"):  # httpx logs every request with its address
            logging.getLogger(chatty).setLevel(logging.WARNING)
        for note in setting_notes():
            log.warning("%s", note)
        if (left := self.settings.storage.database_left_behind) is not None:
            raise misconfigured(
                str(left), "earlier versions looked for it here: move it into the state folder, or give its full path"
            )
        self._lock.take()
        if (unopened := self._database.open_or_read()) is not None:
            log.error(
                "nothing that happens is kept until this is mended, without a restart: %s", unopened.params["reason"]
            )
        self._refuse_strangers([self.settings.server.bind, *addresses])
        self.audit.start()
        self._sandboxes.remove_leftovers()
        self._catalog.start()
        self._monitor.start()
        if self._monitor.fresh(FIRST_READING_S) is None:
            log.warning("the devices did not answer within %s s; the page says so until they do", FIRST_READING_S)
        self.controller.start()
        self._recorder.start()
        if self._launcher is not None and self.settings.launch.launcher == "start":
            self._launcher.start()

    def _may_switch(self, name: str) -> bool:
        """Return whether a person may load models now; without accounts there is only one person, who may. Raises
        StoreUnavailable.
        """
        alone = (
            self.settings.server.is_local and not self.settings.auth.has_proxy and not self.accounts.has_administrator()
        )
        return alone or self.accounts.has_permission(name, Permission.SWITCH)

    def _refuse_strangers(self, addresses: Iterable[str]) -> None:
        """Raise ConfigurationError if other machines can reach, at one of ``addresses``, a page without sign-in."""
        reached = next((address for address in addresses if not is_local(address)), None)
        if reached is None or self.settings.auth.has_proxy or self.accounts.has_administrator():
            return
        raise ConfigurationError(
            setting="WARDEN_BIND",
            value=reached,
            detail=f"{reached} can be reached from other machines, and there is no administrator yet: "
            "make one with `warden users add NAME --role administrator`, or bind to 127.0.0.1",
        )

    def stop(self) -> tuple[str, ...]:
        """Stop everything; return lines for the console about the models that stay loaded."""
        self._recorder.stop()
        lines = self.controller.stop()
        self._stop_launcher()
        self._monitor.stop()
        self._catalog.stop()
        self.audit.stop()
        self._database.close()
        return lines

    def _stop_launcher(self) -> None:
        if self._launcher is not None:
            self._launcher.stop()

    def _launchers(self) -> frozenset[int]:
        running = None if self._launcher is None else self._launcher.pid()
        return self._transformers.heirs() | (frozenset() if running is None else {running})

    def _workers(self) -> Mapping[int, str]:
        return {**self._transformers.processes(), **self._sandboxes.processes()}

    @contextmanager
    def beside(self) -> Iterator[tuple[str, ...]]:
        """Let the controller run self-tests while no Warden serves; yield the names of the models that stayed loaded.

        Only what a self-test needs is started. The state folder is not locked; its models are only inspected, and count
        as loaded.
        """
        self._database.open()
        self._monitor.start()
        if self._vllm is not None:
            self._vllm.start()
        self._monitor.fresh(FIRST_READING_S)
        found = [one.instance for one in self._transformers.discover() if one.instance.state is InstanceState.READY]
        for instance in found:
            self._state_store.put(instance)
        self._keeper.start()
        self._state_store.accept(True)
        try:
            yield tuple(instance.model_id for instance in found)
        finally:
            self.controller.end_operations()
            self._stop_launcher()
            self._keeper.stop()
            if self._vllm is not None:
                self._vllm.stop()
            self._monitor.stop()
            self._database.close()

    def end_everything(self) -> tuple[str, ...]:
        """End all models while no Warden runs. Raises AlreadyRunning."""
        return self.controller.end_everything()


def _launcher(settings: Settings) -> Launcher | None:
    """Return the launcher that forks workers; ``None`` if the settings want none, or if there are no libraries to
    import.
    """
    if settings.launch.forks_workers and extras.are_installed(Mode.TRANSFORMERS):
        return Launcher(settings.storage.state_dir, worker_environment())
    return None


def _vllm(settings: Settings) -> VllmRuntime | None:
    """Return the runtime of vLLM mode; ``None`` if Docker's client is not installed."""
    if not extras.are_installed(Mode.VLLM):
        return None
    from webapp.runtimes.vllm.runtime import VllmRuntime  # noqa: PLC0415  Docker's client is an extra

    return VllmRuntime(settings)


def _runtimes(transformers: TransformersRuntime, vllm: VllmRuntime | None) -> Mapping[Mode, Runtime]:
    always: dict[Mode, Runtime] = {Mode.TRANSFORMERS: transformers}
    return always if vllm is None else {**always, Mode.VLLM: vllm}


def owners(state: ControllerState) -> frozenset[str]:
    """Return the names of the people who own models or operations now."""
    return frozenset((*(one.owner for one in state.instances.values()), *(one.actor for one in state.running.values())))


def _accounts(settings: Settings, database: Database, owners: Callable[[], Collection[str]] = nobody) -> Accounts:
    limits = SessionLimits(settings.auth.session_idle_hours * HOUR_S, settings.auth.session_hours * HOUR_S)
    return Accounts(PeopleRepository(database), Passwords(), limits, time.time, owners)


def _audit(settings: Settings, database: Database) -> Audit:
    return Audit(AuditRepository(database), settings.storage.audit_days * DAY_S)


@dataclass(frozen=True)
class AccountsLocation:
    """The database of the accounts, and what is known of a Warden that uses it."""

    state_dir: Path
    database: str
    """The database, without a password."""
    is_known: bool
    """Whether a Warden has ever run with the database."""
    is_running: bool | None
    """Whether a Warden uses the database now; ``None`` if the state folder does not show it."""
    pid: str = ""
    other_database: str = ""
    """The database that the Warden of the state folder uses instead."""


def place_of(settings: Settings) -> AccountsLocation:
    """Return where the accounts are stored; nothing is created.

    Raises:
        StoreUnavailable, ConfigurationError
    """
    folder, database = settings.storage.state_dir, shown_database(settings.storage.database)
    holder = last_holder(folder)
    if holder is not None and holder.database == database:
        return AccountsLocation(folder, database, True, holder.is_running, holder.pid)
    is_known = Database(settings.storage.database).has_served()
    if holder is not None and not holder.database and is_known:  # a version that did not write its database down
        return AccountsLocation(folder, database, True, holder.is_running, holder.pid)
    other = "" if holder is None else holder.database
    return AccountsLocation(folder, database, is_known, None if is_known else False, other_database=other)


@contextmanager
def open_accounts(settings: Settings) -> Iterator[Accounts]:
    """Yield the accounts alone, whether or not a Warden is running. Raises StoreUnavailable, ConfigurationError."""
    with open_people(settings) as (accounts, _):
        yield accounts


@contextmanager
def open_people(settings: Settings) -> Iterator[tuple[Accounts, Audit]]:
    """Yield the accounts and the record of changes to them, which is written at the end. Raises StoreUnavailable,
    ConfigurationError.
    """
    database = Database(settings.storage.database)
    database.open()
    audit = _audit(settings, database)
    try:
        yield _accounts(settings, database), audit
    finally:
        try:
            audit.flush()
        finally:
            database.close()


def build_services(settings: Settings) -> Services:
    """Return the parts for ``settings``, none of them started."""
    return Services(settings)


@contextmanager
def services_beside(settings: Settings) -> Iterator[tuple[Services, tuple[str, ...]]]:
    """Yield services that can run a self-test without a server, and the models that stayed loaded; the history is not
    touched. They require no sign-in, and nobody else can reach them.
    """
    with tempfile.TemporaryDirectory(prefix="warden-selftest-") as folder:
        alone = {"database_url": sqlite_url(Path(folder, "warden.db")), "proxy_user_header": None, "bind": "127.0.0.1"}
        services = Services(settings.changed(**alone))
        with services.beside() as loaded:
            yield services, loaded
