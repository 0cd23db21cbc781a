"""The product's application, told apart people by a header: what a test gives gunicorn where two of them use it."""

from __future__ import annotations

from flask import request

from webapp.web.actor import EXTENSION
from wsgi import app

HEADER = "X-Person"

app.extensions[EXTENSION] = lambda: request.headers.get(HEADER, "nobody")
