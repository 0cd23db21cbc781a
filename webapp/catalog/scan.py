"""The Hugging Face cache as a list of models: one thread scans for changes, all others read the latest list."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from webapp.catalog.entry import FACT_FILES, PREFIX, CacheEntry, LoadPolicy, describe, find_entry, misread, unreadable
from webapp.catalog.files import printable
from webapp.domain.model import CachedModel
from webapp.message import Message

log = logging.getLogger(__name__)

Signature = tuple[tuple[int, int, int] | None, ...]

_STOP_WAIT_S = 10.0
_TICK_S = 0.1
_WEIGHTS_A_LOOK = 500
"""The approximate number of weight files of complete models that one scan checks; larger caches are checked in turns.
"""
_BLOBS = "../../blobs/"


@dataclass(frozen=True)
class CatalogView:
    """The models of the cache at one moment, sorted by id.

    ``problem`` says why the cache cannot be read; a cache that is empty or does not exist yet is not a problem.
    ``scanned_at`` is the end of the last scan, in seconds since the epoch, ``None`` before the first.
    """

    models: tuple[CachedModel, ...] = ()
    problem: Message | None = None
    scanned_at: float | None = None


@dataclass(frozen=True)
class _WatchedPaths:
    """Paths and their signatures; as bytes, since a scan asks the kernel for thousands and creating path objects would
    double the cost.
    """

    paths: tuple[bytes, ...]
    signature: Signature

    def is_unchanged(self) -> bool:
        """Return whether all signatures are unchanged."""
        return _signature(self.paths) == self.signature


@dataclass(frozen=True)
class _KnownFolder:
    """The result of reading one repository's folder, and the signatures of its files at that moment."""

    places: _WatchedPaths
    """The folders, in which each new, removed or renamed file shows, and the small files, which are written in place.
    """
    weights: _WatchedPaths
    """The files of weights: only an unfinished copy, or a failing disk, changes one in place."""
    is_settled: bool
    """False while the files were still changing; they are then read again."""
    model: CachedModel | None

    @property
    def is_whole(self) -> bool:
        """Whether nothing is missing that may be downloaded at any moment."""
        return self.model is not None and self.model.problem is None


