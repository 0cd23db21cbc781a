"""Remedies that a person can try: each is a button, a link or a command to copy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from webapp.domain.modes import Mode
from webapp.domain.operation import Operation, OperationKind
from webapp.domain.planning.relief import Relief
from webapp.web.launch.form import LaunchForm
from webapp.web.operations.presenters.postmortem import fit_link
from webapp.web.translate import gettext as _


class Trouble(StrEnum):
    """The problems that a person can do something about."""

    MEMORY = "memory"
    """There is not enough memory."""
    NEIGHBOUR = "neighbour"
    """Another process took the memory of a load."""
    LAUNCH = "launch"
    """A model does not load."""
    STOP = "stop"
    """A container or a process does not end."""
    HELD = "held"
    """The memory of an ended model was not freed."""
    LEFT = "left"
    """An emergency stop could not end everything, or the memory was not freed after it."""


TROUBLES: Final[Mapping[str, Trouble]] = {
    "not_enough_memory": Trouble.MEMORY,
    "out_of_memory": Trouble.MEMORY,
    "start_memory_short": Trouble.MEMORY,
    "kv_cache_too_small": Trouble.MEMORY,
    "load_fenced": Trouble.NEIGHBOUR,
    "unknown_model": Trouble.LAUNCH,
    "model_unsuitable": Trouble.LAUNCH,
    "launch_failed": Trouble.LAUNCH,
    "launch_blocked": Trouble.LAUNCH,
    "launch_stalled": Trouble.LAUNCH,
    "launch_too_slow": Trouble.LAUNCH,
    "profile_disturbed": Trouble.LAUNCH,
    "architecture_unsupported": Trouble.LAUNCH,
    "argument_rejected": Trouble.LAUNCH,
    "context_too_long": Trouble.LAUNCH,
    "container_exited": Trouble.LAUNCH,
    "container_removed": Trouble.LAUNCH,
    "worker_died": Trouble.LAUNCH,
    "worker_garbled": Trouble.LAUNCH,
    "server_garbled": Trouble.LAUNCH,
    "worker_silent": Trouble.LAUNCH,
    "worker_cut_off": Trouble.LAUNCH,
    "stop_failed": Trouble.STOP,
    "engine_unavailable": Trouble.STOP,
    "engine_unreachable": Trouble.STOP,
    "engine_failed": Trouble.STOP,
}
"""The trouble by error code. Other errors either name their only remedy themselves or have none."""

OUTCOME_TROUBLES: Final[Mapping[str, Trouble]] = {
    "unload_held": Trouble.HELD,
    "container_ended_held": Trouble.HELD,
    "switch_done_memory_held": Trouble.HELD,
    "emergency_incomplete": Trouble.LEFT,
}
"""The trouble by outcome, for warnings; other outcomes have no remedy worth a button."""

DOCKER_LIST: Final = "docker ps --all"
DOCKER_STATUS: Final = "systemctl status docker"
DOCKER_RESTART: Final = "sudo systemctl restart docker"


class TroubleActionKind(StrEnum):
    """How a remedy appears on the page."""

    SUBMIT = "submit"
    """A button of the form whose id is ``target``."""
    PLACE = "place"
    """A link to the part of the dashboard whose id is ``target``."""
    FILL = "fill"
    """A link that fills the form with the query ``target``."""
    COMMAND = "command"
    """The command ``target``, ready to copy."""
    ADVICE = "advice"
    """Only a text."""


@dataclass(frozen=True)
class TroubleAction:
    """One remedy. ``name`` is the same in every language; ``hint`` names its side effects."""

    name: str
    kind: TroubleActionKind
    text: str
    target: str = ""
    hint: str = ""


@dataclass(frozen=True)
class TroubleView:
    """A trouble with its remedies, mildest first."""

    name: str
    ways: tuple[TroubleAction, ...]


def operation_trouble(operation: Operation) -> TroubleView | None:
    """Return the trouble that an operation ended with, or ``None``."""
    if operation.is_running:
        return None
    if operation.error is None:
        return _outcome_trouble(operation)
    trouble = TROUBLES.get(operation.error.code)
    if trouble is None:
        return None
    form = LaunchForm(mode=operation.mode or Mode.TRANSFORMERS.value, model=operation.model_id or "")
    if trouble is Trouble.NEIGHBOUR:
        return TroubleView(trouble.value, tuple(_ways_beside(operation, form)))
    ways = _ways(trouble, form, contained=operation.mode != Mode.TRANSFORMERS)
    return TroubleView(trouble.value, (*_fitting(operation, _("Load with settings that fit")), *ways))


def _outcome_trouble(operation: Operation) -> TroubleView | None:
    trouble = None if operation.outcome is None else OUTCOME_TROUBLES.get(operation.outcome.code)
    if trouble is None:
        return None
    ways = _ways_to_leftovers(operation) if trouble is Trouble.LEFT else _ways_to_memory(operation)
    return TroubleView(trouble.value, tuple(ways))


def plan_trouble(relief: Relief, *, lighter: bool) -> TroubleView | None:
    """Return the remedies for a plan without enough memory, in addition to its alternatives; ``None`` if there are
    none.

    Only those that would change the verdict are returned: ``relief`` says what Warden can free, ``lighter`` whether
    another model fits.
    """
    ways = (
        *((_clean(),) if relief.by_clean else ()),
        *((_lighter(),) if lighter else ()),
        *((_emergency(),) if relief.by_emergency else ()),
    )
    return TroubleView(Trouble.MEMORY.value, ways) if ways else None


def _ways(trouble: Trouble, form: LaunchForm, *, contained: bool) -> Iterable[TroubleAction]:
    """Yield the remedies for a trouble; ``contained`` is whether it may concern a container."""
    if trouble is Trouble.MEMORY:
        return (_clean(), _emergency(), _lighter(), *_other_mode(form))
    if trouble is Trouble.LAUNCH:
        return (_cached(), _memory(), *_other_mode(form), _emergency(), _restart())
    return (_emergency(), *(_docker() if contained else (_memory(),)))


def _ways_beside(operation: Operation, form: LaunchForm) -> Iterable[TroubleAction]:
    """Yield a retry after the other process has freed its memory, a configuration that fits, and unloading a model."""
    again = form if operation.request is None else LaunchForm.of(replace(operation.request, unload=()))
    yield TroubleAction(
        "again", TroubleActionKind.FILL, _("Try again"), again.query, _("when the other process frees the memory")
    )
    yield from _fitting(operation, _("Load what fits next to it")) or (_lighter(),)
    held = "vllm" if operation.mode == Mode.VLLM else "transformers"
    yield TroubleAction("unload", TroubleActionKind.PLACE, _("Unload a model you don’t need"), held)
    yield _memory()


def _fitting(operation: Operation, text: str) -> tuple[TroubleAction, ...]:
    """Return a configuration that the available memory would have held."""
    report = operation.post_mortem
    fit = None if report is None else fit_link(report)
    return () if fit is None else (TroubleAction("smaller", TroubleActionKind.FILL, text, fit.query, fit.options),)


def _ways_to_memory(operation: Operation) -> Iterable[TroubleAction]:
    if operation.kind is OperationKind.SWITCH:
        return (_memory(), _clean())  # an emergency stop would end the model that has just been loaded
    contained = operation.kind is OperationKind.STOP_CONTAINER or operation.mode == Mode.VLLM
    return (_memory(), _clean(), _emergency(), *((_docker_list(),) if contained else ()))


def _ways_to_leftovers(operation: Operation) -> Iterable[TroubleAction]:
    """Yield the remedies for leftovers, with Docker's commands only if the result names a remaining container."""
    contained = any(not one.ok and one.message.params.get("mode") == Mode.VLLM for one in operation.findings)
    return (_memory(), _clean(), _emergency(), *(_docker() if contained else ()))


