"""Which errors and outcomes are one of the troubles, and what each offers."""

from __future__ import annotations

import ast
import inspect
from dataclasses import replace
from pathlib import Path

import pytest

from webapp import errors
from webapp.domain.modes import Mode
from webapp.domain.operation import Finding, Operation, OperationKind, OperationState
from webapp.domain.planning.relief import Relief
from webapp.errors import WardenError
from webapp.message import Message
from webapp.web.launch.form import LaunchForm
from webapp.web.operations.presenters.troubles import (
    OUTCOME_TROUBLES,
    TROUBLES,
    Trouble,
    TroubleActionKind,
    TroubleView,
    operation_trouble,
    plan_trouble,
)
from webapp.web.words.errors import ERRORS
from webapp.web.words.operations import OUTCOMES

REPOSITORY = Path(__file__).parents[4]

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
    "unknown_ticket": "gone already",
    "ticket_ended": "gone already",
    "already_waiting": "names its place",
    "queue_full": "names the limit",
    "request_id_reused": "says what to do",
    "cannot_wait": "the plan has the ways out",
    "foreign_ticket": "names its person",
    "stopping": "Warden is about to end",
    "too_many_questions": "wait",
    "cancelled": "was wanted",
    "cancelled_by_stop": "was wanted",
    "generation_failed": "a question, not a load",
    "demo_failed": "names the folder",
    "configuration": "names the setting",
    "already_running": "names the process",
    "store_unavailable": "says what to do with the file",
    # a person, not the memory
    "weak_password": "names the rule",
    "unauthorized": "sign in",
    "sign_in_failed": "try again",
    "forbidden": "ask an administrator",
    "not_yours": "ask its owner",
    "too_late": "load it again",
    "in_person": "sign in",
    "unknown_person": "gone already",
    "unknown_invitation": "ask for another",
    "unknown_token": "gone already",
    "name_in_use": "choose another",
    "last_administrator": "appoint another first",
    "own_account": "another administrator",
    # the world says no for now, and the sentence names the one thing to do
    "refused": "look again",
    "busy": "wait or cancel",
    "already_loaded": "nothing to do",
    "instance_in_use": "the plan asks",
    "instance_leased": "ask its owner",
    "confirmation_needed": "confirm each model in the plan",
    "lease_pending": "names what to do",
    "instance_stopping": "load it again",
    "idle_used_again": "nothing to do",
    "cannot_end": "names the cause",
    "nothing_to_restore": "nothing to do",
    "not_owner": "names the owner",
    "release_pending": "wait",
    "nothing_asked": "was answered",
    "cooling_down": "wait",
    "mode_unavailable": "choose the other mode",
    "not_ready": "wait",
    "unavailable": "wait",
    "not_stored": "names what to do",
    # the cause is known and has one remedy
    "image_missing": "names the command",
    "gpu_runtime_missing": "names what to install",
    "disk_full": "names the disk and the command",
    "disk_read_only": "names the file system",
    "too_many_files": "names the limit",
    "too_many_processes": "names the limit",
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
"""Error codes that are none of the troubles, and why."""

WENT_WELL = {
    "switch_done",
    "unload_done",
    "clean_done",  # a warning, too, where a line of it is one: the line names what to do
    "emergency_done",
    "demo_done",
    "dead_removed",
    "stuck_cleared",
    "container_ended",
    "container_ended_freed",
}
"""Outcomes with nothing to be mended."""

SAY_THEMSELVES = {
    "unload_unknown": "the driver",
    "nothing_changed": "nothing to do",
    "rolled_back": "nothing to do; the error has the steps",
    "restore_failed": "has a button of its own",
    "not_restored_by_choice": "was wanted",
    "ended_early": "look at what is loaded",
    "taken_over": "the emergency has its own result",
    "rollback_cancelled": "was wanted",
    "undo_failed": "names the button",
    "unloaded_not_waited": "was wanted",
    "container_not_waited": "was wanted",
    "abandoned": "the start has cleaned up",
    "instance_vanished": "somebody else's doing",
}
"""Outcomes that are no success and none of the troubles, and why."""

LINES = {
    "adopted",
    "removed_half_started",
    "removal_failed",
    "restored",
    "restore_begun",
    "restore_model_gone",
    "restore_not_needed",
    "restore_revision_gone",
    "restore_no_memory",
    "restore_failed_because",
    "dead_not_removed",
    "clean_worker",
    "clean_failed",
    "stays_foreign",
    "stays_unattributed",
    "stays_container",
    "leftover_process",
    "leftover_folder",
    "leftover_container",
    "ended_instance",
    "ended_unlisted",
    "end_failed",
    "runtime_unreachable",
    "not_reached",
    "loaded_anyway",
    "launch_again_disturbed",
    "launch_again_port",
    "found_dead",
    "container_not_removed",
    "ended_not_removed",
}
"""Lines of a result that are not an outcome on their own."""

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


