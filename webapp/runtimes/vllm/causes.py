"""Finds in a vLLM container's log why the container has ended. Pure.

The patterns follow the format strings of vLLM 0.32.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from webapp.domain.units import GIB
from webapp.errors import (
    ArchitectureUnsupported,
    ArgumentRejected,
    ContainerExited,
    ContextTooLong,
    GpuRuntimeMissing,
    KvCacheTooSmall,
    LaunchFailed,
    OutOfMemory,
    PortLost,
    ProfileDisturbed,
    StartMemoryShort,
)

LOG_LINES = 20
DETAIL_LENGTH = 300


@dataclass(frozen=True)
class _Ended:
    """The facts from which a cause is derived."""

    model: str
    max_tokens: int | None
    log: str


def cause_of(
    lines: Sequence[str],
    *,
    model: str,
    max_tokens: int | None,
    exit_code: int | None,
    exit_signal: str | None = None,
    oom_killed: bool = False,
) -> LaunchFailed:
    """Return why a container ended: the first known error in the log, as it causes those that follow."""
    ended = _Ended(model, max_tokens, "\n".join(lines[-LOG_LINES:]))
    for line in lines:
        if _TOLD.search(line) or _said(line).startswith("raise "):
            continue
        for pattern, make in _CAUSES:
            if match := pattern.search(line):
                return make(match, line, ended)
    for title, name, why in zip(lines, lines[1:], lines[2:], strict=False):
        if re.search(r"validation errors? for \w+$", title) and re.fullmatch(r"[\w.]+", name):
            return ArgumentRejected(model=model, argument=name, detail=why.strip()[:DETAIL_LENGTH], log=ended.log)
    if oom_killed:
        return OutOfMemory(model=model, detail="the container was killed for its memory", log=ended.log)
    return ContainerExited(model=model, exit=exit_signal or exit_code, log=ended.log)


_TOLD = re.compile(r"^(?:\([^)]*pid=\d+\) )?(?:INFO|WARNING|DEBUG)\b")
"""Lines that report no error; they may contain the text of a request."""


def _gib(text: str | None) -> int | None:
    """Return the bytes of a figure in GiB with two decimals; ``None`` for 0.00, which is rounded."""
    return None if text is None else round(float(text) * GIB) or None


def _start_memory(match: re.Match[str], line: str, ended: _Ended) -> LaunchFailed:
    return StartMemoryShort(
        model=ended.model,
        free_bytes=_gib(match["free"]),
        total_bytes=_gib(match["total"]),
        wanted_bytes=_gib(match["wanted"]),
        log=ended.log,
    )


def _kv_small(match: re.Match[str], line: str, ended: _Ended) -> LaunchFailed:
    fits = re.search(r"estimated maximum model length is (\d+)", line)
    return KvCacheTooSmall(
        model=ended.model,
        max_tokens=int(match["tokens"]),
        needed_bytes=_gib(match["needed"]),
        available_bytes=_gib(match["available"]),
        fits_tokens=None if fits is None else int(fits[1]),
        log=ended.log,
    )


def _no_kv(match: re.Match[str], line: str, ended: _Ended) -> LaunchFailed:
    return KvCacheTooSmall(
        model=ended.model,
        max_tokens=ended.max_tokens,
        needed_bytes=None,
        available_bytes=0,
        fits_tokens=None,
        log=ended.log,
    )


def _disturbed(match: re.Match[str], line: str, ended: _Ended) -> LaunchFailed:
    return ProfileDisturbed(
        model=ended.model, before_bytes=_gib(match["before"]), after_bytes=_gib(match["after"]), log=ended.log
    )


def _context(match: re.Match[str], line: str, ended: _Ended) -> LaunchFailed:
    limits = re.findall(
        r"(?:max_position_embeddings|model_max_length|max_model_len|sliding_window)\S*?=(?:None|(\d+))", line
    )
    known = [int(limit) for limit in limits if limit]
    return ContextTooLong(
        model=ended.model, max_tokens=int(match["tokens"]), limit_tokens=min(known, default=None), log=ended.log
    )


def _architecture(match: re.Match[str], line: str, ended: _Ended) -> LaunchFailed:
    name = (match["name"] or match["old"]).strip("[]").replace("'", "")
    return ArchitectureUnsupported(model=ended.model, architecture=name, log=ended.log)


def _argument(match: re.Match[str], line: str, ended: _Ended) -> LaunchFailed:
    return ArgumentRejected(model=ended.model, argument=match["argument"].strip(), detail=_said(line), log=ended.log)


def _out_of_memory(match: re.Match[str], line: str, ended: _Ended) -> LaunchFailed:
    return OutOfMemory(model=ended.model, detail=_said(line), log=ended.log)


def _port(match: re.Match[str], line: str, ended: _Ended) -> LaunchFailed:
    number = re.search(r"', (\d+)\)", line)
    return PortLost(model=ended.model, port=None if number is None else int(number[1]), log=ended.log)


def _no_gpu(match: re.Match[str], line: str, ended: _Ended) -> LaunchFailed:
    return GpuRuntimeMissing(model=ended.model, detail=_said(line), log=ended.log)


def _files(match: re.Match[str], line: str, ended: _Ended) -> LaunchFailed:
    return LaunchFailed(model=ended.model, detail=_said(line), log=ended.log)


def _said(line: str) -> str:
    """Return a line without vLLM's prefixes (process, level, time, source)."""
    return re.sub(r"^(?:\([^)]*pid=\d+\) )?(?:[A-Z]+ \d\d-\d\d [\d:.]+ \[[^\]]*\] )?\s*", "", line)[:DETAIL_LENGTH]


