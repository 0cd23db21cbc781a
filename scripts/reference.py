"""Writes ``docs/reference`` from the declarations in the code: ``make reference``. A test fails if a page is stale.

Each page is a function in ``PAGES`` that returns Markdown.
"""

from __future__ import annotations

import inspect
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import click
from flask import Flask
from pydantic import BaseModel
from werkzeug.routing import Rule as Route

from webapp import create_app, errors
from webapp.cli.main import main as warden
from webapp.cli.main import settings_markdown
from webapp.domain.people import Permission, Role
from webapp.errors import WardenError
from webapp.schema import component
from webapp.settings import load_settings
from webapp.web import problems
from webapp.web.api.calls import CALLS
from webapp.web.api.views import blueprint
from webapp.web.rights import right_of, rules
from webapp.web.statuses import status_of

FOLDER: Final = Path(__file__).parents[1] / "docs" / "reference"
MADE: Final = "<!-- Written by `make reference` from the code. Do not edit: a test compares. -->"
WIDTH: Final = 100
"""Columns of the help texts, independent of the terminal."""
API: Final = "/api/v1"

BODIES: Final[Mapping[str, type[BaseModel]]] = {
    f"{blueprint.name}.{each.name}": each.body for each in CALLS if each.body is not None
}
"""The model of each endpoint's JSON body."""


def main() -> None:
    """Write every page."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with application() as app:
        for name, page in PAGES.items():
            (FOLDER / f"{name}.md").write_text(page(app), encoding="utf-8")


@contextmanager
def application() -> Iterator[Flask]:
    """Yield an application that is never started, for its routes only."""
    with tempfile.TemporaryDirectory() as folder:
        yield create_app(load_settings(state_dir=Path(folder)))


def _page(title: str, *blocks: str) -> str:
    return "\n\n".join((f"# {title}", MADE, *(block.strip("\n") for block in blocks))) + "\n"


def _table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in (head, ("---",) * len(head), *rows))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


# Settings


SETTINGS_HEAD: Final = """
Each setting is an environment variable, or a line of a TOML file without the prefix and in lower case:
`WARDEN_PORT=8100` is `port = 8100`. The file is `/etc/warden.toml`, or the one that `WARDEN_CONFIG` names. The
environment takes precedence over the file. An invalid value, or an unknown name in the file, stops the start with a
sentence that names the setting. The start also names a setting that a later version removed, which is ignored, or
renamed, which still works, and a variable `WARDEN_…` that is not a setting.

`warden settings` prints the values in force, with passwords hidden. A description that begins with "…" continues the
one above it.
"""


def settings_page(app: Flask) -> str:
    """Return the page of settings, from the fields of ``Settings``."""
    return _page("Settings", SETTINGS_HEAD, settings_markdown())


# The JSON interface


API_HEAD: Final = """
Every action and reading of the page is also available as JSON under `/api/v1`. Memory is in bytes, times are RFC 3339
in UTC, and an unknown value is `null`. Bodies are JSON (`Content-Type: application/json`); an unknown field is refused
with 422. Errors are `application/problem+json` with a stable `code`, listed in [errors.md](errors.md). Who may call
what: [permissions.md](permissions.md). Every call, body and answer is also in `/api/v1/openapi.json` (OpenAPI 3.1), and on
the page `/api`.

If people sign in, a program sends an API token: `Authorization: Bearer wdn_…`. Without a valid one the answer is 401
`unauthorized`. A role that does not suffice gets 403 `forbidden` with `needed` and `role` in `params`; another person's
model or operation gives 403 `not_yours` with its `owner`.

A 2xx answer confirms what is in the database: it outlives `kill -9` and a power failure. If the database does not take
a switch, a queue place or a lease within a second, the answer is 503 `not_stored` with a `reason` (`store_locked`,
`store_full`, `store_gone`, `store_slow`, `store_failed`), and nothing was done. Every other action acts first and says
`"stored": false`; its record follows.

