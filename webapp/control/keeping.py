"""Writes what people rely on, by one thread: before the answer where somebody waits for it, else as soon as the database takes it.

A write that somebody waits for has a deadline, comes before the others, and is refused when it fails: nothing was done then. The others are
tried again until they succeed, of each thing only the newest value. The same thread notices that the database was deleted or replaced,
has what is in memory written into the new one, and tries a database that failed until it works again.
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
"""How long somebody waits for a write before it counts as refused."""
PLACE_S: Final = 0.1
"""How long a request waits for a place among those that wait, while the database works."""
PLACES: Final = 4
RETRY_S: Final = 1.0
"""How long a database that has failed is left alone, and how often is looked whether its file is still there."""
TIDY_S: Final = 86_400.0
"""How often old entries are dropped."""
PENDING_LIMIT: Final = 2000
"""Things that wait for a database that does not answer, some 4 KB each; what comes after that many is lost, and the page says so."""
DRAIN_S: Final = 5.0
"""How long a stop waits for what is not written yet."""

Act = Callable[[], None]


class WatchedStore(Protocol):
    """What is watched."""

    def look(self) -> bool:
        """Return whether the database was deleted or replaced, and is open anew; where a write has failed, try one.

        Raises StoreUnavailable: nothing can be written now.
        """


@dataclass(eq=False)
class _Write:
    """A write that somebody waits for."""

    act: Act
    done: threading.Event = field(default_factory=threading.Event)
    error: StoreUnavailable | None = None


class Keeper:
    """The thread. ``places`` is how many requests may wait for it at once: a quarter of their threads."""

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
        """When, by the monotonic clock, what waits is tried again, the file is looked at, and old entries are dropped."""
        self._write_again: Callable[[], None] = lambda: None
        self._tidy: Callable[[], bool] = lambda: False
        self._is_stopping = False
        self._stop_by = 0.0
        """When, by the monotonic clock, a stop gives up."""
        self._thread: threading.Thread | None = None

    def start(self, write_again: Callable[[], None] = lambda: None, tidy: Callable[[], bool] = lambda: False) -> None:
        """Begin to write. ``write_again`` has all that is in memory written, into a database that was made anew; ``tidy`` is called
        once a day, and again soon while it returns that there is more. Both may raise StoreUnavailable."""
        self._write_again, self._tidy = write_again, tidy
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="warden-keeper", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Write what is left, trying again for some seconds at most, and end."""
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
        """Why nothing can be kept now; ``None`` while everything can."""
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
        """Have ``act`` write ``key`` down, in the place of what was to write it before; never waits.

        Returns False where too much waits already: it is lost.
        """
        with self._changed:
            if key not in self._pending and len(self._pending) >= PENDING_LIMIT:
                self._lost += 1
                return False
            self._pending[key] = act
            self._changed.notify_all()
            return True

    def now(self, act: Act, *, in_request: bool = True) -> None:
        """Write before this returns. A request takes one of their places for that; an operation's own thread needs none.

        Raises:
            NotStored: the database did not take it in time. It may still have: who is refused has what stands written again.
        """
        deadline = time.monotonic() + self._deadline_s
        with self.place() if in_request else nullcontext():
            self._wait_for(_Write(act), deadline)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Take one of the places of requests that wait for a write, their own or another's. Raises NotStored where none is free."""
        if not self._places.acquire(timeout=0 if self._failure is not None else PLACE_S):
            raise self._refusal()
        try:
            yield
        finally:
            self._places.release()

    def flush(self, timeout_s: float = DRAIN_S) -> bool:
        """Wait until everything is written; False when that took too long."""
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
        """Wait for something to do: first what somebody waits for, then a look, then what waits; ``None`` at the end."""
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
                self._pending.setdefault(key, act)  # at the end: what is wrong with one alone holds up no other
                self._pending_at = time.monotonic() + self._retry_s
        except Exception:
            log.exception("%s could not be written down", key)

    def _carry_out(self, act: Act) -> None:
        """Write; once more where the database was deleted or replaced and is there again. Raises StoreUnavailable."""
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
        """Whether the database was made or opened anew; all that is in memory is then to be written again. Raises StoreUnavailable."""
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
    """Return the refusal of what could not be written for ``failure``."""
    return NotStored(reason=f"store_{_trouble(failure)}")
