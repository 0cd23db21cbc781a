"""Each check's good and bad end, by readings, receipts and advice that were doctored."""

from __future__ import annotations

from dataclasses import replace

import pytest

from webapp.domain.memory import DeviceKind, Reading, Sample
from webapp.domain.recommend import Advice, recommend
from webapp.domain.selftest import (
    Check,
    CheckMark,
    CheckName,
    Given,
    Judged,
    Loaded,
    StateFacts,
    Witness,
    judge_advice,
    judge_answer,
    judge_load,
    judge_memory,
    judge_refusal,
    judge_replace,
    judge_state,
    judge_unload,
    judge_vllm,
    worst_of,
)
from webapp.domain.units import MIB, gib
from webapp.message import Message

READING = Reading(
    device_id="gpu-0", kind=DeviceKind.GPU, name="L40S", uuid="GPU-0", total_bytes=gib(48), reserved_bytes=gib(1),
    used_bytes=gib(7), free_bytes=gib(40), utilization_percent=None, temperature_c=None, power_w=None,
)  # fmt: skip
GIVEN = Given(freed_bytes=gib(1), expected_bytes=gib(1), seconds=0.4, settled=True)


def sample(number: int, reading: Reading = READING, problem: Message | None = None) -> Sample:
    return Sample(number, 1000.0 + number, float(number), (reading,), problem)


def memory(*samples: Sample | None, age_s: float | None = 0.1, witness: Witness | None = None) -> Judged:
    return judge_memory(samples, age_s, 10.0, {} if witness is None else {"gpu-0": witness})


def test_figures_that_are_fresh_and_add_up_are_good() -> None:
    judged = memory(sample(1), sample(2), witness=Witness(gib(48), gib(39)))

    assert (judged.mark, judged.seen.code) == (CheckMark.OK, "selftest_memory_ok")


def test_a_driver_that_rounds_its_figures_is_no_fault() -> None:
    assert memory(sample(1), sample(2, replace(READING, used_bytes=gib(7) - 4096))).mark is CheckMark.OK


@pytest.mark.parametrize(
    ("reading", "code"),
    [
        (replace(READING, used_bytes=gib(7) - 2 * MIB), "selftest_ledger_off"),
        (replace(READING, free_bytes=gib(40) + 2 * MIB), "selftest_ledger_off"),
        (replace(READING, total_bytes=None), "selftest_no_figures"),
        (replace(READING, free_bytes=None, problem=Message("device_lost")), "device_lost"),
    ],
)
def test_a_doctored_reading_fails(reading: Reading, code: str) -> None:
    judged = memory(sample(1), sample(2, reading))

    assert (judged.mark, judged.seen.code) == (CheckMark.FAILED, code)
    assert judged.advice is not None


def test_readings_that_do_not_come_in_time_fail() -> None:
    assert memory(sample(1), None).seen.code == "selftest_readings_late"
    assert memory(sample(1), sample(2), age_s=11.0).seen.code == "selftest_readings_late"
    assert memory().mark is CheckMark.FAILED


def test_readings_of_one_moment_are_stuck() -> None:
    assert memory(sample(1), sample(1)).seen.code == "selftest_readings_stuck"


@pytest.mark.parametrize("witness", [Witness(gib(48), gib(20)), Witness(gib(24), gib(40)), Witness(gib(64), gib(10))])
def test_figures_that_another_source_contradicts_fail(witness: Witness) -> None:
    assert memory(sample(1), sample(2), witness=witness).seen.code == "selftest_witness_off"


def test_a_control_group_may_make_both_figures_smaller() -> None:
    assert memory(sample(1), sample(2), witness=Witness(gib(128), gib(100))).mark is CheckMark.OK


def test_a_driver_that_has_gone_is_named_and_one_that_never_was_is_not() -> None:
    assert memory(sample(1), sample(2, problem=Message("driver_gone"))).seen.code == "driver_gone"
    assert memory(sample(1), sample(2, problem=Message("driver_missing"))).mark is CheckMark.OK


@pytest.mark.parametrize(
    ("facts", "mark", "code"),
    [
        (StateFacts("/s", 0o700, None), CheckMark.OK, "selftest_state_ok"),
        (StateFacts("/s", None, "Read-only file system"), CheckMark.FAILED, "selftest_state_unwritable"),
        (StateFacts("/s", 0o700, None, kept=False), CheckMark.FAILED, "selftest_not_kept"),
        (StateFacts("/s", 0o755, None), CheckMark.FAILED, "selftest_state_open"),
        (StateFacts("/s", 0o700, None, ("warden.db",)), CheckMark.WARNING, "selftest_files_open"),
    ],
)
def test_the_state_folder_has_to_be_writable_private_and_readable_again(
    facts: StateFacts, mark: CheckMark, code: str
) -> None:
    judged = judge_state(facts)

    assert (judged.mark, judged.seen.code) == (mark, code)


