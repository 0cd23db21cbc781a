"""Containers as Docker describes them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class ContainerSummary:
    """A container in Docker's list."""

    id: str
    name: str
    image: str
    state: str
    """As Docker calls it: created, running, paused, restarting, exited, dead."""
    created_at: float
    labels: Mapping[str, str]
    ports: tuple[str, ...] = ()
    """``127.0.0.1:8000``…, as published on the host."""


@dataclass(frozen=True)
class Inspected:
    """A container as ``docker inspect`` describes it."""

    id: str
    name: str
    image: str
    status: str
    running: bool
    pid: int | None
    """Pid of its first process on the host; ``None`` if it is not running."""
    exit_code: int | None
    oom_killed: bool
    error: str
    """Why it could not be started, in Docker's words."""
    labels: Mapping[str, str]
    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Contains the API key: never shown, never logged."""


def summary_of(entry: Mapping[str, Any]) -> ContainerSummary:
    """Return the summary of an entry in Docker's list."""
    names = entry.get("Names") or [""]
    ports = [f"{p['IP']}:{p['PublicPort']}" for p in entry.get("Ports") or () if p.get("PublicPort") and p.get("IP")]
    return ContainerSummary(
        id=str(entry["Id"]),
        name=str(names[0]).lstrip("/"),
        image=str(entry.get("Image") or ""),
        state=str(entry.get("State") or "unknown"),
        created_at=float(entry.get("Created") or 0),
        labels=dict(entry.get("Labels") or {}),
        ports=tuple(sorted(ports)),
    )


def inspected_of(data: Mapping[str, Any]) -> Inspected:
    """Return one container from Docker's description."""
    state, config = data["State"], data["Config"]
    variables = dict(pair.partition("=")[::2] for pair in config.get("Env") or ())
    return Inspected(
        id=str(data["Id"]),
        name=str(data.get("Name") or "").lstrip("/"),
        image=str(config.get("Image") or ""),
        status=str(state.get("Status") or "unknown"),
        running=bool(state.get("Running")),
        pid=state.get("Pid") or None,
        exit_code=None if state.get("Running") else state.get("ExitCode"),
        oom_killed=bool(state.get("OOMKilled")),
        error=str(state.get("Error") or ""),
        labels=dict(config.get("Labels") or {}),
        arguments=tuple(str(a) for a in (*(config.get("Entrypoint") or ()), *(config.get("Cmd") or ()))),
        environment=variables,
    )


def moment(stamp: bytes) -> float | None:
    """Return a log line's time (RFC 3339 with nanoseconds) in seconds since the epoch, or ``None``."""
    text = stamp.decode("ascii", errors="replace")
    match = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?Z", text)
    if match is None:
        return None
    return datetime.fromisoformat(match[1] + "+00:00").timestamp() + float(match[2] or 0)
