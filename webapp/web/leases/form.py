"""The lease terms in a form: choices that stand for moments and minutes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, time, timedelta
from typing import Final

from webapp.domain.lease import EXTENSION_S, Terms
from webapp.errors import InvalidRequest

NONE: Final = ""
AS_IT_IS: Final = "same"
AT_TIME: Final = "time"
"""The choice of a time of day, which another field contains."""
EVENING: Final = time(18)
MORNING: Final = time(9)
HOURS: Final[Mapping[str, float]] = {"1h": EXTENSION_S, "2h": 2 * EXTENSION_S}
TO_EVENING: Final = "18:00"
TO_MORNING: Final = "tomorrow"
LEASES: Final = (NONE, *HOURS, TO_EVENING, TO_MORNING, AT_TIME)
IDLES: Final[Mapping[str, float | None]] = {"": None, "0": 0.0, "15": 15.0, "60": 60.0}
"""Minutes by choice; the empty one means the server's setting."""


def lease_until(choice: str, time_of_day: str, now: float) -> float | None:
    """Return the moment of a choice at ``now``, in the server's time zone; a time of day means its next occurrence.

    Raises:
        InvalidRequest: there is no such choice or time.
    """
    if choice == NONE:
        return None
    if choice in HOURS:
        return now + HOURS[choice]
    if choice == TO_EVENING:
        return _next(EVENING, now)
    if choice == TO_MORNING:
        tomorrow = datetime.fromtimestamp(now).date() + timedelta(days=1)
        return datetime.combine(tomorrow, MORNING).timestamp()
    if choice == AT_TIME:
        return _next(_time(time_of_day), now)
    raise InvalidRequest(field="lease", value=choice, allowed=", ".join(LEASES[1:]))


def idle_minutes(choice: str) -> float | None:
    """Return the minutes of a choice, or of any other number, which a program may have set. Raises InvalidRequest."""
    if choice in IDLES:
        return IDLES[choice]
    if not is_number(choice):
        raise InvalidRequest(field="idle", value=choice, allowed=", ".join(IDLES))
    return float(choice)


def is_number(text: str) -> bool:
    """Whether ``text`` is a valid number of minutes."""
    return re.fullmatch(r"\d{1,6}(\.\d{1,6})?", text, re.ASCII) is not None


def idle_choice(minutes: float | None) -> str:
    """Return the choice for ``minutes``, or the number itself if there is none."""
    known = {meant: choice for choice, meant in IDLES.items()}
    return known[minutes] if minutes is None or minutes in known else f"{minutes:g}"


def evening_is_ahead(now: float) -> bool:
    """Whether "until 18:00" still means today."""
    return datetime.fromtimestamp(now).time() < EVENING


def terms_of(values: Mapping[str, str], now: float) -> Terms:
    """Return the terms in the form of a loaded model. Raises InvalidRequest."""
    choice = values.get("lease", AS_IT_IS)
    stays = choice == AS_IT_IS
    idle = values.get("idle")
    return Terms(
        until=None if stays else lease_until(choice, values.get("lease_time", ""), now),
        sets_until=not stays,
        reason=values["reason"].strip() if "reason" in values else None,
        idle_minutes=None if idle is None else idle_minutes(idle),
        sets_idle=idle is not None,
    )


def _next(at: time, now: float) -> float:
    moment = datetime.combine(datetime.fromtimestamp(now).date(), at)
    return (moment if moment.timestamp() > now else moment + timedelta(days=1)).timestamp()


def _time(text: str) -> time:
    if not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", text):
        raise InvalidRequest(field="lease_time", value=text, allowed="09:00")
    return time.fromisoformat(text)
