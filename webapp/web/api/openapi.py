"""Describes the JSON interface for programs (``/api/v1/openapi.json``) and for people (``/api``)."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from flask import Blueprint, Response, render_template
from flask.typing import ResponseReturnValue
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema
from pydantic_core import to_json

from webapp import __version__, schema
from webapp.domain.people import Permission, Role
from webapp.error_texts import ERROR_TEXTS
from webapp.errors import (
    Forbidden,
    InPerson,
    InvalidRequest,
    NotSignedIn,
    StoreUnavailable,
    WardenError,
)
from webapp.web import words
from webapp.web.api.calls import CALLS, PREFIX, Call
from webapp.web.problems import CODES, PROBLEM_TYPE, SPECIAL_CODES
from webapp.web.rights import needs
from webapp.web.security import CrossSite, FormForJson, UntrustedHost, Upload
from webapp.web.statuses import status_of
from webapp.web.translate import gettext
from webapp.web.words import names

REFERENCE: Final = "#/components/schemas/{model}"
TAG: Final = {"ETag": {"schema": {"type": "string"}, "description": "Names what the answer shows."}}
IF_NONE_MATCH: Final = {
    "name": "If-None-Match",
    "in": "header",
    "required": False,
    "schema": {"type": "string"},
    "description": "The `ETag` of an earlier answer.",
}
Problems = Mapping[int, Mapping[str, str]]
"""Codes with their titles, by status."""

reference = Blueprint("reference", __name__)


@reference.get(f"{PREFIX}/openapi.json")
@needs(Permission.SEE)
def openapi() -> ResponseReturnValue:
    """Return this interface as an OpenAPI 3.1 document."""
    return Response(_written(), content_type="application/json")


@reference.get("/api")
@needs(Permission.SEE)
def page() -> ResponseReturnValue:
    """Show the JSON interface: every call with what it takes, what it answers, and who may call it."""
    return render_template("pages/api.html", groups=_groups(), models=_models())


@cache
def _written() -> bytes:
    return to_json(document()) + b"\n"


# For programs


def document() -> Mapping[str, Any]:
    """Return the OpenAPI document."""
    paths: dict[str, dict[str, Any]] = {}
    for each in CALLS:
        for method, path in _routes(each):
            paths.setdefault(path, {})[method.lower()] = _operation(each, method, path)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Warden",
            "version": __version__,
            "summary": "The GPU memory of a shared lab server.",
            "description": "Memory is bytes, times are RFC 3339 in UTC, an unknown value is `null`.",
        },
        "servers": [{"url": "/"}],
        "security": [{}, {"token": []}],
        "paths": paths,
        "components": {"schemas": _schemas(), "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }


def _routes(each: Call) -> Iterator[tuple[str, str]]:
    for route in each.routes:
        method, path = route.split(" ")
        yield method, PREFIX + re.sub(r"<(\w+)>", r"{\1}", path)


def _operation(each: Call, method: str, path: str) -> Mapping[str, Any]:
    first, *_ = _routes(each)
    alias = "" if (method, path) == first else "_" + re.sub(r"\W+", "_", f"{method.lower()}{path.removeprefix(PREFIX)}")
    made: dict[str, Any] = {
        "operationId": each.name + alias.rstrip("_"),
        "tags": [_subject(each)],
        "summary": each.summary,
        "description": _prose(each.description),
        "x-permission": each.command.right.value,
        "parameters": [*_path_parameters(path), *_query_parameters(each), *([IF_NONE_MATCH] if each.is_tagged else ())],
        "responses": {**_success(each), **_failures(each, method, path)},
    }
    if each.body is not None:
        content = {"application/json": {"schema": _ref(each.body)}}
        made["requestBody"] = {"required": not each.body_is_optional, "content": content}
    return made


def _subject(each: Call) -> str:
    return each.routes[0].split("/")[1]


def _prose(docstring: str) -> str:
    return inspect.cleandoc(docstring).replace("``", "`")


def _ref(model: type[BaseModel]) -> Mapping[str, str]:
    return {"$ref": REFERENCE.format(model=schema.component(model))}


def _path_parameters(path: str) -> Iterator[Mapping[str, Any]]:
    for name in re.findall(r"{(\w+)}", path):
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _query_parameters(each: Call) -> Iterator[Mapping[str, Any]]:
    if each.query is None:
        return
    for name, field in each.query.model_json_schema()["properties"].items():
        kinds = [kind for kind in field.get("anyOf", ()) if kind.get("type") != "null"]
        described = kinds[0] if kinds else {key: value for key, value in field.items() if key != "description"}
        made = {"name": name, "in": "query", "required": False, "schema": described}
        yield made | ({"description": field["description"]} if "description" in field else {})


def _success(each: Call) -> Mapping[str, Any]:
    one = _ref(each.answer)
    content = {"application/json": {"schema": {"type": "array", "items": one} if each.is_list else one}}
    made: dict[str, Any] = {"description": each.summary, "content": content}
    if each.status in (201, 202):
        made["headers"] = {"Location": {"schema": {"type": "string"}, "description": "Its address."}}
    if not each.is_tagged:
        return {str(each.status): made}
    made["headers"] = TAG
    return {str(each.status): made, "304": {"description": "Nothing that the tag covers has changed.", "headers": TAG}}


def _failures(each: Call, method: str, path: str) -> Mapping[str, Any]:
    content = {PROBLEM_TYPE: {"schema": _ref(schema.ProblemDocument)}}
    return {
        str(status): {
            "description": "; ".join(f"`{code}`: {title}" for code, title in codes.items()),
            "content": content,
        }
        for status, codes in sorted(problems(each, method, path).items())
    }


def problems(each: Call, method: str, path: str) -> Problems:
    """Return the reasons for refusing a call, by status: those of its command and those of the checks before it."""
    found: dict[int, dict[str, str]] = {}
    for error in _errors(each):
        found.setdefault(status_of(error), {})[error.code] = ERROR_TEXTS[error.code].title
    for status, code in _before(each, method, path):
        found.setdefault(status, {}).setdefault(code, ERROR_TEXTS[code].title)
    return found


def _errors(each: Call) -> Iterator[type[WardenError]]:
    """Yield every error class that may be raised."""
    always = (NotSignedIn, Forbidden, InPerson, StoreUnavailable)
    reads = (InvalidRequest,) if each.body is not None or each.query is not None else ()
    yield from dict.fromkeys((*always, *reads, *_with_subclasses(each.command.refusals)))


def _with_subclasses(classes: Iterable[type[WardenError]]) -> Iterator[type[WardenError]]:
    for cls in classes:
        yield cls
        yield from _with_subclasses(cls.__subclasses__())


def _before(each: Call, method: str, path: str) -> Iterator[tuple[int, str]]:
    yield 400, CODES[400]
    yield 400, SPECIAL_CODES[UntrustedHost]
    yield 411, CODES[411]
    yield 413, CODES[413]
    yield 500, "error"
    if "{" in path:
        yield 404, CODES[404]
    if method != "GET":
        yield 400, "csrf"
        yield 403, SPECIAL_CODES[CrossSite]
        yield 403, SPECIAL_CODES[FormForJson]
        yield 415, SPECIAL_CODES[Upload]
    if each.body is not None:
        yield 415, CODES[415]


def _schemas() -> Mapping[str, Any]:
    answers = dict.fromkeys((schema.ProblemDocument, *(each.answer for each in CALLS)))
    sent = dict.fromkeys(each.body for each in CALLS if each.body is not None)
    modes: list[tuple[Any, JsonSchemaMode]] = [
        *[(model, "serialization") for model in answers],
        *[(model, "validation") for model in sent],
    ]
    _, found = models_json_schema(modes, ref_template=REFERENCE)
    return {name.removesuffix(schema.SUFFIX): _published(each) for name, each in found["$defs"].items()}


def _published(node: Any) -> Any:
    """Return a schema with the published component names and without pydantic's titles; a property ``title`` stays."""
    if isinstance(node, list):
        return [_published(each) for each in node]
    if not isinstance(node, Mapping):
        return node.replace("``", "`") if isinstance(node, str) else node
    return {
        name: {key: _published(value) for key, value in each.items()}
        if name == "properties"
        else each.removesuffix(schema.SUFFIX)
        if name == "$ref"
        else _published(each)
        for name, each in node.items()
        if not (name == "title" and isinstance(each, str))
    }


