"""Finds out from a worker's files why the worker has ended or gives wrong answers."""

from __future__ import annotations

from webapp.errors import LaunchFailed, OutOfMemory, WardenError, WorkerDied, WorkerGarbled
from webapp.runtimes.protocol import FailureCode
from webapp.runtimes.transformers.workers import Workers
from webapp.runtimes.worker_folder import WorkerFolder

ERROR_LINES = 20
_OUT_OF_MEMORY_TEXTS = ("memory allocation of", "out of memory", "memoryerror", "can't allocate memory")


def end_of(folder: WorkerFolder, workers: Workers) -> WardenError:
    """Return why a worker has ended."""
    workers.process(folder)
    failure = folder.failure()
    if failure is not None:
        return load_failed(folder, failure.code, failure.detail)
    lines = folder.log_tail(ERROR_LINES)
    model, text, how = _model(folder), "\n".join(lines), workers.exit_of(folder)
    if how == "SIGABRT" and any(words in text.lower() for words in _OUT_OF_MEMORY_TEXTS):
        # Native code cannot raise an exception: it prints a line and aborts.
        return OutOfMemory(model=model, detail=lines[-1], log=text)
    return WorkerDied(model=model, exit=int(how) if how is not None and how.isdecimal() else how, log=text)


def load_failed(folder: WorkerFolder, code: str | None, detail: str | None) -> LaunchFailed:
    """Return the error of a load that the worker reports as failed."""
    error = OutOfMemory if code == FailureCode.OUT_OF_MEMORY.value else LaunchFailed
    return error(model=_model(folder), detail=detail, log="\n".join(folder.log_tail(ERROR_LINES)))


def garbled(folder: WorkerFolder, detail: str) -> WorkerGarbled:
    """Return the error of an answer that does not come from a worker."""
    return WorkerGarbled(model=_model(folder), detail=detail, log="\n".join(folder.log_tail(ERROR_LINES)))


def _model(folder: WorkerFolder) -> str | None:
    record = folder.record()
    return None if record is None else record.model_id
