"""Every code that anything can say has a sentence in both languages."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path

import pytest

from webapp import errors
from webapp.domain.footprint import Confidence, Note, PartName, Source
from webapp.domain.instance import InstanceState
from webapp.domain.keeping import StoreTrouble
from webapp.domain.memory import LedgerKind, Level
from webapp.domain.model import ModelProblem
from webapp.domain.modes import Mode, Precision
from webapp.domain.operation import OperationKind, OperationState, StepName, StepState
from webapp.domain.plan import Verdict
from webapp.domain.postmortem import Cause, Phase
from webapp.domain.queue import QueueState
from webapp.domain.recommend import Mark
from webapp.domain.selftest import CheckMark, CheckName
from webapp.domain.units import gib
from webapp.errors import WardenError
from webapp.message import Message, Param
from webapp.runtimes.base import ProbeState, StopStage
from webapp.runtimes.vllm.log import Stage
from webapp.web import problems, words
from webapp.web.words import names
from webapp.web.words.models import REASONS

ROOT = Path(__file__).parents[3]
COMPOSED: Mapping[str, Sequence[StrEnum]] = {
    "plan_": [Verdict.FITS, Verdict.TIGHT],
    "creating_": list(Mode),
    "launch_": [InstanceState.STARTING, InstanceState.LOADING],
    "stop_": list(StopStage),
    "vllm_": list(Stage),
    "why_": list(Cause),
    "keeping_": list(StoreTrouble),
}
"""Codes that are put together where they are used, by their beginning."""


def said() -> Iterator[str]:
    """Every code that a ``Message("…")`` in the program carries."""
    for path in sorted((ROOT / "webapp").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id == "Message"
                and node.args
            ):
                yield from codes(node.args[0], path)


def codes(node: ast.expr, path: Path) -> Iterator[str]:
    if isinstance(node, ast.Constant):
        yield str(node.value)
    elif isinstance(node, ast.IfExp):
        yield from codes(node.body, path)
        yield from codes(node.orelse, path)
    elif isinstance(node, ast.JoinedStr):
        first = node.values[0]
        assert isinstance(first, ast.Constant), f"{path}: a code whose beginning is not known"
        begin = str(first.value)
        assert begin in COMPOSED, f"{path}: say in COMPOSED which codes begin with {begin!r}"
        yield from (begin + member.value for member in COMPOSED[begin])


def error_codes() -> list[str]:
    classes = [each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, WardenError)]
    return [each.code for each in classes]


CODES = sorted(
    {
        *said(),
        *error_codes(),
        *(p.value for p in ModelProblem),
        *problems.CODES.values(),
        *problems.SPECIAL_CODES.values(),
    }
)


@pytest.mark.parametrize("code", CODES)
def test_every_code_has_a_sentence(code: str) -> None:
    assert code in words.SENTENCES


@pytest.mark.parametrize("problem", ModelProblem)
def test_every_reason_that_is_only_named_has_a_clause_without_values(problem: ModelProblem) -> None:
    assert "%(" not in REASONS[problem.value].one


def test_what_a_probe_and_an_instance_call_the_same_state_is_the_same_word() -> None:
    assert {state.value for state in ProbeState} <= {state.value for state in InstanceState}


@pytest.mark.parametrize("language", ["ru", "en"])
def test_a_sentence_is_said_whatever_values_are_missing(speak: Callable[[str], None], language: str) -> None:
    speak(language)

    for code in words.SENTENCES:
        sentence = words.say(Message(code))

        assert sentence
        assert "%(" not in sentence


def test_english_has_no_russian_left(english: None) -> None:
    for code in words.SENTENCES:
        assert not re.search("[а-яё]", words.say(Message(code)), re.IGNORECASE), code


TABLES = [
    (names.LEVELS, Level),
    (names.MODES, Mode),
    (names.PRECISIONS, Precision),
    (names.INSTANCE_STATES, InstanceState),
    (names.KINDS, OperationKind),
    (names.OPERATION_STATES, OperationState),
    (names.STEP_NAMES, StepName),
    (names.STEP_STATES, StepState),
    (names.VERDICTS, Verdict),
    (names.MARKS, Mark),
    (names.LEDGER, LedgerKind),
    (names.PARTS, PartName),
    (names.SOURCES, Source),
    (names.CONFIDENCES, Confidence),
    (names.NOTES, Note),
    (names.STAGES, StopStage),
    (names.CHECKS, CheckName),
    (names.CHECK_MARKS, CheckMark),
    (names.CAUSES, Cause),
    (names.PHASES, Phase),
    (names.QUEUE_STATES, QueueState),
]


@pytest.mark.parametrize(("table", "members"), TABLES, ids=lambda value: getattr(value, "__name__", ""))
def test_every_member_of_a_closed_set_has_a_word(english: None, table: dict[str, str], members: type) -> None:
    for member in members:  # type: ignore[attr-defined]
        assert not re.search("[а-яё]", words.word(table, member), re.IGNORECASE)


def test_an_error_says_what_happened_to_what_and_what_to_do(russian: None) -> None:
    said_so = words.say(
        Message(
            "not_enough_memory",
            {
                "model": "Qwen/Qwen3-8B",
                "device": "gpu-0",
                "needed_bytes": gib(17.8),
                "free_bytes": gib(13),
                "reserve_bytes": gib(1.2),
                "missing_bytes": gib(6),
            },
        )
    )

    for part in ("Qwen/Qwen3-8B", "GPU 0", "17,8\u00a0GiB", "6,0\u00a0GiB", "Выберите"):
        assert part in said_so


@pytest.mark.parametrize(
    ("count", "word"), [(1, "завершён 1 процесс"), (3, "завершено 3 процесса"), (5, "завершено 5 процессов")]
)
def test_russian_counts_in_three_forms(russian: None, count: int, word: str) -> None:
    assert word in words.say(Message("emergency_done", {"count": count, "freed_bytes": gib(1)}))


def test_a_message_that_names_a_code_says_it_as_a_clause(russian: None) -> None:
    assert words.say(Message("clean_failed", {"model": "lab/m", "code": "worker_silent"})) == (
        "lab/m: не очищена, её процесс не отвечает"
    )


def test_busy_names_the_model_and_the_step_where_they_are_known(russian: None) -> None:
    known: dict[str, Param] = {"kind": "switch", "actor": "ivan", "since": 0.0, "step": "launch", "model": "lab/m"}

    assert "lab/m, шаг «Запуск»" in words.say(Message("busy", known))
    assert "нет данных" not in words.say(Message("busy", {**known, "step": None, "model": None}))


@pytest.mark.parametrize("code", ["instance_in_use", "waits_in_use", "way_out_unload_busy"])
@pytest.mark.parametrize(("count", "known"), [(3, True), (None, False)])
def test_requests_are_counted_only_where_their_number_is_known(
    russian: None, code: str, count: int | None, known: bool
) -> None:
    text = words.say(Message(code, {"model": "lab/m", "owner": "maria", "in_flight": count}))

    assert ("3" in text) is known
    assert "нет данных" not in text


CANNOT_BE_CHOSEN = [
    "engine_unavailable",
    "engine_missing",
    "engine_forbidden",
    "engine_unreachable",
    "engine_failed",
    "image_missing",
    "gpu_runtime_missing",
]


@pytest.mark.parametrize("code", CANNOT_BE_CHOSEN)
def test_why_a_mode_cannot_be_chosen_reads_well_inside_a_sentence(english: None, code: str) -> None:
    refusal = words.say(Message("mode_unavailable", {"mode": "vllm", "reason": code}))

    assert "%(" not in REASONS[code].one
    assert code not in refusal


def test_a_missing_image_says_how_to_get_it(english: None) -> None:
    values = {"image": "vllm/vllm-openai:v1", "command": "docker pull vllm/vllm-openai:v1"}

    assert words.clause(Message("image_missing", values)).removesuffix(".") == (
        "The image vllm/vllm-openai:v1 is not on this server. Pull it with “docker pull vllm/vllm-openai:v1” and try again"
    )


def test_a_kv_cache_that_is_too_small_names_the_context_that_fits_where_it_is_known(english: None) -> None:
    values: dict[str, Param] = {
        "model": "m",
        "max_tokens": 8192,
        "needed_bytes": gib(4),
        "available_bytes": gib(1),
        "fits_tokens": 2048,
    }

    assert "Choose 2048 tokens or fewer." in words.say(Message("kv_cache_too_small", values))
    assert "n/a" not in words.say(Message("kv_cache_too_small", {**values, "fits_tokens": None}))


def test_a_stage_of_vllm_has_its_figures_where_they_are_known(english: None) -> None:
    cache = {"tokens": 32768, "kv_cache_bytes": gib(2)}

    assert words.clause(Message("vllm_weights", {"percent": 40})) == "loading weights: 40 %"
    assert words.clause(Message("vllm_weights", {"percent": None})) == "loading weights"
    assert words.clause(Message("vllm_kv_cache", cache)) == "KV cache: 32,768 tokens, 2.0 GiB"
    assert words.clause(Message("vllm_kv_cache")) == "the KV cache is ready"


def test_a_containers_id_is_said_short(english: None) -> None:
    assert f"container {'a' * 12} is" in words.say(Message("unknown_container", {"container": "a" * 64}))


def test_an_unknown_code_is_shown_as_it_is_with_its_values(russian: None) -> None:
    assert words.say(Message("strange_thing", {"pid": 7, "user": None})) == "strange_thing (pid=7)"
    assert words.say(Message("strange_thing")) == "strange_thing"


def test_a_percent_sign_in_a_value_is_only_a_value(russian: None) -> None:
    assert "100%(x)s" in words.say(Message("launch_failed", {"model": "m", "detail": "100%(x)s"}))


@pytest.mark.parametrize(("log", "told"), [("one line", True), ("", False)])
def test_nobody_is_sent_to_a_log_that_is_not_there(russian: None, log: str, told: bool) -> None:
    said = words.say(Message("launch_failed", {"model": "m", "detail": "no such file", "log": log}))
    assert ("последние строки" in said) is told
    assert ("журнала у модели нет" in said) is not told


def test_a_name_keeps_its_small_letter(russian: None) -> None:
    assert words.capital("vLLM не отвечает") == "vLLM не отвечает"
    assert words.capital("lab/model: готово") == "lab/model: готово"
    assert words.capital("config.json не читается") == "config.json не читается"
    assert words.capital("процесс исчез") == "Процесс исчез"
