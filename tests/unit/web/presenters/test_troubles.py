"""Which errors are one of the three troubles, and what each offers."""

from __future__ import annotations

import inspect
from dataclasses import replace

import pytest

from webapp import errors
from webapp.domain.modes import Mode
from webapp.domain.operation import Operation, OperationKind, OperationState
from webapp.errors import WardenError
from webapp.message import Message
from webapp.web import words
from webapp.web.forms import LaunchForm
from webapp.web.presenters.troubles import (
    TROUBLES,
    Trouble,
    TroubleView,
    WayKind,
    operation_trouble,
    plan_trouble,
)

NOT_TROUBLES = {
    # nothing went wrong with memory, a model or a container
    "error": "a defect of the program",
    "invalid": "names the field",
    "not_found": "an address",
    "unknown_instance": "gone already",
    "unknown_operation": "an address",
    "unknown_device": "names those that exist",
    "unknown_container": "gone already",
    "not_cancellable": "has ended",
    "not_confirmed": "asks for the name",
    "superseded": "the emergency has its own result",
    "stopping": "Warden is about to end",
    "too_many_questions": "wait",
    "cancelled": "was wanted",
    "cancelled_by_stop": "was wanted",
    "generation_failed": "a question, not a load",
    "demo_failed": "names the folder",
    "configuration": "names the setting",
    "already_running": "names the process",
    "store_unavailable": "says what to do with the file",
    # the world says no for now, and the sentence names the one thing to do
    "refused": "look again",
    "busy": "wait or cancel",
    "already_loaded": "nothing to do",
    "instance_in_use": "the plan asks",
    "cooling_down": "wait",
    "mode_unavailable": "choose the other mode",
    "not_ready": "wait",
    "unavailable": "wait",
    # the cause is known and has one remedy
    "image_missing": "names the command",
    "gpu_runtime_missing": "names what to install",
    "port_taken": "names the setting",
    "port_lost": "load again",
    "name_taken": "names the command",
    "engine_missing": "install Docker",
    "engine_forbidden": "the docker group",
    # a device that cannot be read is mended at the driver
    "device_unreadable": "the driver",
    "probe_failed": "the driver",
    "driver_missing": "the driver",
    "device_lost": "reboot",
    "not_supported": "never there",
    # the self-test says itself what to do
    "sandbox_failed": "space and rights",
}
"""Error codes that are none of the three, and why."""

FAILED = Operation(
    "op1",
    OperationKind.SWITCH,
    "maria",
    OperationState.FAILED,
    started_at=1.0,
    ended_at=2.0,
    mode="vllm",
    model_id="Qwen/Qwen3-8B",
)


def error_codes() -> set[str]:
    classes = [each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, WardenError)]
    return {each.code for each in classes}


def ended_with(code: str, **changes: object) -> Operation:
    return replace(FAILED, error=Message(code), **changes)  # type: ignore[arg-type]


def names(view: TroubleView | None) -> list[str]:
    return [] if view is None else [way.name for way in view.ways]


def test_every_error_is_a_trouble_or_deliberately_none() -> None:
    assert set(TROUBLES) | set(NOT_TROUBLES) == error_codes()
    assert not set(TROUBLES) & set(NOT_TROUBLES)


def test_a_trouble_is_a_code_that_has_words() -> None:
    assert set(TROUBLES) <= set(words.ERRORS)


@pytest.mark.parametrize("code", [code for code, trouble in TROUBLES.items() if trouble is Trouble.MEMORY])
def test_too_little_memory_offers_room_and_smaller_things(russian: None, code: str) -> None:
    view = operation_trouble(ended_with(code))

    assert names(view) == ["clean", "emergency", "lighter", "transformers"]
    assert names(operation_trouble(ended_with(code, mode="transformers"))) == ["clean", "emergency", "lighter"]


@pytest.mark.parametrize("code", [code for code, trouble in TROUBLES.items() if trouble is Trouble.LAUNCH])
def test_a_model_that_does_not_load_offers_what_to_look_at_first(russian: None, code: str) -> None:
    assert names(operation_trouble(ended_with(code))) == ["cached", "memory", "transformers", "emergency", "restart"]


@pytest.mark.parametrize("code", [code for code, trouble in TROUBLES.items() if trouble is Trouble.STOP])
def test_a_container_that_does_not_stop_offers_dockers_own_commands(russian: None, code: str) -> None:
    view = operation_trouble(ended_with(code, kind=OperationKind.STOP_CONTAINER, mode=None, model_id=None))

    assert view is not None
    commands = [way.target for way in view.ways if way.kind is WayKind.COMMAND]
    assert names(view)[0] == "emergency"
    assert commands == ["docker ps --all", "systemctl status docker", "sudo systemctl restart docker"]


def test_a_process_that_does_not_end_has_nothing_to_do_with_docker(russian: None) -> None:
    assert names(operation_trouble(ended_with("stop_failed", mode="transformers"))) == ["emergency", "memory"]


def test_the_same_model_in_the_other_mode_fills_the_form(russian: None) -> None:
    view = operation_trouble(ended_with("out_of_memory"))

    assert view is not None
    assert view.ways[-1].target == LaunchForm(mode=Mode.TRANSFORMERS.value, model="Qwen/Qwen3-8B").query


@pytest.mark.parametrize(
    "operation",
    [
        FAILED,
        ended_with("cancelled"),
        ended_with("of a later version"),
        ended_with("out_of_memory", state=OperationState.RUNNING, ended_at=None),
    ],
)
def test_nothing_is_offered_where_nothing_is_known_or_it_is_not_over(russian: None, operation: Operation) -> None:
    assert operation_trouble(operation) is None


def test_a_plan_refused_for_memory_keeps_what_was_typed(russian: None) -> None:
    form = LaunchForm(mode="vllm", model="Qwen/Qwen3-8B", max_tokens="4096", device="gpu-1")

    view = plan_trouble("not_enough_memory", form)

    assert names(view) == ["clean", "emergency", "lighter", "transformers"]
    assert view is not None
    assert "max_tokens=4096" in view.ways[-1].target
    assert "device=gpu-1" in view.ways[-1].target


@pytest.mark.parametrize("code", [None, "busy", "mode_unavailable", "model_unsuitable", "already_loaded"])
def test_a_plan_refused_for_another_reason_offers_nothing_more(russian: None, code: str | None) -> None:
    assert plan_trouble(code, LaunchForm(model="lab/one")) is None
