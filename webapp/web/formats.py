"""Numbers, sizes and times in the reader's language. Bytes are shown in GiB; ``None`` is shown as unknown, never as
0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from babel.dates import format_datetime, format_time
from babel.numbers import format_decimal

from webapp.domain.units import GIB, KIB, MIB
from webapp.web.translate import gettext as _
from webapp.web.translate import language

MINUTE_S = 60
HOUR_S = 3600
DAY_S = 86400
MINUS = "\u2212"
UNGROUPED_DIGITS = 4
"""Longer numbers are grouped: 2048 tokens, but 40 960."""
LARGEST = 2**63
"""No real figure is larger, but a broken file can contain one that exceeds a float."""


@dataclass(frozen=True)
class Amount:
    """A number and its unit as texts, separate so that the page can show them in different sizes."""

    number: str
    unit: str

    def __str__(self) -> str:
        return f"{self.number}\u00a0{self.unit}" if self.unit else self.number


def unknown() -> str:
    """Return the word for an unknown figure."""
    return _("n/a")


@lru_cache(maxsize=4096)
def _decimal(text: str, locale: str) -> str:
    digits = len(text.partition(".")[2])
    grouped = len(text.lstrip("-").partition(".")[0]) > UNGROUPED_DIGITS
    pattern = ("#,##0" if grouped else "0") + ("." + "0" * digits if digits else "")
    return str(format_decimal(text, format=pattern, locale=locale)).replace("-", MINUS)


def _is_meant(value: float) -> bool:
    return abs(value) < LARGEST


def number(value: float, digits: int = 0) -> str:
    """Return ``value`` with ``digits`` decimals and the language's separators."""
    if not _is_meant(value):
        return unknown()
    text = f"{value:.{digits}f}"
    return _decimal(text.lstrip("-") if float(text) == 0 else text, language())


def amount(value_bytes: float | None) -> Amount:
    """Return a size in the unit that fits it: ``3,8 GiB``, ``512 MiB``, ``12 KiB``."""
    if value_bytes is None or not _is_meant(value_bytes):
        return Amount(unknown(), "")
    size = abs(value_bytes)
    if size >= 0.9995 * GIB:
        return Amount(number(value_bytes / GIB, 1), "GiB")
    if size >= 0.9995 * MIB:
        return Amount(number(value_bytes / MIB, 0 if size >= 10 * MIB else 1), "MiB")
    if size == 0:
        return Amount(number(0), "GiB")
    return Amount(number(value_bytes / KIB), "KiB")


def gibs(value_bytes: float | None) -> Amount:
    """Return a size always in GiB, for figures to be compared; small ones get a second decimal."""
    if value_bytes is None or not _is_meant(value_bytes):
        return Amount(unknown(), "")
    return Amount(number(value_bytes / GIB, 2 if 0 < abs(value_bytes) < 0.95 * GIB else 1), "GiB")


def together(values: Sequence[float | None], joint: str) -> str:
    """Return sizes in a common unit, written once: ``15,3 · 0,2 · 2,0 GiB``."""
    values = [value if value is None or _is_meant(value) else None for value in values]
    known = [abs(value) for value in values if value is not None]
    small = bool(known) and max(known) < 0.9995 * GIB
    unit, divisor, digits = ("MiB", MIB, 0) if small else ("GiB", GIB, 1)
    shown = joint.join(unknown() if v is None else number(v / divisor, digits) for v in values)
    return f"{shown}\u00a0{unit}" if known else shown


def size(value_bytes: float | None) -> str:
    """Return ``amount`` as one text."""
    return str(amount(value_bytes))


def percent(value: float | None) -> Amount:
    """Return a share in percent without decimals."""
    return Amount(unknown(), "") if value is None else Amount(number(value), "%")


def duration(seconds: float | None) -> str:
    """Return a length of time: ``5 мс``, ``1,2 с``, ``2 мин 5 с``, ``3 ч 10 мин``."""
    if seconds is None:
        return unknown()
    if seconds < 0.0995:
        return _with_unit(number(max(seconds, 0) * 1000), _("ms"))
    if seconds < 9.95:
        return _with_unit(number(seconds, 1), _("s"))
    return whole_duration(seconds)


