"""An answer in progress, and the limit of those at one time; the page and the JSON interface share both."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Final, cast

from flask import Flask, current_app

from webapp.control.contract import Question
from webapp.errors import TooManyQuestions
from webapp.web.ports import controller

EXTENSION: Final = "warden_questions"


class Questions:
    """Limits concurrent questions: each answer occupies a thread, and the page needs some too."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._free = threading.BoundedSemaphore(limit)

    def enter(self) -> None:
        """Take a place. Raises TooManyQuestions if there is none."""
        if not self._free.acquire(blocking=False):
            raise TooManyQuestions(limit=self._limit)

    def leave(self) -> None:
        """Give the place back."""
        self._free.release()


def init_asking(app: Flask, threads: int) -> None:
    """Limit answers to half of ``threads``."""
    app.extensions[EXTENSION] = Questions(max(1, threads // 2))


def _questions() -> Questions:
    return cast(Questions, current_app.extensions[EXTENSION])


class StreamedReply:
    """An answer in progress: iterating yields its pieces, ``close`` gives back its place and is idempotent."""

    def __init__(self, instance_id: str, question: Question) -> None:
        self._places = _questions()
        self._places.enter()
        self._closed = False
        self._pieces: Iterator[str] = iter(())
        try:
            self._pieces = controller().ask(instance_id, question)
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[str]:
        return self._pieces

    def close(self) -> None:
        """End the request to the model."""
        if self._closed:
            return
        self._closed = True
        try:
            if (close := getattr(self._pieces, "close", None)) is not None:
                close()
        finally:
            self._places.leave()
