"""The self-test: its checks, and how observations are judged. Pure; ``control.selftest`` gathers the observations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from webapp.domain.memory import Sample, build_ledger
from webapp.domain.modes import Mode, Precision
from webapp.domain.recommend import Advice, Mark
from webapp.domain.units import MIB, gib
from webapp.message import Message, Param


class CheckName(StrEnum):
    """The checks, in the order in which they run."""

    MEMORY = "memory"
    """The figures are fresh, add up, and agree with another source."""
    STATE = "state"
    """The state folder and the store can be written, and nobody else can read them."""
    ADVICE = "advice"
    """The recommendations agree with the founding table."""
    VLLM = "vllm"
    """vLLM mode can be chosen."""
    MODEL = "model"
    """The tiny model is created and listed."""
    SWITCH = "switch"
    """It is planned, loaded and measured."""
    ANSWER = "answer"
    """It answers."""
    REPLACE = "replace"
    """A second switch replaces the first model."""
    REFUSAL = "refusal"
    """A request that does not fit is refused before anything is unloaded."""
    CLEAN = "clean"
    """A clean ends without failure."""
    UNLOAD = "unload"
    """The memory is freed and no process is left."""


class CheckMark(StrEnum):
    """The result of a check."""

    OK = "ok"
    WARNING = "warning"
    """It works with restrictions, or it could not be tested without disturbing somebody."""
    FAILED = "failed"
    SKIPPED = "skipped"
    """It depends on a check that did not succeed."""


@dataclass(frozen=True)
class Check:
    """One finished check. ``advice`` names the next step if there is one."""

    name: CheckName
    mark: CheckMark
    seen: Message
    seconds: float
    advice: Message | None = None


@dataclass(frozen=True)
class Judged:
    """A check's mark, the observation, and the advice."""

    mark: CheckMark
    seen: Message
    advice: Message | None = None


def worst_of(checks: Sequence[Check]) -> CheckMark:
    """Return the mark of the whole: failed, warning, or ok; a skipped check has a cause that counts already."""
    marks = {check.mark for check in checks}
    return next((m for m in (CheckMark.FAILED, CheckMark.WARNING) if m in marks), CheckMark.OK)


def ok(seen: Message) -> Judged:
    """Return a success."""
    return Judged(CheckMark.OK, seen)


def warning(seen: Message, advice: Message | None = None) -> Judged:
    """Return a warning."""
    return Judged(CheckMark.WARNING, seen, advice)


def failed(seen: Message, advice: Message | None = None) -> Judged:
    """Return a failure."""
    return Judged(CheckMark.FAILED, seen, advice)


# Memory figures

STATED_OFF_BYTES = MIB
"""The tolerance between a driver's reserved + used + free and its total: the driver rounds each."""
WITNESS_SHARE = 1 / 8
"""The tolerance for the other source, as a share of the total: the kernel's own lists of free pages may hold so much.
"""
USUAL_PROBLEMS = frozenset({"driver_missing"})
"""Problems that are normal on a healthy machine."""
DRIVER_ADVICE = Message("selftest_advice_driver")


@dataclass(frozen=True)
class Witness:
    """A device's memory from a source other than the monitor; bytes."""

    total_bytes: int
    free_bytes: int


def judge_memory(
    samples: Sequence[Sample | None], age_s: float | None, stale_after_s: float, witnesses: Mapping[str, Witness]
) -> Judged:
    """Judge readings that were requested one after the other; ``None`` is one that did not arrive in time."""
    came = [sample for sample in samples if sample is not None]
    if len(came) < len(samples) or not came or age_s is None or age_s > stale_after_s:
        return failed(
            Message("selftest_readings_late", {"count": len(came), "asked": len(samples), "age_s": age_s}),
            DRIVER_ADVICE,
        )
    if len({sample.taken_at for sample in came}) < len(came):
        return failed(Message("selftest_readings_stuck"), DRIVER_ADVICE)
    newest = came[-1]
    return _wrong_figure(newest, witnesses) or _named_problem(newest) or _figures_good(newest, came, age_s)