def whole_duration(seconds: float) -> str:
    """Return a length of time in at most two whole units. ``static/js/clock.js`` continues it in the same format."""
    left = max(0, int(seconds))
    if left < MINUTE_S:
        return _with_unit(str(left), _("s"))
    if left < HOUR_S:
        minutes, rest = divmod(left, MINUTE_S)
        return _join((minutes, _("min")), (rest, _("s")))
    if left < DAY_S:
        hours, rest = divmod(left, HOUR_S)
        return _join((hours, _("h")), (rest // MINUTE_S, _("min")))
    days, rest = divmod(left, DAY_S)
    return _join((days, _("d")), (rest // HOUR_S, _("h")))


def _join(*parts: tuple[int, str]) -> str:
    return " ".join(_with_unit(str(count), unit) for count, unit in parts if count)


def _with_unit(shown: str, unit: str) -> str:
    """Join a number and its unit so that no line breaks between them."""
    return f"{shown}\u00a0{unit}"


def rough_duration(seconds: float) -> str:
    """Return a length of time in its largest unit, at least minutes: ``20 мин``, so that it is not redrawn every
    second."""
    return _in_largest_unit(max(0, int(seconds))) or _("less than a minute")


def short_age(seconds: float) -> str:
    """Return how long ago something was, in its largest unit: ``5 мин назад``."""
    left = max(0, int(seconds))
    return _("%(time)s ago", time=_in_largest_unit(left) or _with_unit(str(left), _("s")))


def _in_largest_unit(seconds: int) -> str | None:
    for unit_s, unit in ((DAY_S, _("d")), (HOUR_S, _("h")), (MINUTE_S, _("min"))):
        if seconds >= unit_s:
            return _with_unit(str(seconds // unit_s), unit)
    return None


def moment(epoch_s: float, now_s: float) -> str:
    """Return a moment in the server's time zone: only the time if it is today, or else with the date."""
    when = datetime.fromtimestamp(epoch_s).astimezone()
    today = datetime.fromtimestamp(now_s).astimezone()
    if when.date() == today.date():
        return str(format_time(when, "HH:mm", tzinfo=when.tzinfo, locale=language()))
    return str(format_datetime(when, "d MMM, HH:mm", tzinfo=when.tzinfo, locale=language()))


def full_moment(epoch_s: float) -> str:
    """Return a moment in the server's time zone with date and seconds."""
    when = datetime.fromtimestamp(epoch_s).astimezone()
    return str(format_datetime(when, "d MMM y, HH:mm:ss", tzinfo=when.tzinfo, locale=language()))


def time_of_day(epoch_s: float) -> str:
    """Return a moment's time in the server's time zone, with seconds."""
    when = datetime.fromtimestamp(epoch_s).astimezone()
    return str(format_time(when, "HH:mm:ss", tzinfo=when.tzinfo, locale=language()))


def clock(epoch_s: float) -> str:
    """Return a moment's time in the server's time zone, without seconds."""
    when = datetime.fromtimestamp(epoch_s).astimezone()
    return str(format_time(when, "HH:mm", tzinfo=when.tzinfo, locale=language()))


def weekday(epoch_s: float) -> str:
    """Return a moment's day in the server's time zone, abbreviated: ``ср 25``."""
    when = datetime.fromtimestamp(epoch_s).astimezone()
    return str(format_datetime(when, "ccc d", tzinfo=when.tzinfo, locale=language()))


def count(value: int | None) -> str:
    """Return a count: ``8,0 млрд`` for large ones such as parameters, plain below a million."""
    if value is None or not _is_meant(value):
        return unknown()
    if value >= 1_000_000_000:
        return _("%(number)s B", number=number(value / 1e9, 1))
    if value >= 1_000_000:
        return _("%(number)s M", number=number(value / 1e6, 0 if value >= 10_000_000 else 1))
    return number(value)
