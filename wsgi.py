"""The WSGI application under its usual name, ``wsgi:app``, for servers started in the repository."""

from __future__ import annotations

from webapp.wsgi import app

application = app