def _clean() -> TroubleAction:
    return TroubleAction("clean", TroubleActionKind.SUBMIT, "🧹 " + _("Clean memory"), "clean-form")


def _emergency() -> TroubleAction:
    hint = _("shows first what it would stop")
    return TroubleAction("emergency", TroubleActionKind.SUBMIT, "🚨 " + _("Emergency clean-up"), "emergency-form", hint)


def _lighter() -> TroubleAction:
    return TroubleAction("lighter", TroubleActionKind.PLACE, _("Choose a smaller model"), "models")


def _other_mode(form: LaunchForm) -> tuple[TroubleAction, ...]:
    """Return the same model in Transformers mode, which takes no more than the model needs."""
    if form.mode != Mode.VLLM or not form.model:
        return ()
    filled = replace(form, mode=Mode.TRANSFORMERS.value)
    return (
        TroubleAction("transformers", TroubleActionKind.FILL, _("The same model in Transformers mode"), filled.query),
    )


def _cached() -> TroubleAction:
    return TroubleAction(
        "cached",
        TroubleActionKind.PLACE,
        _("Find the model in the cache"),
        "models",
        _("problems with the files are shown there, too"),
    )


def _memory() -> TroubleAction:
    return TroubleAction("memory", TroubleActionKind.PLACE, _("See who holds the memory"), "memory")


def _restart() -> TroubleAction:
    hint = _("loaded models stay")
    return TroubleAction("restart", TroubleActionKind.ADVICE, _("Restart Warden"), hint=hint)


def _docker_list() -> TroubleAction:
    return TroubleAction("docker-list", TroubleActionKind.COMMAND, _("All containers and their states"), DOCKER_LIST)


def _docker() -> tuple[TroubleAction, ...]:
    return (
        _docker_list(),
        TroubleAction(
            "docker-status", TroubleActionKind.COMMAND, _("Check that the Docker service is running"), DOCKER_STATUS
        ),
        TroubleAction(
            "docker-restart",
            TroubleActionKind.COMMAND,
            _("Restart the Docker service"),
            DOCKER_RESTART,
            _("stops every container on the server, including other people’s"),
        ),
    )
