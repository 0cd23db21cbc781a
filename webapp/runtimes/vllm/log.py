"""Parses the log of a vLLM container: how far a start has come and what vLLM measured. Pure.

The patterns follow the format strings of vLLM 0.32; a line that matches none only counts as activity.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from enum import StrEnum

from webapp.domain.instance import MemoryReport
from webapp.domain.units import GIB
from webapp.message import Message, Param

LINE_LENGTH = 2000


class Stage(StrEnum):
    """How far a start has come; the stages follow in this order."""

    STARTING = "starting"
    """The container runs; vLLM imports its libraries."""
    WEIGHTS = "weights"
    PROFILING = "profiling"
    """vLLM compiles, warms up and measures the model's memory."""
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
            r"Loading weights took |Model loading took |Warming up model|torch\.compile (?:takes|took) |"
            r"Dynamo bytecode transform time"
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
    """Parses a log line by line."""

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
        """The finished share of the stage, 0 to 1; ``None`` if vLLM does not report it."""
        return self._progress

    @property
    def figures(self) -> Mapping[str, float | int]:
        """The figures that vLLM logged: bytes, tokens, seconds."""
        return self._figures

    @property
    def memory(self) -> MemoryReport | None:
        """The memory figures for an instance's report; ``None`` if there are none."""
        told = {name: int(self._figures[name]) for name in _REPORTED if name in self._figures}
        return MemoryReport(**told) if told else None

    @property
    def message(self) -> Message:
        """The message of the stage, with its figures: ``vllm_weights``, ``vllm_kv_cache``…"""
        params: dict[str, Param] = {}
        if self._stage in (Stage.WEIGHTS, Stage.GRAPHS):
            params["percent"] = None if self._progress is None else round(100 * self._progress)
        if self._stage is Stage.KV_CACHE:
            params["tokens"] = self._figures.get("kv_cache_tokens")
            params["kv_cache_bytes"] = self._figures.get("kv_cache_bytes") or None  # vLLM rounds to two decimals
        return Message(f"vllm_{self._stage}", params)

    def feed(self, line: str) -> None:
        """Process the next line."""
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
        """Return the largest figure of several GPUs for memory per GPU, and the latest figure for everything else."""
        return max(figure, self._figures.get(name, 0)) if name in _REPORTED else figure


def stage_of(tail: bytes) -> Stage:
    """Return how far a start came, from the end of its log: answered requests may have pushed out the first lines."""
    reader, (lines, rest) = LogReader(), split_chunks(tail)
    for line in (*lines, rest.decode(errors="replace")):
        reader.feed(clean_line(line))
    return reader.stage


def split_chunks(buffer: bytes) -> tuple[list[str], bytes]:
    """Split raw output into finished lines and the rest.

    A progress bar ends each state with a carriage return, so each counts as a line.
    """
    *lines, rest = re.split(rb"\r\n|\n|\r", buffer)
    if len(rest) > LINE_LENGTH * 4:
        lines.append(rest)
        rest = b""
    return [line.decode(errors="replace") for line in lines], rest


def is_own_question(line: str) -> bool:
    """Return whether a line of the access log is from Warden's own probes, which would crowd out all others."""
    return _OWN_QUESTION.search(line) is not None


def clean_line(raw: str) -> str:
    """Return at most 2000 characters of a line, without colours, control characters and trailing blanks."""
    text = "".join(c if c.isprintable() or c == "\t" else " " for c in _ANSI.sub("", raw))
    return text.rstrip()[:LINE_LENGTH]
