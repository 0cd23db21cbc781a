"""What the web layer needs of the rest, and how a view reaches it."""

from __future__ import annotations

from typing import Protocol, cast

from flask import current_app

from webapp.audit.trail import Audit
from webapp.auth.accounts import Accounts
from webapp.control.controller import Controller
from webapp.control.recorder import Timeline
from webapp.settings import Settings

EXTENSION = "warden"
"""Where ``app.extensions`` keeps the services."""


class WebServices(Protocol):
    """The parts of a running Warden that a request may touch."""

    @property
    def settings(self) -> Settings:
        """The settings in force."""

    @property
    def controller(self) -> Controller:
        """The one controller of this machine."""

    @property
    def timeline(self) -> Timeline:
        """What was recorded of the devices' memory."""

    @property
    def accounts(self) -> Accounts:
        """Who may sign in, and who is."""

    @property
    def audit(self) -> Audit:
        """The record of who did what."""


def services() -> WebServices:
    """Return the services of the current application."""
    return cast(WebServices, current_app.extensions[EXTENSION])


def controller() -> Controller:
    """Return the controller of the current application."""
    return services().controller


def accounts() -> Accounts:
    """Return the accounts of the current application."""
    return services().accounts


def audit() -> Audit:
    """Return the record of who did what of the current application."""
    return services().audit


def timeline() -> Timeline:
    """Return the timeline of the current application."""
    return services().timeline
