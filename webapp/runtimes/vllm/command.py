"""Builds the plan of a vLLM container: command line, environment, mounts, devices, labels. Pure."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from webapp.domain.footprint import UTILIZATION_SCALE, PartName, share_of
from webapp.domain.memory import DeviceKind
from webapp.domain.modes import Mode
from webapp.domain.units import MIB
from webapp.errors import LaunchFailed, StartMemoryShort
from webapp.runtimes.base import LaunchDevice, LaunchSpec
from webapp.runtimes.worker_folder import InstanceRecord
from webapp.settings import Settings, VllmSettings

LABEL = "org.warden."
CONTAINER_PORT = 8000
CACHE_TARGET = "/hf-cache"
COMPILED_TARGET = "/root/.cache/vllm"
CPU_BLOCK_TOKENS = 128
"""Tokens of one block of the KV cache on the CPU (vLLM 0.32, platforms/cpu.py); the pool consists of whole blocks."""
GUARD = "warden_guard"
"""The name of the module ``guard`` in the container."""
MODEL_PLACE = "{model}"
HOST_NETWORK = "host"
_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}
BATCHED_TOKENS = "--max-num-batched-tokens"
_BATCH_FLAGS = {
    "--max-model-len",
    "--max-num-seqs",
    "--enable-chunked-prefill",
    "--no-enable-chunked-prefill",
    "--performance-mode",
}
"""Flags from which vLLM derives its batch: if the settings give one, vLLM may refuse the value of the plan."""
_SHORT_FLAGS = {"-tp": "--tensor-parallel-size"}
_RECORD = TypeAdapter(InstanceRecord)


@dataclass(frozen=True)
class Mount:
    """A folder of the host, or a Docker volume, in the container."""

    source: str
    target: str
    read_only: bool
    is_volume: bool


@dataclass(frozen=True)
class ContainerPlan:
    """A container to create, in plain values."""

    image: str
    name: str
    entrypoint: tuple[str, ...] | None
    """``None`` means that of the image."""
    command: tuple[str, ...]
    environment: Mapping[str, str]
    mounts: tuple[Mount, ...]
    gpu_ids: tuple[str, ...]
    """The GPUs' uuids or indices; empty on the CPU."""
    ipc_host: bool
    shm_bytes: int | None
    network: str
    port: int
    """The port on 127.0.0.1 of this machine."""
    published: bool
    """False on the host's network, where vLLM itself listens on the port."""
    labels: Mapping[str, str]
    modules: Mapping[str, bytes] = field(default_factory=dict)
    """Source of extra Python modules, by name."""


def container_plan(spec: LaunchSpec, settings: Settings, *, port: int, api_key: str) -> ContainerPlan:
    """Return the container that runs ``spec``.

    Raises:
        StartMemoryShort: vLLM would refuse to start on these devices.
        LaunchFailed: the model's files are not in the mounted cache, or a setting is invalid.
    """
    on_host_network = settings.vllm.network == HOST_NETWORK
    program, begin = _program(spec, settings)
    return ContainerPlan(
        image=settings.vllm.image,
        name=f"warden-{spec.instance_id}",
        entrypoint=program,
        command=(*begin, *_arguments(spec, settings, port if on_host_network else None)),
        environment={**_OFFLINE, **_settings_environment(settings.vllm), "VLLM_API_KEY": api_key},
        mounts=tuple(_mounts(settings)),
        gpu_ids=tuple(_gpu_id(device) for device in spec.devices if device.kind is DeviceKind.GPU),
        ipc_host=settings.vllm.shm_gib is None,
        shm_bytes=None if settings.vllm.shm_gib is None else round(settings.vllm.shm_gib * 2**30),
        network=settings.vllm.network,
        port=port,
        published=not on_host_network,
        labels=_labels(spec, settings, port),
        modules={GUARD: Path(__file__).with_name("guard.py").read_bytes()},
    )