# For people


@dataclass(frozen=True)
class FieldRow:
    """A field, a parameter or a part of an answer."""

    name: str
    kind: str
    model: str | None
    """The model of its type, to link to."""
    default: str | None
    is_required: bool


@dataclass(frozen=True)
class CallRow:
    """One call as the page shows it."""

    routes: tuple[str, ...]
    summary: str
    who: str
    body: str | None
    query: tuple[FieldRow, ...]
    status: int
    answer: str
    is_list: bool
    refusals: tuple[tuple[int, tuple[tuple[str, str], ...]], ...]


def _groups() -> Mapping[str, list[CallRow]]:
    found: dict[str, list[CallRow]] = {}
    for each in CALLS:
        found.setdefault(_subject(each), []).append(_row(each))
    return found


def _row(each: Call) -> CallRow:
    own: dict[int, dict[str, str]] = {}
    for error in dict.fromkeys(_with_subclasses(each.command.refusals)):
        own.setdefault(status_of(error), {})[error.code] = words.error_title(error.code)
    return CallRow(
        routes=tuple(f"{method} {path}" for method, path in _routes(each)),
        summary=gettext(each.summary),
        who=_who(each.command.right.lowest),
        body=None if each.body is None else schema.component(each.body),
        query=() if each.query is None else tuple(_fields(each.query.model_json_schema())),
        status=each.status,
        answer=schema.component(each.answer),
        is_list=each.is_list,
        refusals=tuple((status, tuple(codes.items())) for status, codes in sorted(own.items())),
    )