def _wrong_figure(sample: Sample, witnesses: Mapping[str, Witness]) -> Judged | None:
    if not sample.readings:
        return failed(sample.problem or Message("device_unreadable"), DRIVER_ADVICE)
    for reading in sample.readings:
        ledger = build_ledger(reading, {})
        if ledger is None:
            return failed(reading.problem or _about("selftest_no_figures", reading.device_id), DRIVER_ADVICE)
        parts = sum(part.used_bytes for part in ledger.parts)
        stated = (reading.reserved_bytes or 0) + (reading.used_bytes or 0) + (reading.free_bytes or 0)
        off = max(abs(parts - ledger.total_bytes), abs(stated - ledger.total_bytes))
        if parts != ledger.total_bytes or off > STATED_OFF_BYTES:
            return failed(_about("selftest_ledger_off", reading.device_id, off_bytes=off), DRIVER_ADVICE)
        witness = witnesses.get(reading.device_id)
        if witness is not None and not _agrees(ledger.total_bytes, reading.free_bytes or 0, witness):
            said: dict[str, Param] = {"free_bytes": reading.free_bytes, "other_bytes": witness.free_bytes}
            return failed(_about("selftest_witness_off", reading.device_id, **said), DRIVER_ADVICE)
    return None


def _agrees(total: int, free: int, witness: Witness) -> bool:
    """Return whether a reading is consistent with another source; a control group's limit may lower both figures."""
    tolerance = round(witness.total_bytes * WITNESS_SHARE)
    if total > witness.total_bytes + MIB or free > witness.free_bytes + tolerance:
        return False
    whole_machine = total >= witness.total_bytes - MIB
    return not whole_machine or free >= witness.free_bytes - tolerance


def _about(code: str, device_id: str, **params: Param) -> Message:
    return Message(code, {"device": device_id, **params})


def _named_problem(sample: Sample) -> Judged | None:
    problems = [sample.problem, *(reading.problem for reading in sample.readings)]
    named = next((p for p in problems if p is not None and p.code not in USUAL_PROBLEMS), None)
    return None if named is None else warning(named)


def _figures_good(newest: Sample, came: Sequence[Sample], age_s: float) -> Judged:
    total = sum(reading.total_bytes or 0 for reading in newest.readings)
    params: dict[str, Param] = {
        "devices": ", ".join(reading.device_id for reading in newest.readings),
        "total_bytes": total,
        "count": len(came),
        "age_s": round(age_s, 3),
    }
    return ok(Message("selftest_memory_ok", params))


# State folder


@dataclass(frozen=True)
class StateFacts:
    """The state folder's permissions. Modes are permission bits; ``loose`` are files that others may read."""

    folder: str
    mode: int | None
    write_problem: str | None
    loose: tuple[str, ...] = ()
    kept: bool = True
    """Whether a stored operation could be read again."""
    store_problem: Message | None = None
    """Why it could not, if that is known."""


def judge_state(facts: StateFacts) -> Judged:
    """Judge the state folder and the store."""
    folder: dict[str, Param] = {"folder": facts.folder}
    if facts.write_problem is not None:
        seen = Message("selftest_state_unwritable", {**folder, "detail": facts.write_problem})
        return failed(seen, Message("selftest_advice_state", folder))
    if not facts.kept:
        return failed(facts.store_problem or Message("selftest_not_kept"), Message("selftest_advice_store"))
    if facts.mode is None or facts.mode & 0o077:
        shown = "" if facts.mode is None else f"{facts.mode:04o}"
        seen = Message("selftest_state_open", {**folder, "bits": shown})
        return failed(seen, Message("selftest_advice_chmod", {"command": f"chmod 700 {facts.folder}"}))
    if facts.loose:
        seen = Message("selftest_files_open", {"files": ", ".join(facts.loose)})
        command = "chmod 600 " + " ".join(f"{facts.folder}/{name}" for name in facts.loose)
        return warning(seen, Message("selftest_advice_chmod", {"command": command}))
    return ok(Message("selftest_state_ok", folder))


# Recommendations

Row = tuple[Mode, Precision, int, int, Mark]
EXPECTED: tuple[tuple[int, Row], ...] = (
    (gib(8), (Mode.VLLM, Precision.FP16, 2048, 4, Mark.OK)),
    (gib(6), (Mode.VLLM, Precision.FP16, 1024, 2, Mark.LIMITED)),
    (gib(4), (Mode.TRANSFORMERS, Precision.FP16, 1024, 1, Mark.LIMITED)),
    (0, (Mode.TRANSFORMERS, Precision.INT8, 512, 1, Mark.LIMITED)),
)
"""The founding guide's table, deliberately written a second time: the first copy is what is checked."""


def expected_row(free_bytes: int) -> Row:
    """Return the guide's row for ``free_bytes``."""
    return next(row for from_bytes, row in EXPECTED if max(free_bytes, 0) >= from_bytes)