def gpu_memory_utilization(spec: LaunchSpec) -> float:
    """Return the share of each GPU that vLLM should take: the smallest that holds the plan, rounded up.

    vLLM's rule (``request_memory``, 0.32) is ``free at start >= ceil(total * utilization)``, in CUDA's figures: the
    total excludes the driver's reserve, and the free memory is measured after vLLM's context exists. One value holds
    for all GPUs.

    Raises:
        StartMemoryShort: no value satisfies the rule on every GPU.
    """
    totals = [_cuda_total(spec, device) for device in spec.devices]
    share = share_of(spec.footprints, totals) / UTILIZATION_SCALE
    for device, total in zip(spec.devices, totals, strict=True):
        free, wanted = free_at_start(spec, device), math.ceil(total * share)
        if wanted > free:
            raise StartMemoryShort(model=spec.model_id, free_bytes=free, total_bytes=total, wanted_bytes=wanted, log="")
    return share


def free_at_start(spec: LaunchSpec, device: LaunchDevice) -> int:
    """Return the free bytes that vLLM will find on a GPU: those of the reading minus the plan's context."""
    context = sum(f.part(PartName.CONTEXT) for f in spec.footprints if f.device_id == device.id)
    return (device.free_bytes or 0) - context


def kv_cache_argument_bytes(spec: LaunchSpec) -> int:
    """Return the bytes of the KV cache on the CPU: the plan's, in whole blocks per request plus one empty block, in
    MiB.

    ``--kv-cache-memory-bytes`` takes bytes. The older ``VLLM_CPU_KVCACHE_SPACE`` takes only whole GiB, too coarse for a
    plan.
    """
    planned = sum(footprint.part(PartName.KV_CACHE) for footprint in spec.footprints)
    tokens, requests = spec.options.max_tokens, spec.options.batch_size
    blocks = requests * -(-tokens // CPU_BLOCK_TOKENS) + 1
    whole = -(-planned * blocks * CPU_BLOCK_TOKENS // (tokens * requests))
    return -(-whole // MIB) * MIB


def record_of(labels: Mapping[str, str]) -> InstanceRecord | None:
    """Return the instance record in a container's labels; ``None`` if they are missing or broken."""
    try:
        return _RECORD.validate_json(labels[LABEL + "record"])
    except (KeyError, ValidationError):
        return None


def port_range(settings: VllmSettings) -> range:
    """Return the ports that containers may use."""
    first, _, last = settings.ports.partition("-")
    return range(int(first), int(last or first) + 1)


def image_family(image: str) -> str:
    """Return an image's repository, without registry defaults, tag and digest: ``vllm/vllm-openai``."""
    name = image.partition("@")[0]
    head, slash, last = name.rpartition("/")
    repository = head + slash + last.partition(":")[0]
    for default in ("index.docker.io/", "docker.io/", "library/"):
        repository = repository.removeprefix(default)
    return repository


def _program(spec: LaunchSpec, settings: Settings) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """Return the entry point, unless it is the image's, and the arguments that name the model."""
    model = _model_path(spec, settings.models.hf_cache)
    words = shlex.split(settings.vllm.entrypoint)
    if not words:
        return None, (model,)
    if not any(MODEL_PLACE in word for word in words):
        return tuple(words), (model,)
    return (words[0],), tuple(word.replace(MODEL_PLACE, model) for word in words[1:])


def _model_path(spec: LaunchSpec, hf_cache: Path) -> str:
    """Return the snapshot's path in the container. Raises LaunchFailed."""
    for cache, snapshot in ((hf_cache, spec.snapshot), (hf_cache.resolve(), spec.snapshot.resolve())):
        if snapshot.is_relative_to(cache) and ".." not in snapshot.parts:
            return str(Path(CACHE_TARGET) / snapshot.relative_to(cache))
    raise LaunchFailed(model=spec.model_id, detail=f"{spec.snapshot} is not in {hf_cache}", log="")


def _arguments(spec: LaunchSpec, settings: Settings, own_port: int | None) -> list[str]:
    """Return the flags; those in the settings replace Warden's."""
    extra = shlex.split(settings.vllm.args)
    theirs = {_long(word.partition("=")[0]) for word in extra if word.startswith("-")}
    if theirs & _BATCH_FLAGS:
        theirs.add(BATCHED_TOKENS)
    ours = [(flag, value()) for flag, value in _flags(spec, settings, own_port) if flag not in theirs]
    guard = ["--middleware", f"{GUARD}.Guard"]  # in addition to those of the settings: vLLM accepts several
    return [*(word for flag, value in ours for word in _words(flag, value)), *guard, *extra]


def _words(flag: str, value: str | None) -> tuple[str, ...]:
    """Return a flag and its value as two words, or as one if the value looks like a flag: a model may be named
    ``-h``."""
    if value is None:
        return (flag,)
    return (f"{flag}={value}",) if value.startswith("-") else (flag, value)


def _long(flag: str) -> str:
    """Return the long form of a flag."""
    return _SHORT_FLAGS.get(flag, flag.replace("_", "-"))


def _flags(
    spec: LaunchSpec, settings: Settings, own_port: int | None
) -> Iterator[tuple[str, Callable[[], str | None]]]:
    """Yield each flag with a function that returns its value, or with ``None`` if the flag has no value.

    The function is called only for flags that the settings do not replace, as it may refuse the start.
    """
    options, gpus = spec.options, [d for d in spec.devices if d.kind is DeviceKind.GPU]
    yield "--served-model-name", lambda: spec.model_id
    yield "--host", lambda: "0.0.0.0" if own_port is None else "127.0.0.1"  # noqa: S104  inside the container; published on 127.0.0.1  # nosec B104
    yield "--port", lambda: str(CONTAINER_PORT if own_port is None else own_port)
    yield "--dtype", lambda: options.dtype.value
    yield "--max-model-len", lambda: str(options.max_tokens)
    yield "--max-num-seqs", lambda: str(options.batch_size)
    if spec.batched_tokens is not None:
        yield BATCHED_TOKENS, lambda: str(spec.batched_tokens)
    if gpus:
        yield "--gpu-memory-utilization", lambda: f"{gpu_memory_utilization(spec):.4f}"
    else:
        yield "--kv-cache-memory-bytes", lambda: str(kv_cache_argument_bytes(spec))
    if len(gpus) > 1:
        yield "--tensor-parallel-size", lambda: str(len(gpus))
    if settings.models.allow_remote_code:
        yield "--trust-remote-code", lambda: None
    yield "--shutdown-timeout", lambda: str(round(settings.vllm.drain_s))


def _cuda_total(spec: LaunchSpec, device: LaunchDevice) -> int:
    total = None if device.total_bytes is None else device.total_bytes - (device.reserved_bytes or 0)
    if not total or total <= 0:
        raise LaunchFailed(model=spec.model_id, detail=f"the memory of {device.id} is not known", log="")
    return total


def _settings_environment(settings: VllmSettings) -> Mapping[str, str]:
    return dict(pair.partition("=")[::2] for pair in settings.env)


def _mounts(settings: Settings) -> Iterator[Mount]:
    yield Mount(str(settings.models.hf_cache.resolve()), CACHE_TARGET, read_only=True, is_volume=False)
    if settings.vllm.cache_volume:
        yield Mount(settings.vllm.cache_volume, COMPILED_TARGET, read_only=False, is_volume=True)
    for text in settings.vllm.mounts:
        source, target, *rest = text.split(":")
        yield Mount(source, target, read_only=rest == ["ro"], is_volume=not source.startswith("/"))


def _gpu_id(device: LaunchDevice) -> str:
    return device.uuid or str(device.index)


def _labels(spec: LaunchSpec, settings: Settings, port: int) -> Mapping[str, str]:
    record = InstanceRecord.of(spec, Mode.VLLM)
    values = {
        "home": str(settings.storage.state_dir),
        "instance": spec.instance_id,
        "operation": spec.operation_id,
        "owner": spec.owner,
        "model": spec.model_id,
        "port": str(port),
        "record": _RECORD.dump_json(record).decode(),
    }
    return {LABEL + name: value for name, value in values.items()}