class Catalog:
    """Keeps the list of cached models up to date.

    Each scan compares the times and sizes of an entry's folders and files with those of the last scan and reads only
    what has changed. If there are thousands of files, the weight files of complete models are compared in turns, over
    the next few scans: a download never changes them in place, and the files that it adds or removes show in the
    folders. ``latest`` reads a reference and never waits.
    """

    def __init__(
        self,
        cache_dir: Path,
        poll_s: float = 2.0,
        allow_pickle: bool = False,
        allow_remote_code: bool = False,
        clock: Callable[[], float] = time.time,
        describe: Callable[[CacheEntry, LoadPolicy], CachedModel] = describe,
    ) -> None:
        self._describe = describe
        self._cache_dir = cache_dir
        self._poll_s = poll_s
        self._policy = LoadPolicy(allow_pickle=allow_pickle, allow_remote_code=allow_remote_code)
        self._clock = clock
        self._view = CatalogView()
        self._known: dict[str, _KnownFolder] = {}
        self._looks = 0
        self._looking = threading.Lock()
        self._news = threading.Condition()
        self._asked = 0
        self._answered = 0
        self._stopping = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start scanning for changes; the first list is available a moment later."""
        if self._thread is not None:
            return
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="catalog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop scanning; idempotent."""
        with self._news:
            self._stopping = True
            self._news.notify_all()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(_STOP_WAIT_S)

    def latest(self) -> CatalogView:
        """Return the latest list; never waits."""
        return self._view

    def rescan(self, timeout_s: float = 10.0) -> bool:
        """Wake the thread and wait for a scan that begins after the call; False after ``timeout_s`` without one."""
        with self._news:
            self._asked += 1
            mine = self._asked
            self._news.notify_all()
            self._news.wait_for(lambda: self._answered >= mine or self._stopping, timeout_s)
            return self._answered >= mine

    def look(self, *, in_turns: bool = False) -> CatalogView:
        """Scan the cache once, in the calling thread, and return the list; checks every file, or only some weights
        ``in_turns``.
        """
        with self._looking:
            models, problem = self._models(in_turns)
            self._view = CatalogView(models, problem, self._clock())
            return self._view

    def _run(self) -> None:
        while True:
            with self._news:
                if self._stopping:
                    return
                asked, in_turns = self._asked, self._asked == self._answered
            self._look_safely(in_turns)
            with self._news:
                self._answered = max(self._answered, asked)
                self._news.notify_all()
                if not self._stopping and self._asked == asked:
                    self._news.wait(self._poll_s)

    def _look_safely(self, in_turns: bool) -> None:
        try:
            self.look(in_turns=in_turns)
        except Exception as exc:  # the top of the thread: an unexpected error must not stop the updates
            log.exception("The model cache could not be read")
            problem = _unreadable(self._cache_dir, f"{type(exc).__name__}: {exc}")
            self._view = CatalogView(self._view.models, problem, self._clock())

    def _models(self, in_turns: bool) -> tuple[tuple[CachedModel, ...], Message | None]:
        try:
            names = [name for name in os.listdir(self._cache_dir) if name.startswith(PREFIX)]  # noqa: PTH208
        except FileNotFoundError:
            names = []
        except OSError as exc:
            self._known = {}
            return (), _unreadable(self._cache_dir, exc.strerror or str(exc))
        turns = self._turns() if in_turns else 1
        self._looks += 1
        self._known = {name: self._look_at(name, turns) for name in names}
        models = (known.model for known in self._known.values() if known.model is not None)
        return tuple(sorted(models, key=lambda model: model.id)), None

    def _turns(self) -> int:
        """Return after how many scans each file has been checked once."""
        files = sum(len(known.weights.paths) for known in self._known.values() if known.is_whole)
        return -(-files // _WEIGHTS_A_LOOK) or 1

    def _look_at(self, name: str, turns: int) -> _KnownFolder:
        known = self._known.get(name)
        if known is not None and known.is_settled and known.places.is_unchanged():
            is_its_turn = not known.is_whole or (hash(name) + self._looks) % turns == 0
            if not is_its_turn or known.weights.is_unchanged():
                return known
        return _read(self._cache_dir / name, lambda entry: self._describe(entry, self._policy), self._clock())


def _read(repository: Path, describe: Callable[[CacheEntry], CachedModel], now: float) -> _KnownFolder:
    """Read a repository's folder; any problem is reported for its own model.

    Each part of the signature is taken before that part is read, so that the next scan sees a change in between.
    """
    places = _watched([f"{repository}/{part}" for part in ("refs/main", "blobs", "snapshots")])
    weights = _watched([])
    try:
        entry = find_entry(repository)
        if entry is not None and entry.revision:
            snapshot = _watched([str(entry.snapshot)])
            # Include the files that were read: a download uses new names, but a person may truncate or edit a file in
            # place.
            names = _names(entry.snapshot)
            facts = _watched([_data_of(entry, name) for name in names if name in FACT_FILES])
            weights = _watched([_data_of(entry, name) for name in names if name.endswith(".safetensors")])
            places = _joined(places, snapshot, facts)
        model = None if entry is None else describe(entry)
    except OSError as exc:
        model = unreadable(repository, exc)
    except Exception as exc:  # around one entry: an error in it must not hide the others
        log.exception("The cache entry %s could not be read", repository)
        model = misread(repository, exc)
    return _KnownFolder(places, weights, _is_settled(places.signature + weights.signature, now), model)


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208
    except OSError:
        return []


def _data_of(entry: CacheEntry, name: str) -> str:
    """Return the path by which a snapshot's file is checked: its blob's, which saves the kernel from following the
    link.

    A link that replaces another changes its folder, which is watched.
    """
    link = f"{entry.snapshot}/{name}"
    try:
        target = os.readlink(link)  # noqa: PTH115
    except OSError:
        return link
    blob = target.removeprefix(_BLOBS)
    is_usual = blob != target and "/" not in blob and entry.is_plain
    return f"{entry.repository}/blobs/{blob}" if is_usual else link


def _watched(paths: Iterable[str]) -> _WatchedPaths:
    names = tuple(os.fsencode(path) for path in paths)
    return _WatchedPaths(names, _signature(names))


def _joined(*parts: _WatchedPaths) -> _WatchedPaths:
    return _WatchedPaths(
        tuple(path for part in parts for path in part.paths), tuple(look for part in parts for look in part.signature)
    )


def _signature(paths: Iterable[bytes]) -> Signature:
    """Return time, size and number of each of ``paths``, ``None`` for missing ones; a change of mode changes the time
    too.
    """
    return tuple([_look_of(path) for path in paths])


def _look_of(path: bytes) -> tuple[int, int, int] | None:
    try:
        info = os.stat(path)  # noqa: PTH116  a Path for each of thousands of files costs as much as the call
    except OSError:
        return None
    return (info.st_ctime_ns, info.st_size, info.st_ino)


def _is_settled(signature: Signature, now: float) -> bool:
    """Return False if a file changed just now.

    A file system's clock ticks every few milliseconds, and a second change within the same tick would leave no trace.
    """
    newest = max((look[0] for look in signature if look is not None), default=0)
    return newest / 1e9 < now - _TICK_S


def _unreadable(cache_dir: Path, detail: str) -> Message:
    return Message("cache_unreadable", {"path": printable(str(cache_dir)), "detail": printable(detail)})
