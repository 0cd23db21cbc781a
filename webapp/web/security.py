"""Protects the page from other sites: host names, origins, headers, form tokens, the secret key.

The attacker is a page of another site in the same browser. It can send requests to 127.0.0.1 and, by rebinding its own
name to 127.0.0.1, read the answers.
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
"""Allows nothing inline and nothing from other sites; htmx, the charts and the dialogs comply with it."""

HEADERS: Final = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
FORM_TYPES: Final = frozenset({"application/x-www-form-urlencoded", "multipart/form-data", "text/plain"})
"""Content types that a form of any site may send without a preflight request."""
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
        # Cookies ignore ports: two servers behind tunnels on localhost would overwrite each other's session.
        SESSION_COOKIE_NAME=f"warden_session_{blake2b(key, digest_size=4).hexdigest()}",
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        MAX_CONTENT_LENGTH=BODY_LIMIT,
        MAX_FORM_MEMORY_SIZE=BODY_LIMIT,
        MAX_FORM_PARTS=100,
        WTF_CSRF_TIME_LIMIT=None,  # a page may stay open for days; the token expires with the session
        WTF_CSRF_SSL_STRICT=False,  # the origin check below does that, even behind a proxy
        WTF_CSRF_CHECK_DEFAULT=False,  # called below, after the names and origins
    )
    csrf.init_app(app)
    app.session_interface = _Sessions(app)
    app.before_request(lambda: _check(settings.server))
    app.after_request(_add_headers)


def init_form_tokens(app: Flask) -> None:
    """Make ``app`` check the form's token, after the sender of the request and their permission."""
    app.before_request(_check_token)


class _Sessions(SecureCookieSessionInterface):
    """Session cookies that are marked as secure if the request came over TLS."""

    def __init__(self, app: Flask) -> None:
        # Created once; Flask would create one for every request.
        self._signing = super().get_signing_serializer(app)

    def get_signing_serializer(self, app: Flask) -> URLSafeTimedSerializer | None:
        """Return the serializer; the key of a running application does not change."""
        return self._signing

    def get_cookie_secure(self, app: Flask) -> bool:
        """Return whether the request came over TLS, according to a trusted proxy if there is one."""
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
    """Refuse a request whose body the server did not accept; it arrives with its head only."""
    if "Transfer-Encoding" in request.headers:
        raise LengthRequired
    if (request.content_length or 0) > BODY_LIMIT:
        raise RequestEntityTooLarge


def _check_token() -> None:
    """Check the form's token if the browser identified the sender automatically, which it never does by an API
    token."""
    if request.method in SAFE_METHODS:
        return
    identity = current_identity()
    way = None if identity is None else identity.way
    if way is AuthMethod.TOKEN or (is_api() and way in (None, AuthMethod.LOCAL)):
        return
    csrf.protect()


def is_api() -> bool:
    """Whether the request is for the JSON interface, even for a missing route."""
    return request.path.startswith("/api/")


def host_is_trusted(host: str, trusted: Iterable[str]) -> bool:
    """Return whether the name in ``host`` (``name``, ``name:port``, ``[v6]:port``) is one of ``trusted``; ``.lab``
    includes every subdomain."""
    match = re.fullmatch(r"(\[[0-9a-f:.]+\]|[^:\[\]]+)(?::\d+)?", host.lower())
    if match is None:
        return False
    name = match[1].removesuffix(".")
    return any(name == t.lower() or (t.startswith(".") and name.endswith(t.lower())) for t in trusted)


def _comes_from_elsewhere() -> bool:
    """Return whether another site sent the request, by headers that no site can suppress and that only browsers send."""
    if request.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
        return True
    origin = request.headers.get("Origin")
    return origin is not None and _netloc(origin) != request.host.lower()


def _netloc(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:  # such as "http://["
        return None


def _add_headers(response: Response) -> Response:
    for name, value in HEADERS.items():
        if name not in response.headers:
            response.headers.add(name, value)
    response.headers.setdefault("Cache-Control", "no-store")  # cached figures would be wrong
    return response


def secret_key(state_dir: Path) -> bytes:
    """Return the key that signs cookies; it is created once and stored in the state folder, private to its owner.

    If the disk is full, a temporary key allows models to be ended; everybody signs in again after the next start.

    Raises:
        ConfigurationError: the state folder cannot be written, or the file holds no key.
    """
    path = state_dir / SECRET_FILE
    try:
        make_private(state_dir)
        if not path.exists():
            _create(path)
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)  # a copied file may be readable by others
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
    """Write a key atomically; if two processes do so, the first key counts."""
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
    """Return ``target`` if it is a path on this site, or else ``/``, so that a crafted link leads nowhere else."""
    if not target or not target.startswith("/") or re.match(r"/[/\\]", target) or re.search(r"[\x00-\x20\\]", target):
        return "/"
    parts = urlsplit(target)
    return "/" if parts.scheme or parts.netloc else target