def warned(code: str, **changes: object) -> Operation:
    return replace(FAILED, state=OperationState.WARNING, outcome=Message(code), **changes)  # type: ignore[arg-type]


def warning_codes() -> set[str]:
    """The codes in each statement of the controller that ends an operation with a warning, and of its ``code``."""
    found: set[str] = set()
    for file in (REPOSITORY / "webapp" / "control").glob("*.py"):
        for function in ast.walk(ast.parse(file.read_text())):
            if isinstance(function, ast.FunctionDef):
                found |= _warned_in(function)
    return found


def _warned_in(function: ast.FunctionDef) -> set[str]:
    ends = [node for node in ast.walk(function) if isinstance(node, ast.Return) and _is_warning(node)]
    if not ends:
        return set()
    stated = [
        node for node in ast.walk(function) if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "code"
    ]
    constants = [each for node in [*ends, *stated] for each in ast.walk(node) if isinstance(each, ast.Constant)]
    return {each.value for each in constants if isinstance(each.value, str) and each.value in OUTCOMES}


def _is_warning(node: ast.Return) -> bool:
    return "Outcome(OperationState.WARNING" in ast.unparse(node)


def names(view: TroubleView | None) -> list[str]:
    return [] if view is None else [way.name for way in view.ways]


def test_every_error_is_a_trouble_or_deliberately_none() -> None:
    assert set(TROUBLES) | set(NOT_TROUBLES) == error_codes()
    assert not set(TROUBLES) & set(NOT_TROUBLES)


def test_a_trouble_is_a_code_that_has_words() -> None:
    assert set(TROUBLES) <= set(ERRORS)


def test_every_outcome_is_a_trouble_or_deliberately_none() -> None:
    judged = [*OUTCOME_TROUBLES, *WENT_WELL, *SAY_THEMSELVES, *LINES]

    assert sorted(judged) == sorted(OUTCOMES)


def test_every_outcome_that_is_a_warning_in_every_case_is_judged() -> None:
    assert warning_codes() == {*OUTCOME_TROUBLES, "unload_unknown"}


@pytest.mark.parametrize("code", ["unload_held", "container_ended_held"])
def test_memory_that_did_not_come_back_offers_to_look_and_to_clean_before_the_emergency(
    russian: None, code: str
) -> None:
    kind = OperationKind.UNLOAD if code == "unload_held" else OperationKind.STOP_CONTAINER

    view = operation_trouble(warned(code, kind=kind, mode="transformers"))

    assert names(view)[:3] == ["memory", "clean", "emergency"]
    assert names(view)[3:] == ([] if code == "unload_held" else ["docker-list"])


def test_memory_of_an_unloaded_container_offers_to_look_for_the_container(russian: None) -> None:
    view = operation_trouble(warned("unload_held", kind=OperationKind.UNLOAD, mode="vllm"))

    assert names(view) == ["memory", "clean", "emergency", "docker-list"]


def test_memory_held_after_a_switch_offers_nothing_that_ends_the_new_model(russian: None) -> None:
    assert names(operation_trouble(warned("switch_done_memory_held"))) == ["memory", "clean"]


@pytest.mark.parametrize(
    ("finding", "dockers"),
    [
        (Finding(Message("not_reached", {"name": "m", "mode": "vllm"}), ok=False), True),
        (Finding(Message("runtime_unreachable", {"mode": "vllm"}), ok=False), True),
        (Finding(Message("ended_instance", {"name": "m", "mode": "vllm"})), False),
        (Finding(Message("end_failed", {"name": "m", "mode": "transformers", "detail": "OSError"}), ok=False), False),
        (Finding(Message("stays_container", {"name": "c", "user": "oleg", "image": "vllm"})), False),
    ],
)
def test_an_incomplete_emergency_offers_dockers_commands_where_a_container_is_left(
    russian: None, finding: Finding, dockers: bool
) -> None:
    view = operation_trouble(
        warned("emergency_incomplete", kind=OperationKind.EMERGENCY, mode=None, model_id=None, findings=(finding,))
    )

    commands = ["docker-list", "docker-status", "docker-restart"] if dockers else []
    assert names(view) == ["memory", "clean", "emergency", *commands]


@pytest.mark.parametrize("code", sorted({*WENT_WELL, *SAY_THEMSELVES}))
def test_other_outcomes_offer_nothing(russian: None, code: str) -> None:
    assert operation_trouble(warned(code)) is None


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
    commands = [way.target for way in view.ways if way.kind is TroubleActionKind.COMMAND]
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


def test_a_plan_refused_for_memory_is_offered_only_what_helps_the_mildest_first(russian: None) -> None:
    """The other mode is left to the plan's ways out: they name it only where it fits."""
    assert names(plan_trouble(Relief(True, True), lighter=True)) == ["clean", "lighter", "emergency"]
    assert names(plan_trouble(Relief(False, True), lighter=False)) == ["emergency"]
    assert plan_trouble(Relief(False, False), lighter=False) is None
