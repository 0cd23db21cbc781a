"""Declares a call of the JSON interface once: its route, permission, audit entry and description."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from http import HTTPStatus
from typing import Any, Final

from flask import Blueprint, Response, request
from pydantic_core import to_json

from webapp import schema
from webapp.web.api.bodies import read, read_if_sent
from webapp.web.commands import Command, does

PREFIX: Final = "/api/v1"

blueprint = Blueprint("api", __name__, url_prefix=PREFIX)


@dataclass(frozen=True)
class Call:
    """One call with its routes (``POST /clean``). ``summary`` is a translatable text."""

    routes: tuple[str, ...]
    command: Command
    summary: str
    description: str
    answer: type[schema.Answer]
    is_list: bool
    status: int
    body: type[schema.Body] | None
    body_is_optional: bool
    query: type[schema.Parameters] | None
    is_tagged: bool
    name: str


@dataclass(frozen=True)
class Located:
    """An answer with its own URL."""

    document: schema.Answer
    location: str


@dataclass(frozen=True)
class Tagged:
    """An answer with a weak ``ETag``, which ignores values that change by the mere passing of time, such as an age."""

    tag: str
    document: Callable[[], schema.Answer]
    """Builds the document; it is not called if the client has it already."""


CALLS: Final[list[Call]] = []
"""Every call, in the order of the views."""

Answered = schema.Answer | Sequence[schema.Answer] | Located | Tagged


def call(
    *routes: str,
    command: Command,
    summary: str,
    answer: type[schema.Answer],
    is_list: bool = False,
    status: int = 200,
    body: type[schema.Body] | None = None,
    body_is_optional: bool = False,
    query: type[schema.Parameters] | None = None,
    is_tagged: bool = False,
) -> Callable[[Callable[..., Answered]], Callable[..., Response]]:
    """Declare a call; its view gets the parameters of the path and the ``body``, and returns a document.

    If the call ``is_tagged``, the view returns ``Tagged``.
    """

    def declare(view: Callable[..., Answered]) -> Callable[..., Response]:
        @wraps(view)
        def answered(**values: Any) -> Response:
            if body is not None:
                values["body"] = (read_if_sent if body_is_optional else read)(body)
            return _response(view(**values), status)

        does(command)(answered)
        for route in routes:
            method, path = route.split(" ")
            blueprint.add_url_rule(path, view.__name__, answered, methods=[method])
        CALLS.append(
            Call(
                routes,
                command,
                summary,
                view.__doc__ or "",
                answer,
                is_list,
                status,
                body,
                body_is_optional,
                query,
                is_tagged,
                view.__name__,
            )
        )
        return answered

    return declare


def _response(answer: Answered, status: int) -> Response:
    if isinstance(answer, Tagged):
        return _tagged(answer, status)
    if isinstance(answer, Located):
        return _json(answer.document, status, {"Location": answer.location})
    return _json(answer, status)


def _tagged(answer: Tagged, status: int) -> Response:
    if request.if_none_match.contains_weak(answer.tag):
        response = Response(status=HTTPStatus.NOT_MODIFIED)
    else:
        response = _json(answer.document(), status)
    response.set_etag(answer.tag, weak=True)
    return response


def _json(
    document: schema.Answer | Sequence[schema.Answer], status: int, headers: Mapping[str, str] | None = None
) -> Response:
    return Response(to_json(document) + b"\n", status, headers, content_type="application/json")
