"""Finds out from a container's log why the container has ended or gives wrong answers."""

from __future__ import annotations

import signal
from dataclasses import replace

from webapp.errors import ContainerExited, ContainerRemoved, LaunchFailed, PortLost, ServerGarbled
from webapp.runtimes.vllm.causes import cause_of
from webapp.runtimes.vllm.command import HOST_NETWORK
from webapp.runtimes.vllm.containers import OwnContainer, OwnContainers
from webapp.settings import VllmSettings

ERROR_LINES = 20


def end_of(own: OwnContainer, settings: VllmSettings) -> LaunchFailed:
    """Return why a container has ended."""
    how, lines = own.log.exit, own.log.lines
    if how is None:
        return ContainerRemoved(model=own.record.model_id, log="\n".join(lines[-ERROR_LINES:]))
    code = how.exit_code
    cause = cause_of(
        lines,
        model=own.record.model_id,
        max_tokens=own.record.options.max_tokens,
        exit_code=code,
        exit_signal=_signal_of(code),
        oom_killed=how.oom_killed,
    )
    if not isinstance(cause, PortLost):
        return cause
    if settings.network != HOST_NETWORK:  # the port is the container's own, so no other program can take it
        exit_code = _signal_of(code) or code
        return ContainerExited(model=own.record.model_id, exit=exit_code, log=cause.params["log"])
    return PortLost(**{**cause.params, "port": cause.params["port"] or own.server.port})


def garbled(own: OwnContainer, containers: OwnContainers, detail: str) -> ServerGarbled:
    """Return the error of an answer that is not from vLLM or from another model; the next probe asks at once again."""
    containers.change(own.record.id, lambda o: replace(o, is_garbled=True))
    return ServerGarbled(model=own.record.model_id, detail=detail, log="\n".join(own.log.lines[-ERROR_LINES:]))


def _signal_of(code: int | None) -> str | None:
    """Return the signal that an exit code over 128 stands for in shells and Docker."""
    if code is None or code <= 128:
        return None
    try:
        return signal.Signals(code - 128).name
    except ValueError:
        return None
