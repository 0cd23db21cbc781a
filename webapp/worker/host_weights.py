"""Read safetensors files into the process's own memory, one tensor after the other, each with several threads.

Mapped files would be in the page cache until the first token, and figures would be wrong. safetensors' own ``pread`` took
1.25 s for 1 GB in the page cache on 2 cores, several threads 0.35 s. safetensors still reads and checks the header.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

THREADS = min(4, os.cpu_count() or 1)
PART_BYTES = 4 * 2**20
_HEADER_SIZE_BYTES = 8
_DTYPES = {
    "BF16": torch.bfloat16,
    "BOOL": torch.bool,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "I8": torch.int8,
    "U8": torch.uint8,
}


class HostWeightsFile:
    """One safetensors file; has the interface of ``safetensors.safe_open``.

    Raises:
        OSError: the file cannot be read.
        SafetensorError: its header is broken, or does not match the file's length.
    """

    def __init__(self, path: str | Path, readers: Readers) -> None:
        self._library: Any = safe_open(path, framework="pt", device="cpu", backend="pread")
        self._path = Path(path)
        self._readers = readers
        with self._path.open("rb") as file:
            size = int.from_bytes(file.read(_HEADER_SIZE_BYTES), "little")
            self._header: dict[str, Any] = json.loads(file.read(size))
        self._data_start = _HEADER_SIZE_BYTES + size

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)

    def __enter__(self) -> HostWeightsFile:
        self._library.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._library.__exit__(*error)

    def get_slice(self, name: str) -> _TensorSlice:
        """Return a lazy slice of a tensor: nothing is read until it is indexed."""
        return _TensorSlice(self, name, self._library.get_slice(name))

    def get_tensor(self, name: str) -> torch.Tensor:
        """Read a tensor.

        Raises:
            SafetensorError: the file has no tensor of that name.
        """
        entry = self._header.get(name)
        dtype = _DTYPES.get(entry["dtype"]) if entry else None
        if entry is None or dtype is None:
            return self._library.get_tensor(name)
        tensor = torch.empty(entry["shape"], dtype=dtype)
        if tensor.numel():
            start, _ = entry["data_offsets"]
            raw = tensor.reshape(-1).view(torch.uint8)
            self._readers.fill(self._path, self._data_start + start, raw)
        return tensor


class _TensorSlice:
    """A tensor that is read when it is indexed: in full by this module, in part by safetensors."""

    def __init__(self, file: HostWeightsFile, name: str, library_slice: Any) -> None:
        self._file = file
        self._name = name
        self._library = library_slice

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)

    def __getitem__(self, index: Any) -> torch.Tensor:
        return self._file.get_tensor(self._name) if index is Ellipsis else self._library[index]


class Readers:
    """Threads that read one tensor's parts concurrently."""

    def __init__(self, pool: ThreadPoolExecutor, part_bytes: int = PART_BYTES) -> None:
        self._pool = pool
        self._part_bytes = part_bytes

    def fill(self, path: Path, start: int, into: torch.Tensor) -> None:
        """Read as many bytes as ``into`` has, from the file's byte ``start`` on. ``into`` is flat, of bytes.

        Raises:
            OSError: the file cannot be read, or ends early.
        """
        memory, size = memoryview(into.numpy()), len(into)
        with path.open("rb", buffering=0) as file:
            # the threads' jumps would keep the kernel from reading ahead
            os.posix_fadvise(file.fileno(), start, size, os.POSIX_FADV_WILLNEED)
            parts = [(memory[at : at + self._part_bytes], start + at) for at in range(0, size, self._part_bytes)]
            tasks = [self._pool.submit(_read, file.fileno(), part, at) for part, at in parts]
            wait(tasks)  # before the file is closed and the memory given up
            if not all(task.result() for task in tasks):
                raise OSError(f"{path} ends {start + size - os.fstat(file.fileno()).st_size} bytes early")


@contextmanager
def readers() -> Iterator[Readers]:
    """Start the threads; they end with the context."""
    with ThreadPoolExecutor(THREADS, thread_name_prefix="weights") as pool:
        yield Readers(pool)


def _read(descriptor: int, memory: memoryview, at: int) -> bool:
    """Fill ``memory`` from the file's byte ``at`` on; return whether the file was long enough. Raises OSError."""
    done = 0
    while done < len(memory):
        count = os.preadv(descriptor, [memory[done:]], at + done)
        if count == 0:
            return False
        done += count
    return True
