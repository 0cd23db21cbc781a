"""The WSGI application that gunicorn serves; gunicorn's configuration starts and stops the services."""

from __future__ import annotations

from webapp import create_app

app = create_app()
