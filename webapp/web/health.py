"""``/healthz``: whether the monitor ticks, the controller answers, and what Warden is told can be kept."""

from __future__ import annotations

from flask import Blueprint, jsonify
from flask.typing import ResponseReturnValue

from webapp.domain.people import Right
from webapp.web.ports import controller
from webapp.web.rights import needs

blueprint = Blueprint("health", __name__)


@blueprint.get("/healthz")
@needs(Right.OPEN)
def healthz() -> ResponseReturnValue:
    """Return 200 or 503 with the ages in seconds, ``null`` is "not yet", and with the code of why nothing can be kept.

    Everybody may ask, so the path and the database's own words stand in the status alone.
    """
    health = controller().health()
    problem = health.store_problem
    document = {
        "ok": health.ok,
        "monitor_age_s": health.monitor_age_s,
        "controller_age_s": health.controller_age_s,
        "store_problem": None if problem is None else {"code": problem.code},
    }
    return jsonify(document), 200 if health.ok else 503
