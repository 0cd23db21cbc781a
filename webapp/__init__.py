"""Warden: the GPU memory of a shared lab server, under control."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask

    from webapp.settings import Settings
    from webapp.web.ports import WebServices

__version__ = "0.1.0"


def create_app(settings: Settings | None = None, services: WebServices | None = None) -> Flask:
    """Return the WSGI application; nothing is started.

    ``services`` are the parts that requests use; without them the real ones are built. ``settings`` are read from the
    environment and the TOML file when they are not given.

    Raises:
        ConfigurationError: a setting is invalid, or the state folder cannot be used.
    """
    # Every program of the package passes through this file: a worker would hold Flask, and a command wait for it.
    from webapp.services import build_services  # noqa: PLC0415
    from webapp.settings import load_settings  # noqa: PLC0415
    from webapp.web.application import build_application  # noqa: PLC0415

    settings = settings or load_settings()
    return build_application(settings, services or build_services(settings))