def test_the_real_recommendations_are_the_tables_at_every_boundary() -> None:
    assert judge_advice(recommend, gib(5), recommend(gib(5))).mark is CheckMark.OK


@pytest.mark.parametrize("boundary", [gib(8), gib(6), gib(4), gib(8) - 1, gib(6) - 1, gib(4) - 1, 0])
def test_an_advice_that_is_wrong_at_one_boundary_fails(boundary: int) -> None:
    def wrong(free_bytes: int) -> Advice:
        right = recommend(free_bytes)
        return replace(right, max_tokens=right.max_tokens + 1) if free_bytes == boundary else right

    judged = judge_advice(wrong, gib(5), recommend(gib(5)))

    assert (judged.mark, judged.seen.params["free_bytes"]) == (CheckMark.FAILED, boundary)


def test_an_advice_shown_for_other_memory_fails_and_an_unknown_one_is_a_warning() -> None:
    assert judge_advice(recommend, gib(5), recommend(gib(9))).mark is CheckMark.FAILED
    assert judge_advice(recommend, None, None).mark is CheckMark.WARNING


@pytest.mark.parametrize(
    ("problem", "mark"),
    [
        (None, CheckMark.OK),
        (Message("engine_missing"), CheckMark.WARNING),
        (Message("image_missing"), CheckMark.WARNING),
        (Message("engine_unreachable"), CheckMark.FAILED),
    ],
)
def test_docker_that_is_absent_is_a_warning_and_docker_that_hangs_a_failure(
    problem: Message | None, mark: CheckMark
) -> None:
    judged = judge_vllm(problem)

    assert (judged.mark, judged.advice) == (mark, problem)


def test_a_load_is_measured_and_stays_within_its_promise() -> None:
    assert judge_load(Loaded(1, 2.0, gib(1), gib(0.9))).mark is CheckMark.OK
    assert judge_load(Loaded(1, 2.0, gib(1), None)).seen.code == "selftest_not_measured"
    assert judge_load(Loaded(1, 2.0, gib(1), gib(1.1))).seen.code == "selftest_over_prediction"


def test_an_empty_answer_fails() -> None:
    assert judge_answer("", 0).mark is CheckMark.FAILED
    assert judge_answer("Hello", 2).mark is CheckMark.OK


def test_a_replaced_model_is_gone_and_its_memory_back() -> None:
    assert judge_replace(GIVEN, first_is_gone=True, second_is_ready=True).mark is CheckMark.OK
    assert judge_replace(GIVEN, first_is_gone=False, second_is_ready=True).mark is CheckMark.FAILED
    assert judge_replace(GIVEN, first_is_gone=True, second_is_ready=False).mark is CheckMark.FAILED
    held = replace(GIVEN, settled=False)
    assert judge_replace(held, first_is_gone=True, second_is_ready=True).mark is CheckMark.WARNING


def test_an_unload_leaves_no_process_and_gives_the_memory_back() -> None:
    assert judge_unload(GIVEN).mark is CheckMark.OK
    assert judge_unload(replace(GIVEN, processes=(77,))).seen.params["pids"] == "77"
    assert judge_unload(replace(GIVEN, freed_bytes=None)).mark is CheckMark.WARNING


def test_a_refusal_comes_for_the_memory_and_before_anything_is_touched() -> None:
    refusal = Message("not_enough_memory", {"needed_bytes": gib(4), "free_bytes": gib(2)})

    assert judge_refusal(refusal, untouched=True).mark is CheckMark.OK
    assert judge_refusal(refusal, untouched=False).seen.code == "selftest_refused_late"
    assert judge_refusal(None, untouched=True).seen.code == "selftest_not_refused"
    assert judge_refusal(Message("busy"), untouched=True).seen.code == "selftest_not_refused"


def test_the_worst_mark_counts_and_a_skipped_check_does_not() -> None:
    def checks(*marks: CheckMark) -> list[Check]:
        return [Check(CheckName.MEMORY, mark, Message("x"), 0.0) for mark in marks]

    assert worst_of(checks(CheckMark.OK, CheckMark.SKIPPED)) is CheckMark.OK
    assert worst_of(checks(CheckMark.OK, CheckMark.WARNING)) is CheckMark.WARNING
    assert worst_of(checks(CheckMark.FAILED, CheckMark.WARNING)) is CheckMark.FAILED
