"""The GPUs, read with NVIDIA's management library; the only module that imports pynvml."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import pynvml

from webapp.domain.memory import DeviceKind, Holder, Reading, without_figures
from webapp.errors import DeviceLost, DriverMissing, NotSupported, ProbeFailed
from webapp.hardware.holders import Holders, ProcessRound
from webapp.message import Message

T = TypeVar("T")

_DRIVER_ERRORS = (
    pynvml.NVMLError_Uninitialized,
    pynvml.NVMLError_DriverNotLoaded,
    pynvml.NVMLError_LibraryNotFound,
    pynvml.NVMLError_LibRmVersionMismatch,
)
"""No call can succeed before the library is opened again. A version mismatch is an updated driver before the reboot."""
_LOST_ERRORS = (pynvml.NVMLError_GpuIsLost, pynvml.NVMLError_ResetRequired, pynvml.NVMLError_GpuNotFound)
_UNSUPPORTED_ERRORS = (
    pynvml.NVMLError_NotSupported,
    pynvml.NVMLError_FunctionNotFound,
    pynvml.NVMLError_ArgumentVersionMismatch,
    pynvml.NVMLError_Deprecated,
    pynvml.NVMLError_NoPermission,
    pynvml.NVMLError_NoData,
    pynvml.NVMLLibraryMismatchError,
)


@dataclass(frozen=True)
class _Memory:
    """A device's memory as the driver reports it, in bytes."""

    total: int
    reserved: int | None
    used: int
    free: int


@dataclass(frozen=True)
class _Gpu:
    """A GPU that answered. ``handle`` is the driver's."""

    device_id: str
    handle: Any
    name: str | None
    uuid: str | None


class NvmlProbe:
    """Reads every GPU of the machine.

    A GPU keeps its first id, ``gpu-N`` by NVML's index, for as long as the probe exists: NVML leaves a lost GPU out of
    its list after it is opened again, and the others would move up. Not thread-safe.
    """

    def __init__(self, holders: Holders) -> None:
        self._holders = holders
        self._is_open = False
        self._known: dict[str, Reading] = {}
        """The last reading of each GPU ever seen, for its name and uuid."""

    def open(self) -> None:
        """Open the library.

        Raises:
            DriverMissing: there is no NVIDIA driver or library, or their versions do not match.
            ProbeFailed: the driver refuses.
        """
        if not self._is_open:
            with _translated():
                pynvml.nvmlInit()
            self._is_open = True

    def close(self) -> None:
        """Close the library; may be called after a failure, and more than once."""
        if self._is_open:
            self._is_open = False
            with _passed_over(), _translated():
                pynvml.nvmlShutdown()

    def read(self, *, anew: bool = False) -> tuple[Reading, ...]:
        """Read all GPUs, opening the library first if necessary; a lost GPU is listed without figures.

        ``anew`` changes nothing: the driver is asked for every value each time.

        Raises:
            DriverMissing: the driver is missing or has disappeared; the next call tries it again.
            ProbeFailed: the driver does not report which GPUs there are.
        """
        self.open()
        try:
            readings = self._read_all()
        except DriverMissing:
            self.close()
            raise
        self._known = {reading.device_id: reading for reading in readings}
        return readings

    def _read_all(self) -> tuple[Reading, ...]:
        with _translated():
            count = pynvml.nvmlDeviceGetCount()
        look = self._holders.look()
        readings: dict[str, Reading] = {}
        failures: dict[str, ProbeFailed] = {}
        for index in range(count):
            try:
                gpu = self._find(index, readings.keys())
            except DriverMissing:
                raise
            except ProbeFailed as error:
                failures[_device_id(index)] = error
            else:
                readings[gpu.device_id] = self._read_gpu(gpu, look)
        absent = {device_id: failures.get(device_id) for device_id in (*self._known, *failures)}
        for device_id, failure in absent.items():
            readings.setdefault(device_id, self._absent(device_id, failure))
        return tuple(sorted(readings.values(), key=lambda reading: int(reading.device_id.removeprefix("gpu-"))))

    def _find(self, index: int, given: Set[str]) -> _Gpu:
        with _translated(_device_id(index)):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        uuid = _optional(lambda: str(pynvml.nvmlDeviceGetUUID(handle)))
        name = _optional(lambda: str(pynvml.nvmlDeviceGetName(handle)))
        return _Gpu(self._identify(index, uuid, given), handle, name, uuid)

    def _identify(self, index: int, uuid: str | None, given: Set[str]) -> str:
        """Return the GPU's first id; a new GPU takes the number of its index, or the next free one."""
        if uuid is not None:
            for known in self._known.values():
                if known.uuid == uuid:
                    return known.device_id
        owned = {device_id for device_id, known in self._known.items() if uuid and known.uuid}
        while _device_id(index) in owned | given:
            index += 1
        return _device_id(index)

    def _absent(self, device_id: str, failure: ProbeFailed | None) -> Reading:
        """Return the reading of a GPU for which the driver gives no handle, or that it no longer lists."""
        why = failure or DeviceLost(device=device_id, detail="GPU is not listed")
        return without_figures(self._known.get(device_id) or _unread(device_id), _problem(why, device_id))

    def _read_gpu(self, gpu: _Gpu, look: ProcessRound) -> Reading:
        known = self._known.get(gpu.device_id)
        identity = _unread(
            gpu.device_id,
            gpu.name or (known.name if known else None),
            gpu.uuid or (known.uuid if known else None),
        )
        try:
            return _figures(gpu, identity, look)
        except DriverMissing:
            raise
        except ProbeFailed as error:
            return without_figures(identity, _problem(error, gpu.device_id))


