"""The HTTP status of each error; the errors themselves do not depend on HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from webapp import errors
from webapp.errors import WardenError

STATUSES: Final[Mapping[type[WardenError], int]] = {
    WardenError: 500,
    errors.InvalidRequest: 422,
    errors.NotSignedIn: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.Refused: 409,
    errors.NotOwner: 403,
    errors.ForeignQueuedLaunch: 403,
    errors.Cancelled: 409,
    errors.Unavailable: 503,
    errors.ProbeFailed: 503,
    errors.GenerationFailed: 502,
    errors.WorkerSilent: 504,
}
"""An error that is not listed has the status of its nearest ancestor."""


def status_of(error: WardenError | type[WardenError]) -> int:
    """Return the status of an answer with ``error``."""
    cls = error if isinstance(error, type) else type(error)
    return next(STATUSES[each] for each in cls.__mro__ if each in STATUSES)