def _who(lowest: Role | None) -> str:
    if lowest is None:
        return gettext("everybody")
    role = words.word(names.ROLES, lowest)
    return role if lowest is Role.ADMINISTRATOR else gettext("%(role)s and above", role=role)


def _models() -> Mapping[str, tuple[FieldRow, ...]]:
    return {name: tuple(_fields(each)) for name, each in sorted(document()["components"]["schemas"].items())}


def _fields(described: Mapping[str, Any]) -> Iterator[FieldRow]:
    required = described.get("required", ())
    for name, field in described.get("properties", {}).items():
        kinds = field.get("anyOf", [field])
        model = next((found for kind in kinds if (found := _model_of(kind))), None)
        default = _json(field["default"]) if "default" in field and name not in required else None
        yield FieldRow(name, " | ".join(map(_kind, kinds)), model, default, name in required)


def _model_of(kind: Mapping[str, Any]) -> str | None:
    reached = kind.get("$ref") or kind.get("items", {}).get("$ref")
    values = kind.get("additionalProperties")
    if reached is None and isinstance(values, Mapping):
        return _model_of(values)
    return None if reached is None else str(reached).rpartition("/")[2]


def _kind(kind: Mapping[str, Any]) -> str:
    if "$ref" in kind:
        return str(kind["$ref"]).rpartition("/")[2]
    if "enum" in kind:
        return " | ".join(map(_json, kind["enum"]))
    if "const" in kind:
        return _json(kind["const"])
    if kind.get("type") == "array":
        return f"[{_kind(kind['items'])}]"
    if kind.get("type") == "object":
        values = kind["additionalProperties"]
        return f"{{string: {' | '.join(map(_kind, values.get('anyOf', [values])))}}}"
    return str(kind.get("format", kind.get("type", "")))


def _json(value: object) -> str:
    return to_json(value).decode()
