"""Asking a model: the whole answer as a page, or a stream of its pieces."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Final, cast

from flask import Blueprint, Flask, Response, current_app, render_template, request
from flask.typing import ResponseReturnValue

from webapp.control.contract import Question
from webapp.errors import InvalidRequest, TooManyQuestions, WardenError
from webapp.schema.requests import LONGEST_PROMPT
from webapp.web import commands, words
from webapp.web.commands import does
from webapp.web.dashboard.pages import find_instance
from webapp.web.dashboard.presenters.instances import InstanceRow, instance_row
from webapp.web.ports import controller
from webapp.web.statuses import status_of
from webapp.web.translate import Spoken, gettext, speaking, spoken

log = logging.getLogger(__name__)

EXTENSION: Final = "warden_questions"
PROBLEM_MARK: Final = "\x1e"
"""Precedes, in a stream, the sentence that says why the answer broke off (ASCII record separator)."""
TEXT: Final = "text/plain; charset=utf-8"

blueprint = Blueprint("asking", __name__)


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


@blueprint.post("/instances/<instance_id>/ask")
@does(commands.ASK)
def ask(instance_id: str) -> ResponseReturnValue:
    """Return a page with the whole answer, for browsers without scripts."""
    row = instance_row(find_instance(instance_id))
    said: list[str] = []
    try:
        with closing(StreamedReply(instance_id, _question())) as answer:
            said.extend(answer)
    except WardenError as error:
        return _page(row, "".join(said) or None, words.say(error.message)), status_of(error)
    return _page(row, "".join(said), None)


def _page(row: InstanceRow, answer: str | None, problem: str | None) -> str:
    prompt = request.form.get("prompt", "")
    return render_template(
        "pages/ask.html", body="fragments/ask.html", row=row, prompt=prompt, answer=answer, problem=problem
    )


@blueprint.post("/instances/<instance_id>/ask/stream")
@does(commands.ASK)
def stream(instance_id: str) -> ResponseReturnValue:
    """Stream the pieces as plain text; an error on the way follows ``PROBLEM_MARK``."""
    try:
        find_instance(instance_id)
        answer = StreamedReply(instance_id, _question())
    except WardenError as error:
        return Response(words.say(error.message), status=status_of(error), content_type=TEXT)
    pieces = _pieces(answer, current_app._get_current_object(), spoken())  # type: ignore[attr-defined]
    response = Response(pieces, content_type=TEXT, headers={"X-Accel-Buffering": "no"})
    response.call_on_close(answer.close)  # called even if the reader is gone before the first piece
    return response


def _pieces(answer: StreamedReply, app: Flask, language: Spoken) -> Iterator[str]:
    """Yield the pieces and, if the answer broke off, the reason; the request context has ended by then."""
    try:
        yield from answer
    except WardenError as error:
        log.warning("an answer broke off: %s", error)
        with speaking(app, language):
            sentence = words.say(error.message)
        yield PROBLEM_MARK + sentence


def _question() -> Question:
    prompt = request.form.get("prompt", "").strip()
    if not prompt:
        raise InvalidRequest(field="prompt", value="", allowed=gettext("any text"))
    if len(prompt) > LONGEST_PROMPT:
        raise InvalidRequest(field="prompt", value=prompt[:20] + "…", allowed=f"1–{LONGEST_PROMPT}")
    return Question(prompt)
