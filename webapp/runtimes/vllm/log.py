"""Understands the log of a vLLM container: how far a start is, what vLLM measured, and why it ended. Pure.

The patterns follow the format strings of vLLM 0.32; a line that says nothing known is activity and no more.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from webapp.domain.instance import MemoryReport
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
from webapp.message import Message, Param

LINE_LENGTH = 2000
LOG_LINES = 20
DETAIL_LENGTH = 300


class Stage(StrEnum):
    """How far a start is, in this order."""

    STARTING = "starting"
    """The container runs; vLLM imports its libraries."""
    WEIGHTS = "weights"
    PROFILING = "profiling"
    """It compiles, warms up and measures what the model takes."""
    KV_CACHE = "kv_cache"
    GRAPHS = "graphs"
    """CUDA graphs are captured."""
    SERVING = "serving"
    """The HTTP server is up."""


_ORDER = list(Stage)
_STAGES: tuple[tuple[Stage, re.Pattern[str]], ...] = (
    (Stage.WEIGHTS, re.compile(r"Starting to load model |Loading (?:safetensors|pt) checkpoint shards")),
    (
        Stage.PROFILING,
        re.compile(
            r"Loading weights took |Model loading took |Warming up model|torch\.compile (?:takes|took) |Dynamo bytecode transform time"
        ),
    ),
    (Stage.KV_CACHE, re.compile(r"KV cache size: [\d,]+ tokens|Available KV cache memory: |GiB for KV cache on node")),
    (
        Stage.GRAPHS,
        re.compile(r"Profiling CUDA graph memory|Capturing CUDA graphs|Capturing cudagraphs|Graph capturing finished"),
    ),
    (
        Stage.SERVING,
        re.compile(
            r"Starting vLLM (?:API )?server|Application startup complete|Uvicorn running on|Avg prompt throughput|"
            r'"(?:GET|POST) /\S* HTTP/1\.[01]" 200'
        ),
    ),
)
_PERCENT = re.compile(r"(?:checkpoint shards|Capturing CUDA ?graphs?[^:]*):?\s+(\d{1,3})%", re.I)
_FIGURES: tuple[tuple[str, re.Pattern[str], Callable[[str], float | int]], ...] = (
    ("weights_bytes", re.compile(r"Model loading took (\d+(?:\.\d+)?) GiB"), lambda t: round(float(t) * GIB)),
    ("load_seconds", re.compile(r"Loading weights took (\d+(?:\.\d+)?) seconds"), float),
    ("kv_cache_bytes", re.compile(r"Available KV cache memory: (\d+(?:\.\d+)?) GiB"), lambda t: round(float(t) * GIB)),
    (
        "kv_cache_bytes",
        re.compile(r"\((\d+(?:\.\d+)?)/\d+(?:\.\d+)?\) GiB for KV cache"),
        lambda t: round(float(t) * GIB),
    ),
    ("kv_cache_tokens", re.compile(r"KV cache size: ([\d,]+) tokens"), lambda t: int(t.replace(",", ""))),
    (
        "consumed_bytes",
        re.compile(r"Actual usage is (\d+(?:\.\d+)?) GiB for consumed memory"),
        lambda t: round(float(t) * GIB),
    ),
    ("activation_bytes", re.compile(r"(\d+(?:\.\d+)?) GiB for peak activation"), lambda t: round(float(t) * GIB)),
    (
        "graphs_reserved_bytes",
        re.compile(r"Estimated CUDA graph memory: (\d+(?:\.\d+)?) GiB total"),
        lambda t: round(float(t) * GIB),
    ),
    ("concurrency", re.compile(r"Maximum concurrency for [\d,]+ tokens per request: (\d+(?:\.\d+)?)x"), float),
    (
        "graphs_bytes",
        re.compile(r"Graph capturing finished in .* took (\d+(?:\.\d+)?) GiB"),
        lambda t: round(float(t) * GIB),
    ),
    ("init_seconds", re.compile(r"init engine \(.*\) took (\d+(?:\.\d+)?) s"), float),
)
_REPORTED = ("weights_bytes", "consumed_bytes", "activation_bytes", "graphs_reserved_bytes", "graphs_bytes")
_OWN_QUESTION = re.compile(r'"GET /(?:metrics|health|v1/models) HTTP/1\.[01]" 200')
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class LogReader:
    """Follows a log line by line."""

    def __init__(self) -> None:
        self._stage = Stage.STARTING
        self._progress: float | None = None
        self._figures: dict[str, float | int] = {}

    @property
    def stage(self) -> Stage:
        """The furthest stage so far."""
        return self._stage

    @property
    def progress(self) -> float | None:
        """The share of the stage that is done, 0 to 1; ``None`` where vLLM does not say."""
        return self._progress

    @property
    def figures(self) -> Mapping[str, float | int]:
        """What vLLM measured and wrote: bytes, tokens, seconds."""
        return self._figures

    @property
    def memory(self) -> MemoryReport | None:
        """What of that is memory for an instance's report; ``None`` where there is none."""
        told = {name: int(self._figures[name]) for name in _REPORTED if name in self._figures}
        return MemoryReport(**told) if told else None

    @property
    def message(self) -> Message:
        """The stage with its figures: ``vllm_weights``, ``vllm_kv_cache``…"""
        params: dict[str, Param] = {}
        if self._stage in (Stage.WEIGHTS, Stage.GRAPHS):
            params["percent"] = None if self._progress is None else round(100 * self._progress)
        if self._stage is Stage.KV_CACHE:
            params["tokens"] = self._figures.get("kv_cache_tokens")
            params["kv_cache_bytes"] = self._figures.get("kv_cache_bytes") or None  # it rounds to two decimals
        return Message(f"vllm_{self._stage}", params)

    def feed(self, line: str) -> None:
        """Take the next line."""
        stage = next((stage for stage, pattern in reversed(_STAGES) if pattern.search(line)), None)
        if stage is not None and _ORDER.index(stage) > _ORDER.index(self._stage):
            self._stage, self._progress = stage, None
        if (found := _PERCENT.search(line)) and stage is self._stage:
            self._progress = min(int(found[1]), 100) / 100
        for name, pattern, parse in _FIGURES:
            if match := pattern.search(line):
                try:
                    self._figures[name] = self._largest(name, parse(match[1]))
                except (ValueError, OverflowError):
                    continue

    def _largest(self, name: str, figure: float) -> float | int:
        """Of what each of several GPUs tells of its own memory the largest counts; of everything else the last word."""
        return max(figure, self._figures.get(name, 0)) if name in _REPORTED else figure


