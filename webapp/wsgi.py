"""The WSGI application that gunicorn serves; gunicorn's configuration starts and stops its services."""

from __future__ import annotations

from webapp import create_app

app = create_app()
