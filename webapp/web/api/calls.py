"""How a call of the JSON interface is declared: once, for its route, rights, record and description."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, Final

from flask import Blueprint, Response
from pydantic_core import to_json

from webapp import schema
from webapp.schema.queries import Query
from webapp.web.api.bodies import read, read_if_sent
from webapp.web.commands import Command, does

PREFIX: Final = "/api/v1"

blueprint = Blueprint("api", __name__, url_prefix=PREFIX)


@dataclass(frozen=True)
class Call:
    """One call with its routes (``POST /clean``). ``summary`` is a text of the catalogue."""

    routes: tuple[str, ...]
    command: Command
    summary: str
    description: str
    answer: type[schema.Answer]
    is_list: bool
    status: int
    body: type[schema.Body] | None
    body_is_optional: bool
    query: type[Query] | None
    name: str


@dataclass(frozen=True)
class Located:
    """An answer that has an address of its own."""

    document: schema.Answer
    location: str


CALLS: Final[list[Call]] = []
"""Every call, in the order of the views."""

Answered = schema.Answer | Sequence[schema.Answer] | Located


def call(
    *routes: str,
    command: Command,
    summary: str,
    answer: type[schema.Answer],
    is_list: bool = False,
    status: int = 200,
    body: type[schema.Body] | None = None,
    body_is_optional: bool = False,
    query: type[Query] | None = None,
) -> Callable[[Callable[..., Answered]], Callable[..., Response]]:
    """Declare a call; its view gets the parts of the address and the ``body``, and returns a document."""

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
                view.__name__,
            )
        )
        return answered

    return declare


def _response(answer: Answered, status: int) -> Response:
    document, headers = (
        (answer.document, {"Location": answer.location}) if isinstance(answer, Located) else (answer, {})
    )
    return Response(to_json(document) + b"\n", status, headers, content_type="application/json")