def stage_of(tail: bytes) -> Stage:
    """Return how far a start came by the end of its log; an answered request tells it long after the first lines are gone."""
    reader, (lines, rest) = LogReader(), split_chunks(tail)
    for line in (*lines, rest.decode(errors="replace")):
        reader.feed(clean_line(line))
    return reader.stage


def split_chunks(buffer: bytes) -> tuple[list[str], bytes]:
    """Split raw output into finished lines and the rest. A progress bar ends its states by a carriage return: each is a line."""
    *lines, rest = re.split(rb"\r\n|\n|\r", buffer)
    if len(rest) > LINE_LENGTH * 4:
        lines.append(rest)
        rest = b""
    return [line.decode(errors="replace") for line in lines], rest


def is_own_question(line: str) -> bool:
    """Whether a line of the access log tells of Warden's own questions: once a second, they would crowd out all others."""
    return _OWN_QUESTION.search(line) is not None


def clean_line(raw: str) -> str:
    """Return a line without colours, control characters and blanks at its end, in at most 2000 characters."""
    text = "".join(c if c.isprintable() or c == "\t" else " " for c in _ANSI.sub("", raw))
    return text.rstrip()[:LINE_LENGTH]


@dataclass(frozen=True)
class _Ended:
    """All that a cause is told from."""

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
    """Return why a container ended, by what it wrote; the first known error of the log is the root, what follows comes of it."""
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
"""Lines that tell no error; a request's text may stand in them."""


def _gib(text: str | None) -> int | None:
    """Bytes of a figure with two decimals; 0.00 is less than vLLM prints, and so unknown."""
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
    """A line without vLLM's prefixes (process, level, time, place)."""
    return re.sub(r"^(?:\([^)]*pid=\d+\) )?(?:[A-Z]+ \d\d-\d\d [\d:.]+ \[[^\]]*\] )?\s*", "", line)[:DETAIL_LENGTH]


_NUMBER = r"\d+(?:\.\d+)?"
_CAUSES: tuple[tuple[re.Pattern[str], Callable[[re.Match[str], str, _Ended], LaunchFailed]], ...] = (
    (
        re.compile(
            rf"(?:Free memory on device|Available memory on node) .*?\((?P<free>{_NUMBER})/(?P<total>{_NUMBER}) GiB\) on startup is less "
            r"than .*?"
            rf"(?P<wanted>{_NUMBER}) GiB\)"
        ),
        _start_memory,
    ),
    (
        re.compile(
            rf"Available memory on node \S+ \((?P<free>{_NUMBER})/(?P<total>{_NUMBER}) GiB\) on kv cache allocation is less than "
            rf"requested memory for kv \((?P<wanted>{_NUMBER})"
        ),
        _start_memory,
    ),
    (
        re.compile(
            rf"To serve at least one request with the model's max seq len \((?P<tokens>\d+)\), \(?(?P<needed>{_NUMBER}) GiB KV cache is "
            rf"needed, which is larger than the available KV cache memory \((?P<available>{_NUMBER}) GiB\)"
        ),
        _kv_small,
    ),
    (re.compile(r"No available memory for the cache blocks"), _no_kv),
    (
        re.compile(
            rf"Error in memory profiling\. Initial free memory (?P<before>{_NUMBER}) GiB, current free memory (?P<after>{_NUMBER}) GiB"
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
            r"Cannot find any model weights|"
            r"Cannot find an appropriate cached snapshot|does not appear to have a file named|Repo id must be|HFValidationError|"
            r"contains custom code which must be executed|"
            r"Invalid repository ID or local directory|No such file or directory: '[^']*/hf-cache"
        ),
        _files,
    ),
)
