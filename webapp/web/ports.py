"""The services that the web layer needs, and how a view accesses them."""

from __future__ import annotations

from typing import Protocol, cast

from flask import current_app

from webapp.audit.trail import Audit
from webapp.auth.accounts import Accounts
from webapp.control.controller import Controller
from webapp.control.recorder import Timeline
from webapp.settings import Settings

EXTENSION = "warden"
"""The key of the services in ``app.extensions``."""


class WebServices(Protocol):
    """The parts of a running Warden that a request may use."""

    @property
    def settings(self) -> Settings:
        """The settings in force."""

    @property
    def controller(self) -> Controller:
        """The one controller of this machine."""

    @property
    def timeline(self) -> Timeline:
        """The recorded memory of the devices."""

    @property
    def accounts(self) -> Accounts:
        """The accounts, sessions and tokens."""

    @property
    def audit(self) -> Audit:
        """The audit trail."""


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
    """Return the audit trail of the current application."""
    return services().audit


def timeline() -> Timeline:
    """Return the timeline of the current application."""
    return services().timeline
