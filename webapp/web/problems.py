"""Errors as answers: a problem document for JSON, a sentence for HTMX, a page for a browser, but never a traceback."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urlsplit

from flask import Flask, Response, make_response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from flask_wtf.csrf import CSRFError
from pydantic_core import to_json
from werkzeug.exceptions import HTTPException

from webapp import schema
from webapp.error_texts import ERROR_TEXTS
from webapp.errors import NotSignedIn, WardenError
from webapp.message import Message, Param
from webapp.web import words
from webapp.web.audit.recording import note_error, note_problem
from webapp.web.responses import refused, wants_fragment
from webapp.web.security import CrossSite, FormForJson, UntrustedHost, Upload, is_api, same_site_path
from webapp.web.statuses import status_of

log = logging.getLogger(__name__)

PROBLEM_TYPE = "application/problem+json"
CODES: Mapping[int, str] = {
    400: "bad_request",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "bad_request",
    411: "bad_request",
    413: "too_large",
    415: "unsupported_type",
    422: "bad_request",
    429: "too_many_attempts",
}
SPECIAL_CODES: Mapping[type[HTTPException], str] = {
    UntrustedHost: "untrusted_host",
    CrossSite: "cross_site",
    FormForJson: "form_for_json",
    Upload: "no_uploads",
    CSRFError: "csrf",
}


@dataclass(frozen=True)
class Problem:
    """An error, ready for any of the three kinds of answers."""

    status: int
    code: str
    params: Mapping[str, Param]

    @property
    def title(self) -> str:
        """The title in English, a few words."""
        return words.capital(ERROR_TEXTS[self.code].title)

    @property
    def detail(self) -> str:
        """The sentence in the current language."""
        return words.say(Message(self.code, self.params))


def init_problems(app: Flask) -> None:
    """Make ``app`` answer every error in one of these ways."""
    app.register_error_handler(WardenError, _warden_error)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _defect)


def problem_of(error: WardenError) -> Problem:
    """Return the problem for one of Warden's errors."""
    return Problem(status_of(error), error.code, dict(error.params))


def _warden_error(error: WardenError) -> ResponseReturnValue:
    problem = problem_of(error)
    note_error(error)
    return ask_to_sign_in(problem) if type(error) is NotSignedIn else _tell(problem)


def ask_to_sign_in(problem: Problem) -> ResponseReturnValue:
    """Answer a request without a sign-in: a page and HTMX are redirected to the sign-in, a program gets the problem."""
    if is_api():
        return _with_challenge(problem_document(problem))
    if wants_fragment():
        return Response(status=problem.status, headers={"HX-Redirect": sign_in_url(_page_of_htmx())})
    if "text/html" in request.headers.get("Accept", "text/html"):
        return redirect(sign_in_url(request.full_path if request.method == "GET" else ""), 303)
    return _plainly(problem)


def sign_in_url(back: str) -> str:
    """Return the URL of the sign-in page, which then leads ``back`` to a path of this site."""
    path = same_site_path(back.removesuffix("?"))
    return url_for("signing.page", next=None if path == "/" else path)


def _page_of_htmx() -> str:
    shown = urlsplit(request.headers.get("HX-Current-URL", ""))
    return f"{shown.path}?{shown.query}"


def _with_challenge(response: Response) -> Response:
    response.headers["WWW-Authenticate"] = 'Bearer realm="Warden"'
    return response


def _http_error(error: HTTPException) -> ResponseReturnValue:
    if error.response is not None or error.code is None or error.code < HTTPStatus.BAD_REQUEST:
        return error.get_response()  # a redirect, or an answer that exists already
    code = SPECIAL_CODES.get(type(error)) or CODES.get(error.code, "bad_request" if error.code < 500 else "error")
    note_problem(code, error.code)
    response = make_response(_tell(Problem(error.code, code, {"path": request.path})))
    if error.code == HTTPStatus.METHOD_NOT_ALLOWED:
        response.headers["Allow"] = dict(error.get_headers()).get("Allow", "")
    return response


def _defect(error: Exception) -> ResponseReturnValue:
    """Catch everything else: it is logged, and the answer reveals no internals."""
    log.error("%s %s failed", request.method, request.path, exc_info=error)
    note_problem("error", HTTPStatus.INTERNAL_SERVER_ERROR)
    return _tell(Problem(500, "error", {}))


def _tell(problem: Problem) -> ResponseReturnValue:
    if is_api() or request.path == "/healthz":
        return problem_document(problem)
    if problem.code == SPECIAL_CODES[UntrustedHost]:  # style sheets would be refused there too
        return _plainly(problem)
    if wants_fragment():
        return refused(problem.detail, problem.status)
    try:
        return render_template("pages/error.html", status=problem.status, sentence=problem.detail), problem.status
    except Exception:  # a part of every page may be what failed
        log.exception("the page that tells of an error failed")
        return _plainly(problem)


def _plainly(problem: Problem) -> Response:
    return Response(problem.detail + "\n", status=problem.status, content_type="text/plain; charset=utf-8")


def problem_document(problem: Problem) -> Response:
    """Return the problem as ``application/problem+json`` (RFC 9457)."""
    document = schema.ProblemDocument(
        title=problem.title,
        status=problem.status,
        code=problem.code,
        detail=problem.detail,
        params=dict(problem.params),
    )
    return Response(to_json(document) + b"\n", status=problem.status, content_type=PROBLEM_TYPE)
