"""``/healthz``: whether the monitor runs, the controller answers, and the database can be written."""

from __future__ import annotations

from flask import Blueprint, jsonify
from flask.typing import ResponseReturnValue

from webapp.domain.people import Permission
from webapp.web.ports import controller
from webapp.web.rights import needs

blueprint = Blueprint("health", __name__)


@blueprint.get("/healthz")
@needs(Permission.OPEN)
def healthz() -> ResponseReturnValue:
    """Return 200 while the devices are read, the controller answers and the database stores what is written, else 503.

    Ages are in seconds, ``null`` before the first reading. ``store_problem`` has the code of the reason if nothing can
    be stored. Its path and the database's own message are in the status alone, because this call is open to everybody.
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
