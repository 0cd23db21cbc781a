"""A simulated machine with GPUs: a C library in place of NVIDIA's, and the folder that it reads on every call.

The library has the soname ``libnvidia-ml.so.1``. A program started with ``NvmlStub.env()`` finds it instead of the
driver's, and pynvml works with it unchanged. Its answers are in the folder ``$NVML_STUB_DIR``::

    gpu-0/                  one folder per GPU, numbered without a gap
      total                 bytes; a folder without this file is no GPU
      reserved              bytes reserved by the driver (0)
      used                  bytes in use that belong to no process below (0)
      name  uuid            text; not supported if missing
      utilization           percent; not supported if missing
      temperature           degrees Celsius; not supported if missing
      power                 milliwatts; not supported if missing
      processes/PID         bytes that a compute process holds, or ``none`` if the driver does not know
      graphics/PID          the same for a graphics process; a pid in both lists counts once
      errors/CALL           an NVML error number that CALL returns: handle, name, uuid, memory, memory_v1, memory_v2,
                            utilization, temperature, temperature_v1, temperature_v2, power, processes, processes_v2,
                            processes_v3, graphics, graphics_v2, graphics_v3, or all
    errors/init             an error number of nvmlInit
    errors/count            an error number of nvmlDeviceGetCount
    errors/driver           an error number of every call
    block                   seconds that every call waits at most; a waiting call continues once the file is removed

The device's used memory is ``used`` plus the bytes of all live processes. A process entry lasts as long as its process:
the next call removes the entry of a process that has ended, even of a zombie. A program that simulates a worker
therefore takes memory with ``echo 1073741824 > $NVML_STUB_DIR/gpu-0/processes/$$`` and frees it by ending.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from enum import IntEnum
from pathlib import Path

SOURCE = Path(__file__).with_name("nvml_stub.c")
SONAME = "libnvidia-ml.so.1"
FOLDER_VARIABLE = "NVML_STUB_DIR"


class NvmlCode(IntEnum):
    """NVML's error numbers that the tests inject."""

    UNINITIALIZED = 1
    NOT_SUPPORTED = 3
    NO_PERMISSION = 4
    DRIVER_NOT_LOADED = 9
    TIMEOUT = 10
    FUNCTION_NOT_FOUND = 13
    GPU_IS_LOST = 15
    RESET_REQUIRED = 16
    LIB_RM_VERSION_MISMATCH = 18
    UNKNOWN = 999


def build() -> Path:
    """Compile the library if its source has changed, and return its folder."""
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"warden-nvml-stub-{os.getuid()}-{digest}"
    library = folder / SONAME
    if not library.exists():
        folder.mkdir(mode=0o700, exist_ok=True)
        draft = folder / f".{SONAME}.{os.getpid()}"
        options = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", f"-Wl,-soname,{SONAME}"]
        subprocess.run(["gcc", *options, "-o", draft, SOURCE], check=True)
        draft.replace(library)
    return folder


class NvmlStub:
    """Writes the folder of one simulated machine. Each change is atomic: the library reads the old file or the new
    one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def env(self) -> dict[str, str]:
        """Return the environment variables with which a program sees this machine."""
        search = [str(build()), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
        return {"LD_LIBRARY_PATH": ":".join(search), FOLDER_VARIABLE: str(self.folder)}

    def set_gpu(
        self,
        index: int,
        *,
        total: int | None = None,
        reserved: int | None = None,
        used: int | None = None,
        name: str | None = None,
        uuid: str | None = None,
        utilization: int | None = None,
        temperature: int | None = None,
        power: int | None = None,
    ) -> None:
        """Add a GPU or change the given figures; ``power`` is in milliwatts. A figure that was never set is not
        supported."""
        figures = {
            "reserved": reserved,
            "used": used,
            "name": name,
            "uuid": uuid,
            "utilization": utilization,
            "temperature": temperature,
            "power": power,
            "total": total,
        }
        for key, value in figures.items():
            if value is not None:
                self._write(f"gpu-{index}/{key}", str(value))

    def add_gpu(self, index: int, total: int = 24 * 2**30) -> None:
        """Add a complete GPU with ``total`` bytes, of which the driver reserves 512 MiB."""
        self.set_gpu(
            index,
            total=total,
            reserved=512 * 2**20,
            used=0,
            name=f"Stub GPU {index}",
            uuid=f"GPU-{index:08x}-0000-0000-0000-000000000000",
            utilization=5,
            temperature=40 + index,
            power=60_000,
        )

    def remove_gpu(self, index: int) -> None:
        """Remove a GPU; the caller renumbers those with a higher number."""
        shutil.rmtree(self.folder / f"gpu-{index}")

    def unset(self, index: int, figure: str) -> None:
        """Make a figure unsupported."""
        (self.folder / f"gpu-{index}" / figure).unlink(missing_ok=True)

    def set_process(self, gpu: int, pid: int, used_bytes: int | None, *, graphics: bool = False) -> None:
        """List a process that holds ``used_bytes``; ``None`` means unknown to the driver."""
        kind = "graphics" if graphics else "processes"
        self._write(f"gpu-{gpu}/{kind}/{pid}", "none" if used_bytes is None else str(used_bytes))

    def remove_process(self, gpu: int, pid: int) -> None:
        """Remove a process from both lists."""
        for kind in ("processes", "graphics"):
            (self.folder / f"gpu-{gpu}" / kind / str(pid)).unlink(missing_ok=True)

    def inject(self, gpu: int | None, what: str, error: int) -> None:
        """Make a call fail: one for a GPU or, with ``None``, one of the library's (``init``, ``count``, ``driver``)."""
        self._write(self._error(gpu, what), str(int(error)))

    def heal(self, gpu: int | None, what: str) -> None:
        """Make the call succeed again."""
        (self.folder / self._error(gpu, what)).unlink(missing_ok=True)

    def block(self, seconds: float) -> None:
        """Make every call wait until ``unblock``, at most ``seconds``."""
        self._write("block", str(seconds))

    def unblock(self) -> None:
        """Let the waiting calls continue."""
        (self.folder / "block").unlink(missing_ok=True)

    @staticmethod
    def _error(gpu: int | None, what: str) -> str:
        return f"errors/{what}" if gpu is None else f"gpu-{gpu}/errors/{what}"

    def _write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}")
        draft.write_text(text)
        draft.replace(path)