def translate(error: Exception, device_id: str | None = None) -> ProbeFailed:
    """Return Warden's error for one of pynvml's; every pynvml error in this module passes through here."""
    detail = str(error)
    if isinstance(error, _DRIVER_ERRORS):
        return DriverMissing(detail=detail)
    if isinstance(error, _LOST_ERRORS):
        return DeviceLost(device=device_id, detail=detail)
    if isinstance(error, _UNSUPPORTED_ERRORS):
        return NotSupported(device=device_id, detail=detail)
    return ProbeFailed(device=device_id, detail=detail)


@contextmanager
def _translated(device_id: str | None = None) -> Iterator[None]:
    try:
        yield
    except (pynvml.NVMLError, pynvml.NVMLLibraryMismatchError) as exc:
        raise translate(exc, device_id) from exc


@contextmanager
def _passed_over() -> Iterator[None]:
    """Ignore errors while closing: a broken library cannot be closed, and nothing is lost."""
    try:
        yield
    except ProbeFailed:
        return


def _device_id(index: int) -> str:
    return f"gpu-{index}"


def _unread(device_id: str, name: str | None = None, uuid: str | None = None) -> Reading:
    """Return the reading of a GPU before any figure is read."""
    return Reading(device_id, DeviceKind.GPU, name, uuid)


def _problem(error: ProbeFailed, device_id: str) -> Message:
    code = "device_lost" if isinstance(error, DeviceLost) else "device_unreadable"
    return Message(code, {"device": device_id, "detail": error.params.get("detail")})


def _optional(ask: Callable[[], T]) -> T | None:
    """Return a figure that a GPU may not have.

    Only a lost GPU or a lost driver is an error; for any other answer of the driver the figure is unknown.
    """
    try:
        with _translated():
            return ask()
    except (DriverMissing, DeviceLost):
        raise
    except ProbeFailed:
        return None


def _first_supported(*asks: Callable[[], T]) -> T:
    """Return the answer of the newest call that this driver supports."""
    *newer, oldest = asks
    for ask in newer:
        try:
            with _translated():
                return ask()
        except NotSupported:
            continue
    with _translated():
        return oldest()


