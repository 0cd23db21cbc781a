"""``/healthz``: whether the monitor ticks, the controller answers, and what Warden is told can be kept."""

from __future__ import annotations

from flask import Blueprint, jsonify
from flask.typing import ResponseReturnValue

from webapp.domain.people import Right
from webapp.web.api.documents import message_document
from webapp.web.ports import controller
from webapp.web.rights import needs

blueprint = Blueprint("health", __name__)


@blueprint.get("/healthz")
@needs(Right.OPEN)
def healthz() -> ResponseReturnValue:
    """Return 200 or 503 with the ages in seconds, ``null`` is "not yet", and with why nothing can be kept."""
    health = controller().health()
    document = {
        "ok": health.ok,
        "monitor_age_s": health.monitor_age_s,
        "controller_age_s": health.controller_age_s,
        "store_problem": message_document(health.store_problem),
    }
    return jsonify(document), 200 if health.ok else 503
