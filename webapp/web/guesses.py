"""Slows down who guesses passwords: who has failed too often in a quarter of an hour is refused before a password is looked at."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Final, ParamSpec, cast

from flask import Flask, current_app, make_response
from flask.typing import ResponseReturnValue
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from werkzeug.exceptions import TooManyRequests

from webapp.errors import SignInFailed
from webapp.web.ports import services

P = ParamSpec("P")
View = Callable[P, ResponseReturnValue]

EXTENSION: Final = "warden_guesses"
WINDOW_MINUTES: Final = 15
FAILED: Final = SignInFailed.status


def init_guesses(app: Flask) -> None:
    """Let ``app`` count failures; they are forgotten when it ends."""
    app.extensions[EXTENSION] = MovingWindowRateLimiter(MemoryStorage())


def slow_by(key: Callable[[], str], share: int = 1) -> Callable[[View[P]], View[P]]:
    """Refuse a view to whose ``key`` it has failed for ``share`` times as often as the setting allows. Raises TooManyRequests.

    The limits are asked here alone, not in hooks as Flask-Limiter's are: those took a seventh of what every other request costs.
    """

    def guard(view: View[P]) -> View[P]:
        @wraps(view)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> ResponseReturnValue:
            counter = cast(MovingWindowRateLimiter, current_app.extensions[EXTENSION])
            allowed = RateLimitItemPerMinute(share * services().settings.sign_in_failures, WINDOW_MINUTES)
            guess = (view.__name__, str(share), key())
            if not counter.test(allowed, *guess):
                raise TooManyRequests
            response = make_response(view(*args, **kwargs))
            if response.status_code == FAILED:
                counter.hit(allowed, *guess)
            return response

        return guarded

    return guard
