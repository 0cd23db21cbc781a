"""Write what people rely on, in one thread: before the answer if a caller waits for it, else as soon as the database
accepts it.

A write that a caller waits for has a deadline, precedes the others, and is refused if it fails: nothing was changed
then. The others are retried until they succeed, each key with its newest value only. The same thread notices that the
database was deleted or replaced, has the values in memory written into the new one, and retries a failed database until
it works again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Final, Protocol

from webapp.domain.keeping import StoreTrouble
from webapp.errors import NotStored, StoreUnavailable
from webapp.message import Message, Param

log = logging.getLogger(__name__)

DEADLINE_S: Final = 1.0
"""How long a caller waits for a write before it counts as refused."""
PLACE_S: Final = 0.1
"""How long a request waits for one of the places for waiting requests, while the database works."""
PLACES: Final = 4
RETRY_S: Final = 1.0
"""How long a failed database is left alone, and how often its file is checked for existence."""
TIDY_S: Final = 86_400.0
"""How often old entries are deleted."""
PENDING_LIMIT: Final = 2000
"""Writes that wait for an unresponsive database, some 4 KB each; further ones are lost, and the page reports it."""
DRAIN_S: Final = 5.0
"""How long a stop waits for values that have not been written yet."""

Act = Callable[[], None]


class WatchedStore(Protocol):
    """The database that is watched."""

    def look(self) -> bool:
        """Return whether the database was deleted or replaced, and has been reopened; after a failed write, try one.

        Raises StoreUnavailable: nothing can be written now.
        """


@dataclass(eq=False)
class _Write:
    """A write that a caller waits for."""

    act: Act
    done: threading.Event = field(default_factory=threading.Event)
    error: StoreUnavailable | None = None


class Keeper:
    """The writing thread. ``places`` is how many requests may wait for it at once: a quarter of their threads."""

    def __init__(
        self,
        store: WatchedStore,
        places: int = PLACES,
        deadline_s: float = DEADLINE_S,
        retry_s: float = RETRY_S,
        drain_s: float = DRAIN_S,
    ) -> None:
        self._store = store
        self._places = threading.BoundedSemaphore(places)
        self._deadline_s = deadline_s
        self._retry_s = retry_s
        self._drain_s = drain_s
        self._changed = threading.Condition()
        self._urgent: deque[_Write] = deque()
        self._pending: dict[str, Act] = {}
        self._is_writing = False
        self._lost = 0
        self._failure: StoreUnavailable | None = None
        self._pending_at = self._look_at = self._tidy_at = 0.0
        """When, by the monotonic clock, pending writes are retried, the file is checked, and old entries are deleted.
        """
        self._write_again: Callable[[], None] = lambda: None
        self._tidy: Callable[[], bool] = lambda: False
        self._is_stopping = False
        self._stop_by = 0.0
        """When, by the monotonic clock, a stop gives up."""
        self._thread: threading.Thread | None = None

    def start(self, write_again: Callable[[], None] = lambda: None, tidy: Callable[[], bool] = lambda: False) -> None:
        """Start writing. ``write_again`` writes all values in memory into a recreated database; ``tidy`` is called
        once a day, and again soon while it returns that there is more. Both may raise StoreUnavailable.
        """
        self._write_again, self._tidy = write_again, tidy
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="warden-keeper", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Write the remaining values, retrying for a few seconds at most, and stop."""
        with self._changed:
            self._is_stopping, self._pending_at = True, 0.0
            self._stop_by = time.monotonic() + self._drain_s
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(self._drain_s + self._deadline_s)
            self._thread = None
        if self._pending:
            log.error("the database did not take %s things, which are lost", len(self._pending))

    @property
    def trouble(self) -> Message | None:
        """Why nothing can be stored now; ``None`` if everything can."""
        failure = self._failure
        if failure is None:
            return None
        params: dict[str, Param] = {
            "file": failure.params.get("file"),
            "detail": failure.params.get("reason"),
            "lost": self._lost,
        }
        return Message(f"keeping_{_trouble(failure)}", params)

    def later(self, key: str, act: Act) -> bool:
        """Queue ``act`` to write ``key``, replacing its previous write; never waits.

        Returns False if too many writes are pending: this one is lost.
        """
        with self._changed:
            if key not in self._pending and len(self._pending) >= PENDING_LIMIT:
                self._lost += 1
                return False
            self._pending[key] = act
            self._changed.notify_all()
            return True

    def now(self, act: Act, *, in_request: bool = True) -> None:
        """Write before this returns. A request takes one of the places for that; an operation's own thread needs none.

        Raises:
            NotStored: the database did not accept it in time. It may still do so: the caller must have the present
            value written again.
        """
        deadline = time.monotonic() + self._deadline_s
        with self.place() if in_request else nullcontext():
            self._wait_for(_Write(act), deadline)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Take one of the places for requests that wait for a write, their own or another's. Raises NotStored if none
        is free.
        """
        if not self._places.acquire(timeout=0 if self._failure is not None else PLACE_S):
            raise self._refusal()
        try:
            yield
        finally:
            self._places.release()

    def flush(self, timeout_s: float = DRAIN_S) -> bool:
        """Wait until everything is written; False if that took too long."""
        with self._changed:
            return self._changed.wait_for(lambda: not (self._pending or self._urgent or self._is_writing), timeout_s)

    def _wait_for(self, write: _Write, deadline: float) -> None:
        with self._changed:
            self._urgent.append(write)
            self._changed.notify_all()
        if not write.done.wait(max(0.0, deadline - time.monotonic())):
            with self._changed:
                if write in self._urgent:
                    self._urgent.remove(write)
            self._failure = self._failure or StoreUnavailable(
                reason=f"no answer within {self._deadline_s} s", trouble=StoreTrouble.SLOW.value
            )
            raise self._refusal()
        if write.error is not None:
            raise not_stored(write.error) from write.error

    def _refusal(self) -> NotStored:
        return not_stored(self._failure or StoreUnavailable(trouble=StoreTrouble.SLOW.value))

    # The thread

    def _run(self) -> None:
        while (act := self._next()) is not None:
            act()
            with self._changed:
                self._is_writing = False
                self._changed.notify_all()

    def _next(self) -> Act | None:
        """Wait for the next task: first a write that a caller waits for, then a check, then pending writes; ``None`` at
        the end.
        """
        with self._changed:
            while True:
                now = time.monotonic()
                self._is_writing = True
                if self._urgent:
                    write = self._urgent.popleft()
                    return lambda: self._write_urgent(write)
                if now >= self._look_at and not self._is_stopping:
                    return self._look
                if self._pending and now >= self._pending_at:
                    key = next(iter(self._pending))
                    act = self._pending.pop(key)
                    return lambda: self._write_pending(key, act)
                self._is_writing = False
                if self._is_stopping and (not self._pending or now >= self._stop_by):
                    return None
                due = self._stop_by if self._is_stopping else self._look_at
                self._changed.wait(max(0.0, (min(due, self._pending_at) if self._pending else due) - now))

    def _write_urgent(self, write: _Write) -> None:
        try:
            self._carry_out(write.act)
        except StoreUnavailable as exc:
            write.error = exc
        except Exception:
            log.exception("what somebody waits for could not be written down")
            write.error = StoreUnavailable(trouble=StoreTrouble.FAILED.value)
        write.done.set()

    def _write_pending(self, key: str, act: Act) -> None:
        try:
            self._carry_out(act)
        except StoreUnavailable:
            with self._changed:
                self._pending.setdefault(key, act)  # at the end: a problem with one write does not hold up the others
                self._pending_at = time.monotonic() + self._retry_s
        except Exception:
            log.exception("%s could not be written down", key)

    def _carry_out(self, act: Act) -> None:
        """Write; once more if the database was deleted or replaced and is available again. Raises StoreUnavailable."""
        try:
            try:
                act()
            except StoreUnavailable as exc:
                if exc.params.get("trouble") != StoreTrouble.GONE.value or not self._is_renewed():
                    raise
                act()
        except StoreUnavailable as exc:
            self._note(exc)
            raise
        self._note(None)

    def _look(self) -> None:
        try:
            self._is_renewed()
            if time.monotonic() >= self._tidy_at and not self._tidy():
                self._tidy_at = time.monotonic() + TIDY_S
        except StoreUnavailable as exc:
            self._note(exc)
        except Exception:
            log.exception("a look at the database failed")
        else:
            self._note(None)
        self._look_at = time.monotonic() + self._retry_s

    def _is_renewed(self) -> bool:
        """Return whether the database was recreated or reopened; all values in memory must then be written again.
        Raises StoreUnavailable.
        """
        if not self._store.look():
            return False
        self._write_again()
        return True

    def _note(self, failure: StoreUnavailable | None) -> None:
        if failure is not None and self._failure is None:
            log.error("nothing can be written down until the database takes it: %s", failure)
        if failure is None and self._failure is not None:
            log.warning("the database takes what is written again; %s things were lost", self._lost)
            self._lost = 0
            self._pending_at = 0.0
        self._failure = failure


def _trouble(failure: StoreUnavailable) -> StoreTrouble:
    return StoreTrouble(str(failure.params.get("trouble", StoreTrouble.FAILED.value)))


def not_stored(failure: StoreUnavailable) -> NotStored:
    """Return the refusal of a write that failed with ``failure``."""
    return NotStored(reason=f"store_{_trouble(failure)}")
