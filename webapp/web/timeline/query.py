"""The query of the timeline."""

from __future__ import annotations

from flask import request

from webapp.domain.timeline import Span
from webapp.web.filters import member
from webapp.web.ports import timeline


def asked_track() -> tuple[str | None, Span]:
    """Return the device and span of ``?device=&span=``, by default the first device and the hour.

    The device is ``None`` if there is none. Raises InvalidRequest.
    """
    span = member("span", request.args.get("span", ""), Span) or Span.HOUR
    return request.args.get("device") or next(iter(timeline().devices()), None), span
