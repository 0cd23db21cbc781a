"""Docker's failures as Warden's errors."""

from __future__ import annotations

import errno
import getpass
import re
from pathlib import Path

import docker
import requests
from docker.errors import APIError, NotFound

from webapp.errors import (
    DiskFull,
    EngineForbidden,
    EngineMissing,
    EngineUnavailable,
    EngineUnreachable,
    GpuRuntimeMissing,
    ImageMissing,
    LaunchBlocked,
    NameTaken,
    WardenError,
)
from webapp.runtimes.shortage import mount_of
from webapp.runtimes.vllm.command import ContainerPlan

DETAIL_LENGTH = 400
_NO_GPU_RUNTIME = re.compile(
    r"could not select device driver|unknown runtime|nvidia-container|no CDI devices|CDI device", re.I
)
_PORT_IN_USE = re.compile(r"port is already allocated|address already in use|ports are not available", re.I)
_NO_SPACE = re.compile(r"no space left on device|disk quota exceeded", re.I)
_NO_CONTAINER = re.compile(r"no such container", re.I)
"""Needed because a start also answers 404 for other reasons, such as a missing network."""


class ContainerGone(Exception):
    """The container no longer exists."""


class PortInUse(Exception):
    """Another program took the port after it was chosen."""


def pull_command(image: str) -> str:
    """Return the shell command that pulls an image."""
    return f"docker pull {image}"


def creation_error(client: docker.APIClient, plan: ContainerPlan, model: str | None, exc: APIError) -> WardenError:
    """Return why a container was not created. Raises APIError."""
    detail = detail_of(exc)
    if exc.status_code == 404 and "image" in detail.lower():
        return ImageMissing(model=model, image=plan.image, command=pull_command(plan.image))
    if exc.status_code == 409:
        return NameTaken(model=model, name=plan.name)
    return blocked(client, model, detail)


def start_error(client: docker.APIClient, model: str | None, exc: APIError) -> Exception:
    """Return why a container was not started; NotFound if it is gone. Raises APIError."""
    detail = detail_of(exc)
    if isinstance(exc, NotFound) and _NO_CONTAINER.search(detail):
        return exc
    if _PORT_IN_USE.search(detail):
        return PortInUse(detail)
    if _NO_GPU_RUNTIME.search(detail):
        return GpuRuntimeMissing(model=model, detail=detail)
    return blocked(client, model, detail)


def blocked(client: docker.APIClient, model: str | None, detail: str) -> LaunchBlocked:
    """Return why Docker did not start a container, naming the disk if one is full. Raises APIError."""
    if not _NO_SPACE.search(detail):
        return LaunchBlocked(model=model, detail=detail, log="")
    root = Path(client.info()["DockerRootDir"])
    return DiskFull(model=model, path=str(root), mount=str(mount_of(root)))


def unreachable(exc: Exception, socket: str, timeout_s: float) -> EngineUnavailable:
    """Return why the engine behind ``socket`` cannot be reached."""
    number = _errno(exc)
    if number in (errno.ENOENT, errno.ENOTDIR):
        return EngineMissing(socket=socket)
    if number in (errno.EACCES, errno.EPERM):
        return EngineForbidden(socket=socket, user=_user())
    return EngineUnreachable(socket=socket, detail=_why(exc, timeout_s))


def detail_of(exc: APIError) -> str:
    """Return the engine's message."""
    return str(exc.explanation or exc)[:DETAIL_LENGTH]


def _errno(exc: BaseException | None) -> int | None:
    """Return the number of the underlying system error; libraries wrap it in arguments as well as in causes."""
    seen: list[object] = [exc]
    for item in seen:
        if isinstance(item, OSError) and item.errno is not None and not isinstance(item, requests.RequestException):
            return item.errno
        if isinstance(item, BaseException) and len(seen) < 40:
            seen += [*item.args, item.__cause__, item.__context__]
        elif isinstance(item, tuple):
            seen += item
    return None


def _why(exc: Exception, timeout_s: float) -> str:
    if isinstance(exc, requests.Timeout):
        return f"no answer in {timeout_s:g} s"
    number = _errno(exc)
    text = str(exc) if number is None else errno.errorcode.get(number, str(exc))
    return text[:DETAIL_LENGTH]


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "?"
