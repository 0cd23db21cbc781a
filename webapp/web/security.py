"""What keeps a page on this machine from being used by strangers: names, origins, headers, tokens, the secret key.

A page of another site that is open in the same browser is the opponent: it can send requests to 127.0.0.1, and by rebinding its own
name to 127.0.0.1 read the answers.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from flask import Flask, Response, request
from flask.sessions import SecureCookieSessionInterface
from flask_wtf.csrf import CSRFProtect
from itsdangerous import URLSafeTimedSerializer
from werkzeug.exceptions import HTTPException, LengthRequired, RequestEntityTooLarge

from webapp.domain.people import AuthMethod
from webapp.errors import ConfigurationError
from webapp.folders import disk_trouble, make_private
from webapp.server.incoming import BODY_LIMIT
from webapp.settings import ServerSettings, Settings
from webapp.web.actor import current_identity

log = logging.getLogger(__name__)

CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""Nothing inline and nothing from elsewhere; htmx, the charts and the dialogs are made to live with it."""

HEADERS: Final = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
FORM_TYPES: Final = frozenset({"application/x-www-form-urlencoded", "multipart/form-data", "text/plain"})
"""What a form of any site may send without asking first."""
SECRET_FILE: Final = "secret_key"  # noqa: S105  a name
SECRET_BYTES: Final = 32

csrf = CSRFProtect()


class UntrustedHost(HTTPException):
    """The request names a host that is not in ``WARDEN_TRUSTED_HOSTS``."""

    code = 400


class CrossSite(HTTPException):
    """The request comes from a page of another site."""

    code = 403


class FormForJson(HTTPException):
    """The JSON interface received a form content type, which only a page of another site would send."""

    code = 403


class Upload(HTTPException):
    """A file, or a form encoded for files, was sent; no page of Warden does that."""

    code = 415


def init_security(app: Flask, settings: Settings) -> None:
    """Set limits, cookies, headers and checks on ``app``."""
    key = secret_key(settings.storage.state_dir)
    app.config.update(
        SECRET_KEY=key,
        # Ports share cookies: two servers behind two tunnels on localhost would take each other's session away under one name.
        SESSION_COOKIE_NAME=f"warden_session_{blake2b(key, digest_size=4).hexdigest()}",
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        MAX_CONTENT_LENGTH=BODY_LIMIT,
        MAX_FORM_MEMORY_SIZE=BODY_LIMIT,
        MAX_FORM_PARTS=100,
        WTF_CSRF_TIME_LIMIT=None,  # a page may stay open for days; the token ends with the session
        WTF_CSRF_SSL_STRICT=False,  # the origin check below does that, behind a proxy too
        WTF_CSRF_CHECK_DEFAULT=False,  # called below, after the names and origins
    )
    csrf.init_app(app)
    app.session_interface = _Sessions(app)
    app.before_request(lambda: _check(settings.server))
    app.after_request(_add_headers)


def init_form_tokens(app: Flask) -> None:
    """Let ``app`` ask for the form's token, once it is settled who sends a request and that this person may."""
    app.before_request(_check_token)


class _Sessions(SecureCookieSessionInterface):
    """Cookies that a browser sends over TLS alone, where it came by TLS."""

    def __init__(self, app: Flask) -> None:
        # Made once: Flask's own makes one for every request.
        self._signing = super().get_signing_serializer(app)

    def get_signing_serializer(self, app: Flask) -> URLSafeTimedSerializer | None:
        """See Flask; the key of a running application does not change."""
        return self._signing

    def get_cookie_secure(self, app: Flask) -> bool:
        """See Flask; the scheme is the proxy's where that may say it."""
        return request.is_secure


def _check(settings: ServerSettings) -> None:
    if not host_is_trusted(request.host, settings.trusted_hosts):
        raise UntrustedHost
    _refuse_body_unread()
    if request.method in SAFE_METHODS:
        return
    if _comes_from_elsewhere():
        raise CrossSite
    if is_api() and request.mimetype in FORM_TYPES:
        raise FormForJson
    if request.mimetype == "multipart/form-data":
        raise Upload


def _refuse_body_unread() -> None:
    """Refuse a body that is not taken in: the server hands such a request on with its head alone."""
    if "Transfer-Encoding" in request.headers:
        raise LengthRequired
    if (request.content_length or 0) > BODY_LIMIT:
        raise RequestEntityTooLarge


def _check_token() -> None:
    """Ask for the token if a browser identifies the person automatically; it never sends an API token automatically."""
    if request.method in SAFE_METHODS:
        return
    identity = current_identity()
    way = None if identity is None else identity.way
    if way is AuthMethod.TOKEN or (is_api() and way in (None, AuthMethod.LOCAL)):
        return
    csrf.protect()


def is_api() -> bool:
    """Whether the request is for the JSON interface, existing or not."""
    return request.path.startswith("/api/")


def host_is_trusted(host: str, trusted: Iterable[str]) -> bool:
    """Return whether the name in ``host`` (``name``, ``name:port``, ``[v6]:port``) is one of ``trusted``; ``.lab`` means any below it."""
    match = re.fullmatch(r"(\[[0-9a-f:.]+\]|[^:\[\]]+)(?::\d+)?", host.lower())
    if match is None:
        return False
    name = match[1].removesuffix(".")
    return any(name == t.lower() or (t.startswith(".") and name.endswith(t.lower())) for t in trusted)


def _comes_from_elsewhere() -> bool:
    """By what browsers say of themselves; programs such as curl say nothing, and no browser can be made to."""
    if request.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
        return True
    origin = request.headers.get("Origin")
    return origin is not None and _netloc(origin) != request.host.lower()


def _netloc(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:  # such as "http://[": nobody's
        return None


def _add_headers(response: Response) -> Response:
    for name, value in HEADERS.items():
        if name not in response.headers:
            response.headers.add(name, value)
    response.headers.setdefault("Cache-Control", "no-store")  # figures of a moment ago are wrong figures
    return response


def secret_key(state_dir: Path) -> bytes:
    """Return the key that signs cookies, made once and kept in the state folder for its owner only.

    On a disk that takes nothing a new key lasts until the program ends: everybody signs in again then, and models can be ended now.

    Raises:
        ConfigurationError: the state folder cannot be written, or the file holds no key.
    """
    path = state_dir / SECRET_FILE
    try:
        make_private(state_dir)
        if not path.exists():
            _create(path)
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)  # a copy that came from elsewhere can be open
        key = path.read_bytes()
    except OSError as exc:
        trouble = disk_trouble(exc)
        if trouble is not None and not path.exists():
            log.warning("%s cannot be written (%s); sign-ins end with this process", path, trouble)
            return secrets.token_bytes(SECRET_BYTES)
        raise ConfigurationError(
            setting="WARDEN_STATE_DIR", value=str(state_dir), detail=f"{exc.strerror}: {exc.filename}"
        ) from exc
    if len(key) < SECRET_BYTES:
        raise ConfigurationError(
            setting="WARDEN_STATE_DIR", value=str(state_dir), detail=f"{path} holds no key; remove it to get a new one"
        )
    return key


def _create(path: Path) -> None:
    """Write a key so that nobody ever sees half of one; who comes second takes the first one's."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(SECRET_BYTES))
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink(missing_ok=True)


def same_site_path(target: str | None) -> str:
    """Return ``target`` when it is a path on this site, else ``/``: nobody is sent away by a crafted link."""
    if not target or not target.startswith("/") or re.match(r"/[/\\]", target) or re.search(r"[\x00-\x20\\]", target):
        return "/"
    parts = urlsplit(target)
    return "/" if parts.scheme or parts.netloc else target
