"""Asks containers whether the model is served, how busy it is, and how far its start has come."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import replace
from pathlib import Path

from webapp.domain.units import MIB
from webapp.errors import WorkerSilent
from webapp.runtimes import processes
from webapp.runtimes.base import Probe, ProbeState
from webapp.runtimes.vllm.adoption import Adopter
from webapp.runtimes.vllm.containers import OwnContainer, OwnContainers
from webapp.runtimes.vllm.failures import end_of, garbled
from webapp.runtimes.vllm.log import Stage
from webapp.runtimes.vllm.server import Load, NotServing, Rubbish
from webapp.runtimes.worker_folder import InstanceRecord
from webapp.settings import Settings

log = logging.getLogger(__name__)

HTTP_S = 2.0
LOADING_HTTP_S = 0.5
READY_POLL_S = 0.1
"""Pause between requests to a container once its log reports that the server is up…"""
EARLY_POLL_S = 1.0
"""…and before that, in case another version logs it differently: the start needs the processor more."""
EXIT_SEEN_S = 1.0
"""How long to wait, after a failed answer, for the container's end, which would explain the failure."""
EXIT_POLL_S = 0.05


class ContainerProber:
    """Asks containers; see ``Runtime.probe``."""

    def __init__(self, settings: Settings, containers: OwnContainers, adopter: Adopter) -> None:
        self._settings = settings
        self._containers = containers
        self._adopter = adopter

    def probe(self, instance_id: str) -> Probe:
        """Ask an instance for its state."""
        own = self.find_alive(instance_id)
        return self._ask_ready(own) if own.is_ready else self._ask_starting(own)

    def find_alive(self, instance_id: str) -> OwnContainer:
        """Return the container of an instance. Raises UnknownInstance, EngineUnavailable, or the error that ended
        it."""
        own = self._adopter.find(instance_id)
        if own.log.has_ended:
            raise end_of(own, self._settings.vllm)
        return own

    def answers(self, own: OwnContainer, timeout_s: float) -> bool:
        """Return whether the model is served. Raises ServerGarbled if something else is."""
        try:
            names = own.server.models(timeout_s)
        except NotServing:
            return False
        except Rubbish as exc:
            raise garbled(own, self._containers, str(exc)) from exc
        if own.record.model_id not in names:
            raise garbled(own, self._containers, f"serves {', '.join(names) or 'nothing'}")
        return True

    def ready(self, own: OwnContainer) -> Probe:
        """Note that a container answers, and its shared memory, all of which exists by now."""
        shared = processes.shared_memory(processes.in_container(own.id))
        self._containers.change(own.record.id, lambda o: replace(o, is_ready=True, shared=shared))
        return self._ready_probe(own)

    def _ask_starting(self, own: OwnContainer) -> Probe:
        now = time.monotonic()
        pause = READY_POLL_S if own.log.stage is Stage.SERVING else EARLY_POLL_S
        if own.is_garbled or now - own.asked_at >= pause:
            inside = processes.in_container(own.id)
            resident, shared = processes.resident_bytes(inside) // MIB, own.shared | processes.shared_memory(inside)
            changed = self._containers.change(
                own.record.id,
                lambda o: replace(o, asked_at=now, is_garbled=False, resident_mib=resident, shared=shared),
            )
            own = changed or own
            if self.answers(own, LOADING_HTTP_S):
                return self.ready(own)
        stage = own.log.stage
        return Probe(
            state=ProbeState.STARTING if stage is Stage.STARTING else ProbeState.LOADING,
            activity=(own.log.count, own.resident_mib),
            progress=own.log.progress,
            message=own.log.message,
            pid=own.pid,
        )

    def _ask_ready(self, own: OwnContainer) -> Probe:
        try:
            load = own.server.load(HTTP_S)
        except (NotServing, Rubbish) as exc:
            if _has_ended_soon(own):
                raise end_of(own, self._settings.vllm) from exc
            if not self.answers(own, HTTP_S):
                raise WorkerSilent(instance=own.record.id, seconds=HTTP_S) from exc
            log.debug("%s answers and does not say how busy it is: %s", own.record.id, exc)
            load = Load()
        served = own.served if load.served is None else load.served
        used = bool(load.in_flight) or (own.served is not None and served != own.served)
        last = time.time() if used else own.last_used_at
        changed = self._containers.change(
            own.record.id, lambda o: replace(o, in_flight=load.in_flight, served=served, last_used_at=last)
        )
        return self._ready_probe(changed or own)

    def _ready_probe(self, own: OwnContainer) -> Probe:
        return Probe(
            state=ProbeState.READY,
            activity=(own.log.count,),
            in_flight=own.in_flight,
            last_used_at=own.last_used_at,
            memory=own.log.memory,
            has_chat_template=_has_chat_template(self._settings.models.hf_cache, own.record),
            pid=own.pid,
        )


def _has_ended_soon(own: OwnContainer) -> bool:
    """Return whether the container has ended; its first process shows that at once, the log a moment later."""
    if own.process is not None and own.process.is_alive:
        return False
    deadline = time.monotonic() + EXIT_SEEN_S
    while not own.log.has_ended and time.monotonic() < deadline:
        time.sleep(EXIT_POLL_S)
    return own.log.has_ended


def _has_chat_template(cache: Path, record: InstanceRecord) -> bool:
    snapshot = cache / f"models--{record.model_id.replace('/', '--')}" / "snapshots" / record.revision
    if any((snapshot / name).exists() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    try:
        return bool(json.loads((snapshot / "tokenizer_config.json").read_bytes()).get("chat_template"))
    except (OSError, ValueError, AttributeError):
        return False
