"""The page's two languages: choosing one for a request, and switching between them."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from flask import Blueprint, Flask, Response, has_request_context, redirect, request
from flask_babel import Babel
from werkzeug.datastructures import LanguageAccept
from werkzeug.http import parse_accept_header
from werkzeug.wrappers import Response as BaseResponse

from webapp.domain.people import Permission
from webapp.web.ports import services
from webapp.web.rights import needs
from webapp.web.security import is_api, same_site_path
from webapp.web.translate import init_texts

LANGUAGES: Final = ("ru", "en")
SOURCE: Final = "en"
COOKIE: Final = "warden_language"
YEAR_S: Final = 365 * 24 * 3600

blueprint = Blueprint("language", __name__)


def init_languages(app: Flask) -> None:
    """Choose a request's language by its cookie, or else by the browser, or else by the setting. JSON is English."""
    Babel(app, default_locale="ru", default_translation_directories="translations", locale_selector=_choose)
    init_texts(app)


def _choose() -> str:
    default = services().settings.server.default_language
    if not has_request_context():
        return default
    if is_api():
        return SOURCE
    chosen = request.cookies.get(COOKIE)
    if chosen in LANGUAGES:
        return chosen
    return _best(request.headers.get("Accept-Language", "")) or default


@lru_cache(maxsize=64)
def _best(accepted: str) -> str | None:
    """Return the browser's preferred language; cached, as many pages send few different headers."""
    return parse_accept_header(accepted, LanguageAccept).best_match(LANGUAGES)


@blueprint.get("/language/<any(ru, en):code>")
@needs(Permission.OPEN)
def switch_language(code: str) -> BaseResponse:
    """Remember the language and return to the page; a GET, because it is a link that works without scripts."""
    response: BaseResponse = redirect(same_site_path(request.args.get("next")), 303)
    assert isinstance(response, Response)
    response.set_cookie(COOKIE, code, max_age=YEAR_S, httponly=True, samesite="Lax", secure=request.is_secure)
    return response
