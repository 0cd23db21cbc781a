"""Operations as rows and in full."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from webapp.domain.operation import (
    HeldBy,
    Operation,
    OperationKind,
    OperationState,
    OperationValues,
    Receipt,
    Step,
    StepName,
    StepState,
)
from webapp.domain.units import gib
from webapp.message import Message
from webapp.web.operations.presenters.history import filter_view, history_view, receipt_sum
from webapp.web.operations.presenters.operation_page import OperationPage, operation_page
from webapp.web.operations.query import OperationsQuery

ENDED = Operation(
    "op1",
    OperationKind.SWITCH,
    "maria",
    OperationState.SUCCEEDED,
    started_at=1000.0,
    ended_at=1003.0,
    model_id="lab/one",
)
RECEIPT = Receipt("gpu-0", gib(4), gib(4), None, 0.8, settled=True)


def rows(count: int) -> list[Operation]:
    return [replace(ENDED, id=f"op{number}") for number in range(count)]


def facts(page: OperationPage, number: int = 0) -> dict[str, str]:
    return {fact.label: fact.text.replace("\u00a0", " ") for fact in page.receipts[number].facts}


@pytest.mark.parametrize(("found", "older"), [(2, None), (3, None), (4, "kind=switch&before=op2")])
def test_one_more_than_a_page_leads_to_an_older_one(russian: None, found: int, older: str | None) -> None:
    view = history_view(OperationsQuery(kind="switch"), (), rows(found), page=3, now=2000.0)

    assert view.older == older
    assert len(view.ended) == min(found, 3)


@pytest.mark.parametrize(
    ("count", "words"),
    [(1, "Показана 1 операция"), (3, "Показаны 3 операции"), (5, "Показано 5 операций")],
)
def test_what_is_shown_is_counted_in_three_forms(russian: None, count: int, words: str) -> None:
    assert history_view(OperationsQuery(), (), rows(count), page=9, now=0.0).count == words


def test_a_receipt_stands_in_the_row_unless_the_sentence_says_it(russian: None) -> None:
    switched = replace(ENDED, receipts=(RECEIPT,), outcome=Message("switch_done", {"model": "lab/one"}))
    unloaded = replace(switched, outcome=Message("unload_done", {"freed_bytes": gib(4)}))

    first, second = history_view(OperationsQuery(), (), [switched, unloaded], page=9, now=0.0).ended

    assert first.receipt is not None
    assert first.receipt.text.replace("\u00a0", " ") == "Освобождено 4,0 GiB из 4,0 GiB за 0,8 с."
    assert second.receipt is None


def test_receipts_are_summed_and_one_that_is_unknown_makes_the_sum_unknown(english: None) -> None:
    slow = replace(RECEIPT, device_id="gpu-1", freed_bytes=gib(1), seconds=30.0, settled=False)
    unread = replace(RECEIPT, freed_bytes=None)

    both, unknown = receipt_sum((RECEIPT, slow)), receipt_sum((RECEIPT, unread))

    assert receipt_sum(()) is None
    assert both is not None
    assert (both.text.replace("\u00a0", " "), both.ok) == ("5.0 GiB of 8.0 GiB freed in 30 s.", False)
    assert unknown is not None
    assert (unknown.text, unknown.ok) == ("How much memory was freed is unknown.", False)


def test_the_choices_are_what_is_kept_and_what_was_asked_for(russian: None) -> None:
    values = OperationValues((OperationKind.SWITCH,), ("ivan", "maria"), ("lab/one",), (OperationState.FAILED,))

    view = filter_view(OperationsQuery(actor="maria", state="nonsense"), values)

    assert [(c.value, c.chosen) for c in view.actors] == [("", False), ("ivan", False), ("maria", True)]
    assert [c.label for c in view.kinds] == ["все", "Переключение"]
    assert [(c.label, c.chosen) for c in view.states] == [("все", False), ("❌ ошибка", False), ("nonsense", True)]


def test_a_step_tells_when_it_began_how_long_it_took_and_what_it_said(english: None) -> None:
    steps = (
        Step(StepName.PLAN, StepState.DONE, 1000.0, 1000.5, Message("planned", {"needed_bytes": gib(2)})),
        Step(StepName.LAUNCH, StepState.RUNNING, 1001.0, None, Message("launch_loading"), progress=0.4),
        Step(StepName.READY),
    )

    done, running, waiting = operation_page(replace(ENDED, steps=steps)).steps

    assert (done.took.replace("\u00a0", " "), done.message.replace("\u00a0", " ")) == ("0.5 s", "2.0 GiB needed")
    assert done.at.count(":") == 2
    assert (running.since, running.message.replace("\u00a0", " ")) == (1001.0, "loading weights · 40 %")
    assert (waiting.at, waiting.took, waiting.message, waiting.since) == ("", "", "", None)


@pytest.mark.parametrize(
    ("others", "words"),
    [(None, "нет данных"), (0, "ничего не изменили"), (gib(1), "заняли 1,0 GiB"), (-gib(2), "отдали 2,0 GiB")],
)
def test_a_receipt_says_what_the_neighbours_did(russian: None, others: int | None, words: str) -> None:
    page = operation_page(replace(ENDED, receipts=(replace(RECEIPT, others_bytes=others),)))

    assert facts(page)["Другие процессы за это время"] == words


def test_a_receipt_names_everybody_who_still_holds_memory(russian: None) -> None:
    held = tuple(HeldBy(pid, "alice", "python", gib(1), "D") for pid in range(9))

    (card,) = operation_page(replace(ENDED, receipts=(replace(RECEIPT, settled=False, still_held_by=held),))).receipts

    assert (card.ok, card.verdict) == (False, "освобождена не вся")
    assert len(card.held) == 9
    assert card.held[0].process == "процесс 0 (alice) · D"


def test_unknown_figures_of_a_receipt_are_said_to_be_unknown(russian: None) -> None:
    page = operation_page(replace(ENDED, receipts=(Receipt("host", None, None, None, 0.1, settled=False),)))

    assert facts(page)["Освобождено"] == facts(page)["Ожидалось"] == "нет данных"
    assert page.receipts[0].verdict == "неизвестно: устройство не читается"


def test_a_page_that_did_not_change_has_the_same_version(speak: Callable[[str], None]) -> None:
    speak("ru")
    version = operation_page(ENDED).version

    assert version == operation_page(ENDED).version
    assert version != operation_page(replace(ENDED, actor="ivan")).version
    speak("en")
    assert version != operation_page(ENDED).version
