"""The WSGI application for gunicorn, nothing else; gunicorn's configuration starts and stops the services."""

from __future__ import annotations

from webapp import create_app

application = app = create_app()