def judge_advice(recommend: Callable[[int], Advice], free_bytes: int | None, shown: Advice | None) -> Judged:
    """Judge the recommendations at every boundary of the table, and the one that is ``shown`` for ``free_bytes``."""
    probes = sorted({0, gib(512), *(b for b, _ in EXPECTED), *(b - 1 for b, _ in EXPECTED if b)})
    for probe in probes:
        if _row(recommend(probe)) != expected_row(probe):
            return failed(Message("selftest_advice_wrong", {"free_bytes": probe}), Message("selftest_advice_report"))
    if free_bytes is None or shown is None:
        return warning(Message("selftest_advice_unknown", {"count": len(probes)}), DRIVER_ADVICE)
    row = expected_row(free_bytes)
    if _row(shown) != row:
        return failed(Message("selftest_advice_wrong", {"free_bytes": free_bytes}), Message("selftest_advice_report"))
    params: dict[str, Param] = {
        "count": len(probes),
        "free_bytes": free_bytes,
        "mode": row[0].value,
        "precision": row[1].value,
        "max_tokens": row[2],
        "batch_size": row[3],
    }
    return ok(Message("selftest_advice_ok", params))


def _row(advice: Advice) -> Row:
    return advice.mode, advice.precision, advice.max_tokens, advice.batch_size, advice.mark


# vLLM mode


def judge_vllm(problem: Message | None) -> Judged:
    """Judge whether vLLM mode is available. A Docker daemon that hangs is a fault; a server without Docker is not."""
    if problem is None:
        return ok(Message("selftest_vllm_ok"))
    seen = Message("selftest_vllm_unavailable", {"reason": problem.code})
    return failed(seen, problem) if problem.code in ("engine_unreachable", "engine_failed") else warning(seen, problem)


# Models


@dataclass(frozen=True)
class Loaded:
    """The result of a switch: sizes in bytes, ``None`` is unknown."""

    pid: int | None
    seconds: float | None
    predicted_bytes: int | None
    measured_bytes: int | None


def judge_load(loaded: Loaded) -> Judged:
    """Judge a load that succeeded by its figures."""
    params: dict[str, Param] = {
        "seconds": loaded.seconds,
        "predicted_bytes": loaded.predicted_bytes,
        "measured_bytes": loaded.measured_bytes,
    }
    if loaded.measured_bytes is None:
        return warning(Message("selftest_not_measured", params), DRIVER_ADVICE)
    if loaded.predicted_bytes is not None and loaded.measured_bytes > loaded.predicted_bytes:
        return warning(Message("selftest_over_prediction", params), Message("selftest_advice_report"))
    return ok(Message("selftest_switch_ok", params))


@dataclass(frozen=True)
class Given:
    """The result of an unload; ``None`` is unknown. ``processes`` are those that are left."""

    freed_bytes: int | None
    expected_bytes: int | None
    seconds: float
    settled: bool
    processes: tuple[int, ...] = ()

    @property
    def params(self) -> dict[str, Param]:
        """The figures for a message."""
        return {"freed_bytes": self.freed_bytes, "expected_bytes": self.expected_bytes, "seconds": self.seconds}


def judge_unload(given: Given) -> Judged:
    """Judge a receipt: the freed memory, and whether a process is left."""
    if given.processes:
        pids = ", ".join(map(str, given.processes))
        return failed(Message("selftest_process_left", {"pids": pids}), Message("selftest_advice_emergency"))
    if given.freed_bytes is None or not given.settled:
        return warning(Message("selftest_unload_held", given.params), Message("selftest_advice_held"))
    return ok(Message("selftest_unload_ok", given.params))


def judge_replace(given: Given, *, first_is_gone: bool, second_is_ready: bool) -> Judged:
    """Judge a second switch: the first model is unloaded, its memory is freed, the second one is ready."""
    if not first_is_gone or not second_is_ready:
        return failed(Message("selftest_not_replaced"), Message("selftest_advice_report"))
    if given.freed_bytes is None or not given.settled:
        return warning(Message("selftest_replace_held", given.params), Message("selftest_advice_held"))
    return ok(Message("selftest_replace_ok", given.params))


def judge_answer(text: str, pieces: int) -> Judged:
    """Judge an answer: it must not be empty."""
    if not pieces or not text:
        return failed(Message("selftest_answer_empty"), Message("selftest_advice_report"))
    return ok(Message("selftest_answer_ok", {"count": pieces}))


def judge_refusal(refusal: Message | None, *, untouched: bool) -> Judged:
    """Judge the response to a request that is far too large: refused for its memory, the loaded model unchanged."""
    if refusal is None or refusal.code != "not_enough_memory":
        return failed(Message("selftest_not_refused"), Message("selftest_advice_report"))
    if not untouched:
        return failed(Message("selftest_refused_late"), Message("selftest_advice_report"))
    return ok(Message("selftest_refusal_ok", {k: refusal.params.get(k) for k in ("needed_bytes", "free_bytes")}))
