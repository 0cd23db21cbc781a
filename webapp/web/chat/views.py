"""Asking a model: the whole answer as a page, or a stream of its pieces."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing
from typing import Final

from flask import Blueprint, Flask, Response, current_app, render_template, request
from flask.typing import ResponseReturnValue

from webapp.control.contract import Question
from webapp.errors import InvalidRequest, WardenError
from webapp.schema.requests import LONGEST_PROMPT
from webapp.web import commands, words
from webapp.web.chat.reply import StreamedReply
from webapp.web.commands import does
from webapp.web.dashboard.presenters.instances import InstanceRow, instance_row
from webapp.web.lookups import find_instance
from webapp.web.statuses import status_of
from webapp.web.translate import Spoken, gettext, speaking, spoken

log = logging.getLogger(__name__)

PROBLEM_MARK: Final = "\x1e"
"""Precedes, in a stream, the sentence that says why the answer broke off (ASCII record separator)."""
TEXT: Final = "text/plain; charset=utf-8"

blueprint = Blueprint("asking", __name__)


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