_NUMBER = r"\d+(?:\.\d+)?"
_CAUSES: tuple[tuple[re.Pattern[str], Callable[[re.Match[str], str, _Ended], LaunchFailed]], ...] = (
    (
        re.compile(
            rf"(?:Free memory on device|Available memory on node) .*?\((?P<free>{_NUMBER})/(?P<total>{_NUMBER}) GiB\) "
            r"on startup is less than .*?"
            rf"(?P<wanted>{_NUMBER}) GiB\)"
        ),
        _start_memory,
    ),
    (
        re.compile(
            rf"Available memory on node \S+ \((?P<free>{_NUMBER})/(?P<total>{_NUMBER}) GiB\) on kv cache allocation "
            rf"is less than requested memory for kv \((?P<wanted>{_NUMBER})"
        ),
        _start_memory,
    ),
    (
        re.compile(
            rf"To serve at least one request with the model's max seq len \((?P<tokens>\d+)\), "
            rf"\(?(?P<needed>{_NUMBER}) GiB KV cache is needed, "
            rf"which is larger than the available KV cache memory \((?P<available>{_NUMBER}) GiB\)"
        ),
        _kv_small,
    ),
    (re.compile(r"No available memory for the cache blocks"), _no_kv),
    (
        re.compile(
            rf"Error in memory profiling\. Initial free memory (?P<before>{_NUMBER}) GiB, "
            rf"current free memory (?P<after>{_NUMBER}) GiB"
        ),
        _disturbed,
    ),
    (
        re.compile(
            r"Model architectures? (?P<name>\[[^\]]*\]|\S+) (?:are|is) not supported|"
            r"Model architecture (?P<old>\S+) was supported in vLLM until"
        ),
        _architecture,
    ),
    (re.compile(r"Model architectures (?P<name>\[[^\]]*\]) failed to be inspected(?P<old>)"), _architecture),
    (re.compile(r"Failed to infer device type|No CUDA GPUs are available"), _no_gpu),
    (re.compile(r"error: unrecognized arguments: (?P<argument>.+)"), _argument),
    (re.compile(r"error: (?:argument (?P<argument>[^:]+): .+)"), _argument),
    (re.compile(r"error: ambiguous option: (?P<argument>\S+)"), _argument),
    (
        re.compile(
            r"OutOfMemoryError|CUDA out of memory|DefaultCPUAllocator: (?:not enough|can't allocate) memory|"
            r"CUDA error: out of memory|MemoryError\b"
        ),
        _out_of_memory,
    ),
    (re.compile(r"address already in use", re.I), _port),
    (
        re.compile(r"User-specified max_model_len \((?P<tokens>\d+)\) is greater than the derived max_model_len"),
        _context,
    ),
    (
        re.compile(
            r"SafetensorError|HeaderTooLarge|MetadataIncompleteBuffer|Error while deserializing header|"
            r"Cannot find any model weights|Cannot find an appropriate cached snapshot|"
            r"does not appear to have a file named|Repo id must be|HFValidationError|"
            r"contains custom code which must be executed|"
            r"Invalid repository ID or local directory|No such file or directory: '[^']*/hf-cache"
        ),
        _files,
    ),
)