```
curl -s http://127.0.0.1:8000/api/v1/switch -H 'Content-Type: application/json' \\
     -d '{"mode": "transformers", "model": "Qwen/Qwen3-0.6B", "options": {"quantization": "int8"}}'
```
"""


def api_page(app: Flask) -> str:
    """Return the page of the JSON interface: every route with its permission, its view's docstring and its body."""
    routes = sorted((rule for rule in app.url_map.iter_rules() if _is_json(rule)), key=_order)
    calls: dict[str, list[Route]] = {}
    for route in routes:
        calls.setdefault(route.endpoint, []).append(route)
    blocks = [API_HEAD]
    for subject, group in groupby(calls.values(), key=lambda same: _subject(same[0])):
        blocks.append(f"## {subject}")
        blocks.extend(_call(app, same[0].endpoint, same) for same in group)
    return _page("JSON interface", *blocks, "## Bodies", *map(_body, dict.fromkeys(BODIES.values())))


def _is_json(route: Route) -> bool:
    return route.rule.startswith(API) or route.rule == "/healthz" or route.rule.endswith(".csv")


def _subject(route: Route) -> str:
    return route.rule.removeprefix(API).split("/")[1] if route.rule.startswith(API) else "outside /api/v1"


def _order(route: Route) -> tuple[bool, str, str, str]:
    return not route.rule.startswith(API), _subject(route), route.rule, _methods(route)


def _call(app: Flask, endpoint: str, routes: list[Route]) -> str:
    view = app.view_functions[endpoint]
    names = [call_of(route) for route in routes]
    right = right_of(view) or Permission.PEOPLE
    title = ", ".join(f"`{name}`" for name in names)
    parts = [f"### {title}", _prose(view), f"Permission: `{right}`, {_lowest(right)}."]
    if body := BODIES.get(endpoint):
        parts.append(f"Body: [{component(body)}](#{component(body).lower()}).")
    return "\n\n".join(parts)


def call_of(route: Route) -> str:
    """Return a route as ``POST /api/v1/tickets/{ticket_id}/start``."""
    path = re.sub(r"<(?:\w+:)?(\w+)>", lambda found: "{" + found[1] + "}", route.rule)
    return f"{_methods(route)} {path}"


def _methods(route: Route) -> str:
    return " ".join(sorted((route.methods or set()) - {"HEAD", "OPTIONS"}))


def _lowest(right: Permission) -> str:
    lowest = right.lowest
    return "everybody" if lowest is None else f"{lowest} and above" if lowest is not Role.ADMINISTRATOR else f"{lowest}"


def _prose(documented: object) -> str:
    """Return a docstring as Markdown."""
    return (inspect.getdoc(documented) or "").replace("``", "`")


def _body(body: type[BaseModel]) -> str:
    document = body.model_json_schema()
    required = document.get("required", [])
    known = {name for base in BODIES.values() if base in body.__bases__ for name in base.model_fields}
    rows = (
        (f"`{name}`", _kind(each, document), _default(name, each, required), each.get("description", ""))
        for name, each in _fields(document)
        if name.partition(".")[0] not in known
    )
    return f"### {component(body)}\n\n{_prose(body)}\n\n" + _table(("Field", "Type", "Default", "Meaning"), rows)


def _fields(document: Mapping[str, Any], prefix: str = "", root: Mapping[str, Any] | None = None) -> Iterator[Any]:
    """Yield each field of a body with its schema; the fields of a nested object follow it, prefixed with its name."""
    root = root or document
    for name, each in document["properties"].items():
        nested = _resolved(each, root)
        if "properties" in nested:
            yield from _fields(nested, f"{prefix}{name}.", root)
        else:
            yield f"{prefix}{name}", each


