"""A machine with GPUs, made of files: a C library in the place of NVIDIA's, and the folder that it reads at every call.

The library has the soname ``libnvidia-ml.so.1``. A program that is started with ``NvmlStub.env()`` finds it instead of the
driver's own, and pynvml works against it unchanged. What it answers stands in the folder ``$NVML_STUB_DIR``::

    gpu-0/                  one folder a GPU, numbered without a gap
      total                 bytes; a folder without this file is no GPU
      reserved              bytes that the driver keeps (0)
      used                  bytes in use that belong to no process below (0)
      name  uuid            text; not supported when missing
      utilization           percent; not supported when missing
      temperature           degrees Celsius; not supported when missing
      power                 milliwatts; not supported when missing
      processes/PID         bytes that a computing process holds, or ``none`` when the driver does not know
      graphics/PID          the same for one that draws; a pid in both lists counts once
      errors/CALL           an NVML error number that CALL answers: handle, name, uuid, memory, memory_v1, memory_v2,
                            utilization, temperature, temperature_v1, temperature_v2, power, processes, processes_v2,
                            processes_v3, graphics, graphics_v2, graphics_v3, or all
    errors/init             an error number of nvmlInit
    errors/count            an error number of nvmlDeviceGetCount
    errors/driver           an error number of every call
    block                   seconds that every call waits at most; a waiting call goes on as soon as the file is removed

The device's used memory is ``used`` and the bytes of all live processes. A process entry lasts as long as its process: the entry
of one that has ended, a zombie too, is removed by the next call. So a program that stands for a worker says what it holds with
``echo 1073741824 > $NVML_STUB_DIR/gpu-0/processes/$$`` and gives it back by ending.
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
    """Compile the library, once for each state of its source, and return the folder that it lies in."""
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
    """Writes the folder of one stubbed machine. Each change is whole for the library: it reads the old file or the new."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def env(self) -> dict[str, str]:
        """Return what to add to a program's environment so that it finds this machine."""
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
        """Add a GPU or change what is named; ``power`` is in milliwatts. A figure that was never set is not supported."""
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
        """Add a complete GPU of ``total`` bytes of which the driver keeps 512 MiB."""
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
        """Take a GPU off the list; those with a higher number have to move down by themselves."""
        shutil.rmtree(self.folder / f"gpu-{index}")

    def unset(self, index: int, figure: str) -> None:
        """Make a figure not supported."""
        (self.folder / f"gpu-{index}" / figure).unlink(missing_ok=True)

    def set_process(self, gpu: int, pid: int, used_bytes: int | None, *, graphics: bool = False) -> None:
        """List a process that holds ``used_bytes``; ``None`` is not known to the driver."""
        kind = "graphics" if graphics else "processes"
        self._write(f"gpu-{gpu}/{kind}/{pid}", "none" if used_bytes is None else str(used_bytes))

    def remove_process(self, gpu: int, pid: int) -> None:
        """Take a process off both lists."""
        for kind in ("processes", "graphics"):
            (self.folder / f"gpu-{gpu}" / kind / str(pid)).unlink(missing_ok=True)

    def inject(self, gpu: int | None, what: str, error: int) -> None:
        """Let a call fail: one of a GPU's, or with ``None`` one of the library's (``init``, ``count``, ``driver``)."""
        self._write(self._error(gpu, what), str(int(error)))

    def heal(self, gpu: int | None, what: str) -> None:
        """Let the call succeed again."""
        (self.folder / self._error(gpu, what)).unlink(missing_ok=True)

    def block(self, seconds: float) -> None:
        """Let every call wait, until ``unblock`` or for ``seconds``."""
        self._write("block", str(seconds))

    def unblock(self) -> None:
        """Let the waiting calls go on."""
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