def _figures(gpu: _Gpu, identity: Reading, look: ProcessRound) -> Reading:
    """Read the available figures of one GPU; memory or a process list that cannot be read is its ``problem``."""
    memory, memory_error = _attempt(lambda: _memory(gpu.handle))
    holders, holders_error = _attempt(lambda: _holders(gpu.handle, look))
    return replace(
        identity,
        total_bytes=memory.total if memory else None,
        reserved_bytes=memory.reserved if memory else None,
        used_bytes=memory.used if memory else None,
        free_bytes=memory.free if memory else None,
        utilization_percent=_optional(lambda: float(pynvml.nvmlDeviceGetUtilizationRates(gpu.handle).gpu)),
        temperature_c=_optional(lambda: _temperature(gpu.handle)),
        power_w=_optional(lambda: float(pynvml.nvmlDeviceGetPowerUsage(gpu.handle) / 1000)),
        holders=holders or (),
        holders_known=holders is not None,
        problem=_problem_of_figures(gpu.device_id, memory_error, holders_error),
    )


def _attempt(ask: Callable[[], T]) -> tuple[T | None, ProbeFailed | None]:
    """Return a figure like ``_optional``, and the error that explains its absence."""
    try:
        return ask(), None
    except (DriverMissing, DeviceLost):
        raise
    except ProbeFailed as error:
        return None, error


def _problem_of_figures(device_id: str, memory: ProbeFailed | None, holders: ProbeFailed | None) -> Message | None:
    if memory is not None:
        return _problem(memory, device_id)
    if holders is not None:
        return Message("holders_unknown", {"device": device_id, "detail": holders.params.get("detail")})
    return None


def _memory(handle: Any) -> _Memory:
    """Return the memory. Version 2 states the driver's reserve; version 1 counts it as used (the only one in drivers
    before 510).
    """

    def version_2() -> _Memory:
        info = pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
        return _Memory(info.total, info.reserved, info.used, info.free)

    def version_1() -> _Memory:
        info = pynvml.nvmlDeviceGetMemoryInfo(handle)
        return _Memory(info.total, None, info.used, info.free)

    return _first_supported(version_2, version_1)


def _temperature(handle: Any) -> float:
    """Return the temperature. CUDA 14 removes the older call; driver 560 introduced the newer one."""
    return float(
        _first_supported(
            lambda: pynvml.nvmlDeviceGetTemperatureV(handle, pynvml.NVML_TEMPERATURE_GPU),
            lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU),
        )
    )


def _holders(handle: Any, look: ProcessRound) -> tuple[Holder, ...]:
    """Return the processes that compute or draw on a GPU."""
    compute = _first_supported(
        lambda: _claims(pynvml.nvmlDeviceGetComputeRunningProcesses_v3(handle)),
        lambda: _claims(pynvml.nvmlDeviceGetComputeRunningProcesses_v2(handle)),
    )
    try:
        graphics = _first_supported(
            lambda: _claims(pynvml.nvmlDeviceGetGraphicsRunningProcesses_v3(handle)),
            lambda: _claims(pynvml.nvmlDeviceGetGraphicsRunningProcesses_v2(handle)),
        )
    except NotSupported:
        graphics = []
    return tuple(look.holder(pid, used_bytes) for pid, used_bytes in merge_claims(compute, graphics).items())


Claims = Sequence[tuple[int, int | None]]
"""Pids with the bytes that each holds, from one of the driver's lists; ``None`` is unknown (MIG, WSL)."""


def _claims(processes: Sequence[Any]) -> Claims:
    return [(int(process.pid), process.usedGpuMemory) for process in processes]


def merge_claims(compute: Claims, graphics: Claims) -> dict[int, int | None]:
    """Return one figure per pid.

    A list names a pid once for each MIG slice, and those figures add up. A process that computes and draws is in both
    lists with its whole memory, which counts once.
    """
    whole, other = _by_pid(compute), _by_pid(graphics)
    for pid, used_bytes in other.items():
        counted = whole.get(pid)
        whole[pid] = used_bytes if counted is None else max(counted, used_bytes or 0)
    return whole


def _by_pid(claims: Claims) -> dict[int, int | None]:
    sums: dict[int, int | None] = {}
    for pid, used_bytes in claims:
        before = sums.get(pid, 0)
        sums[pid] = None if before is None or used_bytes is None else before + used_bytes
    return sums