def _resolved(field: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = field.get("$ref")
    return root["$defs"][reference.rsplit("/", 1)[-1]] if reference else field


LIMITS: Final[Mapping[str, str]] = {
    "minimum": "at least {}",
    "exclusiveMinimum": "more than {}",
    "maximum": "at most {}",
    "maxLength": "at most {} characters",
    "maxItems": "at most {} items",
}
NOT_EMPTY: Final = frozenset({"minLength", "minItems"})


def _kind(field: Mapping[str, Any], root: Mapping[str, Any]) -> str:
    field = _resolved(field, root)
    if "anyOf" in field:
        return " or ".join(sorted((_kind(each, root) for each in field["anyOf"]), key=lambda kind: kind != "null"))
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if field.get("format") == "date-time":
        return "time"
    name = f"list (each: {_kind(field['items'], root)})" if field["type"] == "array" else field["type"]
    limits = [text.format(_number(field[key])) for key, text in LIMITS.items() if key in field]
    if not NOT_EMPTY.isdisjoint(field):
        limits.append("not empty")
    return ", ".join((name, *limits))


def _number(value: float) -> str:
    return f"{value:.0f}" if float(value).is_integer() else f"{value}"


def _default(name: str, field: Mapping[str, Any], required: list[str]) -> str:
    return "required" if name in required else f"`{json.dumps(field.get('default'))}`"


# The command line


def cli_page(app: Flask) -> str:
    """Return the help of every command."""
    return _page("Command line", CLI_HEAD, *_help(warden, None, "warden"))


CLI_HEAD: Final = """
`make run` installs the command as `.venv/bin/warden`. The commands read the same settings as the server
([settings.md](settings.md)); with accounts, `warden status` and `warden selftest` send the API token in `WARDEN_TOKEN`.
"""


def _help(command: click.Command, parent: click.Context | None, name: str) -> Iterator[str]:
    settings = {**command.context_settings, "terminal_width": WIDTH, "max_content_width": WIDTH}
    context = click.Context(command, parent, name, **settings)
    text = "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
    yield f"## {context.command_path}\n\n```\n{text}\n```"
    if isinstance(command, click.Group):
        for word, each in command.commands.items():
            yield from _help(each, context, word)


# Permissions


PERMISSIONS_HEAD: Final = """
● allowed, · not allowed (403; 401 if nobody is signed in). An API token acts with its own scope as its role and manages
no account.

Ownership adds to the role. An operator unloads their own models and those of others that are idle and not leased,
interrupts answers of their own models only, and cancels their own operations and queued launches; an administrator does
so for everybody's. An operation that ends another person's model touches nothing for `WARDEN_UNDO_S`: until then that
owner may stop it too. A model that another person has leased, or that is answering someone, can be taken only by an
administrator who gives a reason.
"""


def permissions_page(app: Flask) -> str:
    """Return the matrix of addresses and roles."""
    roles = (None, *Role)
    rows = (
        (f"`{rule.methods} {rule.path}`", f"{rule.right}", *("●" if rule.opens_to(role) else "·" for role in roles))
        for rule in rules(app)
    )
    names = ("nobody", *(role.value for role in Role))
    return _page("Who may call what", PERMISSIONS_HEAD, _table(("Call", "Permission", *names), rows))


# Errors


ERRORS_HEAD: Final = """
Every error has a stable `code`. In JSON it is a problem document (RFC 9457): `type`, `title`, `status`, `detail` (the
sentence that page and terminal show, in English), `code` and `params`. Operations and queued launches carry
the same codes in `error` and `outcome`. The classes are in `webapp/errors.py`, their
words in `webapp/error_texts.py`.

The column "Status" is the HTTP status if a request is answered with the error.
"""
HTTP_HEAD: Final = """
## Refused before Warden looks at the request

These answers follow from the HTTP request itself.
"""


def errors_page(app: Flask) -> str:
    """Return every error code: those of the error tree by their branch, then those of HTTP."""
    classes = [each for each in vars(errors).values() if inspect.isclass(each) and issubclass(each, WardenError)]
    blocks = [ERRORS_HEAD]
    for branch in WardenError.__subclasses__():
        rows = (_error_row(each) for each in classes if issubclass(each, branch))
        blocks += [f"## {branch.__name__}", _table(("Code", "Status", "Meaning", "Parameters"), rows)]
    plain = ((f"`{code}`", f"{status}") for status, code in problems.CODES.items())
    named = ((f"`{code}`", _first_sentence(kind)) for kind, code in problems.SPECIAL_CODES.items())
    blocks += [HTTP_HEAD, _table(("Code", "Status"), plain), _table(("Code", "Meaning"), named)]
    return _page("Errors", *blocks)


def _error_row(error: type[WardenError]) -> tuple[str, ...]:
    meaning, _, params = " ".join(_prose(error).split()).partition("Params: ")
    return f"`{error.code}`", f"{status_of(error)}", meaning.strip(), params.rstrip(".")


def _first_sentence(documented: object) -> str:
    return " ".join(_prose(documented).split()).partition(". ")[0].rstrip(".") + "."


PAGES: Final[Mapping[str, Callable[[Flask], str]]] = {
    "settings": settings_page,
    "api": api_page,
    "cli": cli_page,
    "permissions": permissions_page,
    "errors": errors_page,
}

if __name__ == "__main__":
    main()
