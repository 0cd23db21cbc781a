"""Translates a container's plan into the arguments of the library ``docker``."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from typing import Any

import docker
from docker.types import DeviceRequest, LogConfig
from docker.types import Mount as DockerMount

from webapp.runtimes.vllm.command import CONTAINER_PORT, ContainerPlan
from webapp.runtimes.vllm.server import LOOPBACK

LOG_FILES = {"max-size": "16m", "max-file": "2"}
"""Limits of a container's log on the disk: a busy model writes one line per request."""
MODULES = "/opt/warden"
"""The folder of a plan's Python modules in its container."""


def archive_of(modules: Mapping[str, bytes]) -> bytes:
    """Return modules as a tar archive for the root of a container: the engine may be unable to read a mount."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, source in modules.items():
            entry = tarfile.TarInfo(f"{MODULES.lstrip('/')}/{name}.py")
            entry.size, entry.mode = len(source), 0o644
            archive.addfile(entry, io.BytesIO(source))
    return buffer.getvalue()


def environment_of(client: docker.APIClient, plan: ContainerPlan) -> dict[str, str]:
    """Return the plan's environment with the modules' folder first in PYTHONPATH, which the image may set too.

    Raises APIError.
    """
    config = client.inspect_image(plan.image)["Config"] or {}  # type: ignore[no-untyped-call]
    usual = {**dict(pair.partition("=")[::2] for pair in config.get("Env") or ()), **plan.environment}
    search = filter(None, (MODULES, usual.get("PYTHONPATH")))
    return {**plan.environment, "PYTHONPATH": ":".join(search)}


def creation_of(client: docker.APIClient, plan: ContainerPlan) -> dict[str, Any]:
    """Return the arguments of ``create_container`` for a plan. Raises APIError."""
    host = client.create_host_config(
        mounts=[
            DockerMount(m.target, m.source, type="volume" if m.is_volume else "bind", read_only=m.read_only)
            for m in plan.mounts
        ],
        port_bindings={CONTAINER_PORT: (LOOPBACK, plan.port)} if plan.published else None,
        device_requests=[DeviceRequest(driver="nvidia", device_ids=list(plan.gpu_ids), capabilities=[["gpu"]])]
        if plan.gpu_ids
        else None,
        ipc_mode="host" if plan.ipc_host else None,
        shm_size=plan.shm_bytes,
        network_mode=plan.network,
        init=True,
        log_config=LogConfig(type=LogConfig.types.JSON, config=LOG_FILES),
    )
    return {
        "image": plan.image,
        "name": plan.name,
        "entrypoint": list(plan.entrypoint) if plan.entrypoint else None,
        "command": list(plan.command),
        "environment": environment_of(client, plan),
        "labels": dict(plan.labels),
        "ports": [CONTAINER_PORT] if plan.published else None,
        "host_config": host,
        "use_config_proxy": False,
    }
