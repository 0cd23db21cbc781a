"""Assembles the web layer. Nothing is started here, and no service is called."""

from __future__ import annotations

import logging
import platform
import time
from contextlib import suppress
from pathlib import Path

from flask import Flask
from jinja2 import FileSystemBytecodeCache
from jinja2.bccache import Bucket

from webapp.folders import make_private
from webapp.settings import Settings
from webapp.web import formats, health, i18n
from webapp.web.actor import current_actor
from webapp.web.api import openapi
from webapp.web.api import views as api
from webapp.web.assets import init_assets
from webapp.web.audit import views as audit
from webapp.web.audit.recording import init_recording, refuse_unrecorded
from webapp.web.chat import views as chat
from webapp.web.chat.reply import init_asking
from webapp.web.dashboard import actions, fragments, pages
from webapp.web.i18n import init_languages
from webapp.web.leases import views as leases
from webapp.web.navigation import sections
from webapp.web.operations import views as operations
from webapp.web.people import account, sign_in
from webapp.web.people import views as people
from webapp.web.people.login_throttle import init_guesses
from webapp.web.ports import EXTENSION, WebServices
from webapp.web.problems import init_problems
from webapp.web.queue import views as queue
from webapp.web.responses import reading_age_s
from webapp.web.rights import init_rights, refuse_undeclared
from webapp.web.security import init_form_tokens, init_security
from webapp.web.selftest import views as selftest
from webapp.web.timeline import views as timeline
from webapp.web.translate import language
from webapp.web.view_cache import init_view_cache

log = logging.getLogger(__name__)

PACKAGE = Path(__file__).parents[1]
BLUEPRINTS = (
    pages.blueprint,
    fragments.blueprint,
    actions.blueprint,
    chat.blueprint,
    queue.blueprint,
    leases.blueprint,
    operations.blueprint,
    timeline.blueprint,
    selftest.blueprint,
    audit.blueprint,
    sign_in.blueprint,
    account.blueprint,
    people.blueprint,
    i18n.blueprint,
    health.blueprint,
    api.blueprint,
    openapi.reference,
)


def page_files() -> Path:
    """Return the folder of ``templates`` and ``static``: the package if installed from a wheel, or else the
    checkout."""
    return PACKAGE if (PACKAGE / "templates").is_dir() else PACKAGE.parent


def build_application(settings: Settings, services: WebServices) -> Flask:
    """Return the WSGI application over ``services``.

    Raises:
        ConfigurationError: the state folder cannot hold the secret key.
    """
    app = Flask(
        "webapp",
        root_path=str(PACKAGE),
        template_folder=str(page_files() / "templates"),
        static_folder=str(page_files() / "static"),
        static_url_path="/static",
    )
    # Unbounded: a bounded cache has a lock that every include waits for.
    app.jinja_options = {"cache_size": -1}
    app.extensions[EXTENSION] = services
    app.json.ensure_ascii = False  # type: ignore[attr-defined]
    app.json.sort_keys = False  # type: ignore[attr-defined]
    # In this order a request is checked: where it comes from, whether the person may, the form's token; then it is recorded.
    init_security(app, settings)
    init_rights(app)
    init_form_tokens(app)
    init_recording(app)
    init_languages(app)
    init_problems(app)
    init_assets(app)
    init_view_cache(app)
    init_guesses(app)
    init_asking(app, settings.server.threads)
    _init_templates(app, settings)
    for blueprint in BLUEPRINTS:
        app.register_blueprint(blueprint)
    refuse_undeclared(app)
    refuse_unrecorded(app)
    return app


class CompiledTemplates(FileSystemBytecodeCache):
    """Compiled templates on the disk. A failure of this cache fails no request: the template is compiled again."""

    def load_bytecode(self, bucket: Bucket) -> None:
        """Load a template; a truncated or unreadable file counts as missing."""
        try:
            super().load_bytecode(bucket)
        except Exception as exc:  # noqa: BLE001  pickle raises anything for a damaged file
            log.warning("a compiled template is made again: %s", exc)
            bucket.reset()

    def dump_bytecode(self, bucket: Bucket) -> None:
        """Store a template; nothing is stored on a disk that is full, read-only or gone."""
        with suppress(OSError):
            super().dump_bytecode(bucket)


def _template_folder(state_dir: Path) -> Path:
    """Return the folder for compiled templates, created if possible; like the state folder it is private to its
    owner."""
    folder = state_dir / "templates"
    with suppress(OSError):
        make_private(folder)
    return folder


def _init_templates(app: Flask, settings: Settings) -> None:
    # With compiled templates on the disk, the first page of a later start comes 0.15 s sooner.
    app.jinja_env.bytecode_cache = CompiledTemplates(str(_template_folder(settings.storage.state_dir)))
    app.jinja_env.trim_blocks = True
    app.jinja_env.lstrip_blocks = True
    app.jinja_env.globals.update(
        poll_ms=round(settings.server.page_poll_s * 1000),
        language=language,
        actor=current_actor,
        sections=sections,
        banner=leases.own_banner,
        reading_age_s=reading_age_s,
        host_name=platform.node(),
        clock=time.time,
    )
    app.jinja_env.filters.update(
        ago=lambda epoch_s: formats.short_age(time.time() - epoch_s),
        elapsed=lambda epoch_s: formats.whole_duration(time.time() - epoch_s),
        moment=lambda epoch_s: formats.moment(epoch_s, time.time()),
        left=lambda epoch_s: formats.whole_duration(epoch_s - time.time()),
        age=formats.short_age,
    )
