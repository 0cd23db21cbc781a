"""The recorded JSON contract: what every route of ``/api/v1`` answered, in many states of the server.

``python -m tests.web.contract`` records it again into ``tests/data/contract``; do that only when a change of the
contract is intended. The clock does not move and everybody has a fixed name, so that an answer is recorded as it is.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from flask.testing import FlaskClient

from tests.e2e.states import STATES
from tests.unit.test_errors import classes
from tests.web.catalogues import compile_catalogues
from tests.web.fakes import (
    FakeController,
    FakeServices,
    FakeTimeline,
    container,
    foreign,
    held_by,
    instance,
    model,
    reading,
    worker,
)
from tests.web.people import Lab, made_lab
from tests.web.reports import report
from tests.web.test_calibration import taught
from tests.web.timelines import at, event
from tests.web.timelines import model as holder
from webapp import create_app
from webapp.auth.accounts import local_name
from webapp.domain.lease import Lease, ReleaseAnswer
from webapp.domain.memory import LedgerKind, without_figures
from webapp.domain.modes import LaunchOptions, Mode, Quantization
from webapp.domain.operation import (
    Evicted,
    Finding,
    Grace,
    HeldBy,
    Operation,
    OperationKind,
    OperationState,
    Receipt,
    Step,
    StepName,
    StepState,
)
from webapp.domain.people import Role
from webapp.domain.plan import SwitchRequest
from webapp.domain.timeline import Point, Who
from webapp.domain.units import gib
from webapp.errors import Busy, NotStored
from webapp.message import Message
from webapp.settings import load_settings

FOLDER: Final = Path(__file__).parents[1] / "data" / "contract"
NOW: Final = 1_800_000_000.0
ACTOR: Final = "ivan"
PROSE: Final = frozenset({"title", "detail", "text"})
"""Fields of an answer that may be reworded: programs use the ``code`` next to them."""
UNRECORDED: Final = frozenset({"version"})
"""Fields that change with every release."""
RANDOM_ID: Final = re.compile(r'"[0-9a-f]{16}"')
"""The id of a person, recorded as ``ID``."""
EMPTY: Final[Mapping[str, str]] = {}
KEPT_HEADERS: Final = ("Content-Type", "Location", "WWW-Authenticate", "Allow")
MODEL: Final = "Qwen/Qwen3-1.7B"
BODY: Final = {"mode": "transformers", "model": MODEL}
FULL_BODY: Final = {
    **BODY,
    "options": {"dtype": "float16", "quantization": "int8", "max_tokens": 512, "batch_size": 2},
    "devices": ["gpu-0"],
    "keep_others": True,
    "restore_on_failure": False,
    "interrupt_busy": True,
    "unload": ["i1"],
    "load_anyway": False,
    "lease_until": "2027-01-16T08:00:00Z",
    "reason": "night run",
    "idle_unload_minutes": 45.0,
    "override_reason": "the paper is due",
}
LARGE: Final = {**BODY, "model": "lab/large"}


@dataclass(frozen=True)
class Call:
    """One request, and what is changed in the controller before it."""

    method: str
    path: str
    body: object = None
    """Sent as JSON; bytes are sent as they are."""
    headers: Mapping[str, str] | None = None
    changes: Mapping[str, object] | None = None

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"


def get(path: str, **more: Any) -> Call:
    return Call("GET", f"/api/v1/{path}", **more)


def post(path: str, body: object = None, **more: Any) -> Call:
    return Call("POST", f"/api/v1/{path}", body, **more)


@dataclass(frozen=True)
class Scenario:
    """A server in some state, and what it is asked, in order."""

    controller: Callable[[], FakeController]
    calls: tuple[Call, ...]
    timeline: Callable[[], FakeTimeline] = FakeTimeline
    as_role: Role | None = None
    """People sign in, and the calls carry this one's token."""
    people: bool = False
    """People sign in; without ``as_role`` the calls carry no token."""


# The states of a server


def _asked() -> Lease:
    return Lease(until=NOW + 7200, reason="eval", idle_minutes=90, idle_set_at=NOW - 900).asked_by("olga", "paper", NOW)


def _busy_server() -> FakeController:
    """Everything at once: two GPUs, instances of each kind, a foreign container, an operation under way."""
    first = instance(last_used_at=NOW - 30.5, in_flight=2, progress=0.5, pid=4000, lease=_asked())
    other = container(pids=(9001, 9002))
    second = instance(
        "i2",
        "lab/other",
        mode=Mode.VLLM,
        owner=ACTOR,
        devices=("gpu-0", "gpu-1"),
        options=LaunchOptions(quantization=Quantization.INT8, batch_size=4),
        predicted_bytes={"gpu-0": gib(2), "gpu-1": gib(2)},
        resting_bytes={"gpu-0": gib(1), "gpu-1": gib(1)},
        measured_bytes={"gpu-0": gib(1.5)},
        adopted=True,
        problem=Message("worker_silent", {"instance": "i2", "seconds": 3.0}),
        explained_by="op-memory",
        lease=Lease().asked_by("olga", "", NOW - 60).answered(ReleaseAnswer.KEEP, NOW - 30, ACTOR, "no"),
    )
    held = (worker("i1", gib(3.8)), foreign("alice", "python train.py", gib(2.8)), held_by(other, None))
    unreadable = without_figures(reading("gpu-1"), Message("device_lost", {"device": "gpu-1", "detail": "lost"}))
    return FakeController(
        readings=(reading(held=held), unreadable),
        sample_problem=Message("driver_gone", {"detail": "GPU is lost"}),
        instances=(first, second),
        models=(
            model(),
            model("lab/bad", problem=Message("model_no_tokenizer"), parameters=None, quantization="awq", is_demo=True),
            model("lab/large", weights_bytes=gib(90)),
        ),
        models_problem=Message("cache_unreadable", {"path": "/cache", "detail": "Permission denied"}),
        store_problem=Message("store_unavailable", {"reason": "disk is full", "trouble": "store_full", "file": "x.db"}),
        running=(_switching(),),
        recent=(_ended(), _out_of_memory(), _tested()),
        claims={"gpu-0": "op-now"},
        containers=(other, container(2, "bob-vllm", owner=None, model=None, ports=(), pids=(), of_warden="abcd")),
    )


def _switching() -> Operation:
    steps = (
        Step(StepName.PLAN, StepState.DONE, NOW - 20, NOW - 19.5),
        Step(StepName.GRACE, StepState.RUNNING, NOW - 19.5, progress=0.25),
        Step(StepName.LAUNCH),
    )
    request = SwitchRequest(
        Mode.TRANSFORMERS,
        "lab/large",
        LaunchOptions(max_tokens=512),
        ("gpu-0",),
        keep_others=True,
        unload=("i1",),
        lease_until=NOW + 3600,
        reason="night",
        idle_minutes=5.0,
        override_reason="due",
    )
    return Operation(
        "op-now", OperationKind.SWITCH, "maria", OperationState.RUNNING, NOW - 20, steps, mode="transformers",
        model_id="lab/large", devices=("gpu-0",), request=request, cancel_requested_by="olga",
        grace=Grace(NOW + 5, ("i2",), (ACTOR,)),
    )  # fmt: skip


def _ended() -> Operation:
    """A clean with a receipt for each of two devices, findings, and a model that is still to come back."""
    steps = (Step(StepName.UNLOAD, StepState.DONE, NOW - 99, NOW - 90.25, Message("stopped", {"models": "x"})),)
    held = (HeldBy(7, "alice", "python", gib(1), "D"), HeldBy(8, None, None, None))
    receipts = (
        Receipt("gpu-0", gib(2), gib(1), gib(1), 1.0, settled=False, still_held_by=held, others_bytes=-5),
        Receipt("gpu-1", gib(2), gib(2), None, 2.5, settled=True, instance_id="i9", model_id="lab/other"),
    )
    gone = Evicted("i9", "lab/other", Mode.VLLM, "b" * 40, LaunchOptions(), ("gpu-1",), ACTOR, Lease(until=NOW + 60))
    return Operation(
        "op-old", OperationKind.UNLOAD, ACTOR, OperationState.WARNING, NOW - 100, steps, ended_at=NOW - 90,
        receipts=receipts, evicted=("lab/other",), to_restore=(gone,), instance_id="i9",
        findings=(Finding(Message("stopped", {"models": "y"})), Finding(Message("driver_gone", {"detail": "z"}), ok=False)),
        outcome=Message("unload_held", {"model": "m", "freed_bytes": gib(3), "expected_bytes": gib(4), "seconds": 2.5}),
    )  # fmt: skip


def _out_of_memory() -> Operation:
    error = Message("out_of_memory", {"model": MODEL, "detail": "CUDA out of memory", "log": "line 1\nline 2"})
    return Operation(
        "op-memory", OperationKind.SWITCH, "maria", OperationState.FAILED, NOW - 300, ended_at=NOW - 290,
        mode="transformers", model_id=MODEL, error=error, post_mortem=report(), outcome=Message("nothing_changed"),
    )  # fmt: skip


def _tested() -> Operation:
    (tested, *_) = STATES["tested"]().recent
    return tested


def _empty() -> FakeController:
    return FakeController(
        instances=(instance("i1", owner=ACTOR, in_flight=3),),
        containers=(container(),),
        models=(model(), model("lab/large", weights_bytes=gib(90))),
    )


def _learned() -> FakeController:
    return FakeController(calibration=taught(3.7, 3.75, 3.85), instances=(instance("i1", owner="maria"),))


def _crowded() -> FakeController:
    """Another person's idle model holds what a launch needs; one's own is busy and leased by nobody."""
    held = (worker("i1", gib(16)), worker("i2", gib(5), pid=4001))
    return FakeController(
        readings=(reading(held=held),),
        instances=(
            instance("i1", "lab/theirs", owner="maria", measured_bytes={"gpu-0": gib(16)}),
            instance("i2", "lab/leased", owner="olga", lease=Lease(until=NOW + 600, reason="eval")),
        ),
        models=(model(), model("lab/large", weights_bytes=gib(12))),
    )


def _recorded() -> FakeTimeline:
    points = (
        at(NOW - 120, {holder(MODEL): 3.8, Who(LedgerKind.FOREIGN, user="alice"): 2.5}),
        Point(NOW - 60, None),
        at(NOW - 1, {Who(LedgerKind.UNATTRIBUTED): 0.3}),
    )
    return FakeTimeline({"gpu-0": points}, {"gpu-0": points[:1]}, (event(1, NOW - 90, OperationKind.SWITCH),), NOW)


# What they are asked


READINGS: Final = tuple(
    get(path)
    for path in (
        "status",
        "models",
        "recommendation",
        "operations",
        "tickets",
        "containers",
    )
)
BAD_BODIES: Final[tuple[object, ...]] = (
    {"mode": "tgi", "model": MODEL},
    {"mode": "transformers"},
    {**BODY, "model": 7},
    {**BODY, "tokens": 5},
    {**BODY, "options": {"max_tokens": 0}},
    {**BODY, "options": {"max_tokens": "512"}},
    {**BODY, "options": {"dtype": "int3"}},
    {**BODY, "devices": []},
    {**BODY, "unload": ["x"] * 101},
    {**BODY, "lease_until": "2027-01-01T00:00:00"},
    {**BODY, "idle_unload_minutes": -1},
    [],
    b"{",
    b"",
)
PROBLEMS: Final = (
    get("nothing"),
    Call("GET", "/api/nothing"),
    get("switch"),
    post("status"),
    post("plan", b"<x/>", headers={"Content-Type": "application/xml"}),
    post("plan", b"a=1", headers={"Content-Type": "application/x-www-form-urlencoded"}),
    post("clean", headers={"Origin": "http://evil.example"}),
    get("status", headers={"Host": "evil.example"}),
    get("operations?limit=0"),
    get("operations?limit=x"),
    get("operations?before=gone"),
    get("operations/gone"),
    get("operations?kind=nothing"),
    get("tickets/gone"),
    get("timeline?device=gpu-9"),
    get("timeline?span=year"),
    get("recommendation?device=gpu-9"),
    get("recommendation?model=lab/gone"),
    *(post("plan", body, headers={"Content-Type": "application/json"}) for body in BAD_BODIES),
    post("switch", {**BODY, "model": "lab/gone"}),
    post("switch", LARGE),
    post("switch", {**BODY, "unload": ["gone"], "keep_others": True}),
    post("switch", {**BODY, "unload": ["i1", "i1"], "keep_others": True}),
    post("instances/gone/unload"),
    post("instances/i1/unload", {"reason": "x"}),
    post("instances/i1/lease", {"until": "2027-01-16T08:00:00Z", "extend_s": 60}),
    post("instances/i1/lease", {"extend_s": 0}),
    post("instances/i1/release-request/answer", {"answer": "maybe"}),
    post("instances/i1/ask", {"prompt": ""}),
    post("instances/gone/ask", {"prompt": "hello"}),
    post("containers/gone/stop", {"name": "x"}),
    post(f"containers/{container().id}/stop", {"name": "x"}),
    post(f"containers/{container().id}/stop", {}),
    post("operations/gone/cancel"),
    post("operations/gone/restore"),
    post("tickets", {**LARGE, "starts_by_itself": 1}),
    post("tickets", LARGE),
    post("tickets/gone/cancel"),
    post("tickets/gone/resume"),
    post("tickets/gone/start"),
)
ACTIONS: Final = (
    post("plan", BODY),
    post("plan", FULL_BODY),
    post("switch", BODY),
    post("switch", {**FULL_BODY, "devices": None}),
    post("instances/i1/unload"),
    post("instances/i1/unload", {"override_reason": None}),
    post("instances/i1/lease", {"until": "2027-01-16T08:00:00Z", "reason": "eval", "idle_unload_minutes": None}),
    post("instances/i1/lease", {"extend_s": 60.5}),
    post("instances/i1/release-request", {"why": "paper"}),
    post("instances/i1/release-request"),
    post("instances/i1/release-request/answer", {"answer": "keep", "word": "no"}),
    post("instances/i1/keep"),
    post("instances/i1/ask", {"prompt": "Hello", "max_tokens": 4}),
    post(f"containers/{container().id}/stop", {"name": container().name}),
    post("clean"),
    post("clean", {}),
    post("emergency"),
    post("demo"),
    post("models/end-pause", {"model": BODY["model"]}),
    post("models/end-pause", {"model": "lab/gone"}),
    post("selftest"),
    post("operations/op-now/cancel", changes={"running": (_switching(),)}),
    post("operations/op-now/cancel", {"rollback": True}),
    post("operations/op-old/restore", changes={"recent": (_ended(),)}),
    post("operations/op-now/restore"),
    post("tickets", BODY),
    post("tickets", {**FULL_BODY, "override_reason": None, "starts_by_itself": False}),
    post("tickets", FULL_BODY),
    post("tickets", BODY),
    get("tickets"),
    get("tickets/t1"),
    post("tickets/t1/resume"),
    post("tickets/t1/start"),
    post("tickets/t1/start", changes={"instances": ()}),
    post("tickets/t1/cancel"),
    Call("DELETE", "/api/v1/tickets/t2"),
    post("emergency", changes={"store_problem": Message("store_unavailable", {"reason": "x"})}),
    post("switch", BODY, changes={"refusal": NotStored(reason="store_slow")}),
)
REFUSED: Final = Busy(operation="op1", kind="switch", actor=ACTOR, since=NOW - 5, step="launch", model="m")


def _state_scenarios() -> Iterator[tuple[str, Scenario]]:
    """The states that the browser tests draw. Many of one kind are left out: their answers say the same many times."""
    for name in STATES.keys() - {"two-hundred-models", "eight-gpus"}:
        yield f"state-{name}", Scenario(STATES[name], (*READINGS, post("plan", BODY)))


SCENARIOS: Final[Mapping[str, Scenario]] = {
    **dict(sorted(_state_scenarios())),
    "busy-server": Scenario(
        _busy_server,
        (
            *READINGS,
            *(get(f"operations/{each}") for each in ("op-now", "op-old", "op-memory", "op-test")),
            get("operations?kind=switch&actor=maria&limit=1"),
            get("operations?before=op-now&state=failed"),
            get("recommendation?device=gpu-0"),
            get("recommendation?model=lab/large"),
            post("plan", BODY),
            post("plan", {**LARGE, "devices": ["gpu-0"], "load_anyway": True}),
        ),
    ),
    "learned": Scenario(_learned, (post("plan", BODY), post("plan", {**BODY, "options": {"max_tokens": 512}}))),
    "crowded": Scenario(
        _crowded,
        (
            post("plan", LARGE),
            post("switch", LARGE),
            post("switch", {**LARGE, "unload": ["i1"]}),
            post("plan", {**LARGE, "load_anyway": True, "keep_others": True}),
            post("plan", {**LARGE, "keep_others": True}),
            post("instances/i2/unload"),
            get("recommendation?model=lab/large"),
        ),
    ),
    "timeline": Scenario(
        FakeController, (get("timeline"), get("timeline?device=gpu-0&span=week"), get("timeline?span=hour")), _recorded
    ),
    "actions": Scenario(_empty, ACTIONS),
    "queue": Scenario(
        _empty,
        (
            post("queue", BODY),
            post("queue", {**FULL_BODY, "override_reason": None}),
            get("queue"),
            get("queue/t1"),
            get("queue/gone"),
            post("queue/t1/resume"),
            post("queue/t1/start", changes={"instances": ()}),
            post("queue/t1/cancel"),
            Call("DELETE", "/api/v1/queue/t2"),
        ),
    ),
    "problems": Scenario(_empty, PROBLEMS),
    "refused": Scenario(
        _empty,
        (
            post("clean", changes={"refusal": REFUSED}),
            post("plan", BODY, changes={"defect": RuntimeError("secret inside")}),
        ),
    ),
    "audit": Scenario(
        _empty,
        (
            post("clean"),
            post("switch", {**FULL_BODY, "keep_others": False, "unload": []}),
            post("instances/i1/lease", {"extend_s": 60}),
            post("instances/gone/unload", {"override_reason": "fire"}),
            post("operations/op-now/cancel", {"rollback": True}, changes={"running": (_switching(),)}),
            get("audit"),
            get("audit?limit=2&result=refused"),
            get("audit?group=nothing"),
            get("audit?from=2027-13-01"),
        ),
        as_role=Role.ADMINISTRATOR,
    ),
    "nobody": Scenario(_empty, (*READINGS, post("clean"), post("plan", BODY), get("audit")), people=True),
    "viewer": Scenario(_empty, (*READINGS, post("clean"), post("plan", BODY), get("audit")), as_role=Role.VIEWER),
    "operator": Scenario(
        _empty,
        (
            post("emergency"),
            post("instances/i1/unload", {"override_reason": "fire"}),
            post("operations/op-now/cancel", changes={"running": (_switching(),)}),
        ),
        as_role=Role.OPERATOR,
    ),
}


# Recording and comparing


@contextmanager
def standing_still() -> Iterator[None]:
    """Stop the clock at ``NOW``, in UTC, and name the person who runs this."""
    clock, zone, user = time.time, os.environ.get("TZ"), getpass.getuser
    local_name.cache_clear()
    os.environ["TZ"] = "UTC"
    time.tzset()
    time.time, getpass.getuser = (lambda: NOW), (lambda: ACTOR)
    try:
        yield
    finally:
        time.time, getpass.getuser = clock, user
        os.environ.pop("TZ") if zone is None else os.environ.update(TZ=zone)
        time.tzset()
        local_name.cache_clear()


@contextmanager
def _served(scenario: Scenario, folder: Path) -> Iterator[tuple[FakeController, FlaskClient]]:
    """Give the state's controller, and a client that sends what every call carries."""
    headers: dict[str, str] = {}
    if scenario.people or scenario.as_role is not None:
        with made_lab(folder) as lab:
            if scenario.as_role is not None:
                headers["HTTP_AUTHORIZATION"] = lab.token(scenario.as_role)["Authorization"]
            _like(lab, scenario.controller())
            yield lab.controller, _client(lab.app, headers)
        return
    settings, controller = (
        load_settings(state_dir=folder / "state", hf_cache=folder / "cache", threads=4),
        scenario.controller(),
    )
    app = create_app(settings, FakeServices(settings, controller, scenario.timeline()))
    yield controller, _client(app, headers)


def _client(app: Any, headers: Mapping[str, str]) -> FlaskClient:
    client: FlaskClient = app.test_client()
    client.environ_base.update(headers)
    return client


def _like(lab: Lab, controller: FakeController) -> None:
    lab.controller.changed(**{name: value for name, value in vars(controller).items() if not name.startswith("_")})


def answers(name: str, environ: Mapping[str, str] = EMPTY) -> list[dict[str, Any]]:
    """Return what the program answers now to the calls of a scenario, which ``environ`` goes with."""
    scenario = SCENARIOS[name]
    compile_catalogues()
    with (
        tempfile.TemporaryDirectory() as folder,
        standing_still(),
        _served(scenario, Path(folder)) as (controller, client),
    ):
        client.environ_base.update(environ)
        return [_answered(call, controller, client) for call in scenario.calls]


def _answered(call: Call, controller: FakeController, client: FlaskClient) -> dict[str, Any]:
    controller.changed(**(call.changes or {}))
    sent: dict[str, Any] = {"data": call.body} if isinstance(call.body, bytes) else {}
    if call.body is not None and not sent:
        sent = {"data": json.dumps(call.body), "content_type": "application/json"}
    answer = client.open(call.path, method=call.method, headers=call.headers, **sent)
    body = call.body.decode() if isinstance(call.body, bytes) else call.body
    return {
        "call": call.name,
        "body": body,
        "status": answer.status_code,
        "headers": {name: _in_order(answer.headers[name]) for name in KEPT_HEADERS if name in answer.headers},
        "answer": json.loads(RANDOM_ID.sub('"ID"', answer.get_data(as_text=True)), object_hook=_recordable),
    }


def _recordable(document: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name not in UNRECORDED}


def _in_order(header: str) -> str:
    """A header as it is, but a list, such as that of the methods, in order."""
    return ", ".join(sorted(header.split(", ")))


def errors() -> dict[str, dict[str, Any]]:
    """Return the status and the code of every error in the tree, by its class."""
    found = {}
    with tempfile.TemporaryDirectory() as folder, standing_still():
        scenario = Scenario(FakeController, ())
        with _served(scenario, Path(folder)) as (controller, client):
            for each in sorted(classes(), key=lambda each: each.__name__):
                controller.changed(refusal=each())
                answer = client.post("/api/v1/clean")
                document = answer.get_json()
                found[each.__name__] = {"status": answer.status_code, "code": document["code"]}
    return found


def without_prose(value: object) -> object:
    """Return ``value`` with texts that may change replaced by their type; 5.0 is 5, as in JSON."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {name: type(each).__name__ if name in PROSE else without_prose(each) for name, each in value.items()}
    return [without_prose(each) for each in value] if isinstance(value, list) else value


def without_additions(value: object, kept: object) -> object:
    """Return ``value`` without the fields that ``kept`` has not: the contract may grow."""
    if isinstance(value, Mapping) and isinstance(kept, Mapping):
        return {name: without_additions(each, kept[name]) for name, each in value.items() if name in kept}
    if isinstance(value, list) and isinstance(kept, list) and len(value) == len(kept):
        return [without_additions(each, before) for each, before in zip(value, kept, strict=True)]
    return value


def path_of(name: str) -> Path:
    """Return where a scenario is recorded."""
    return FOLDER / f"{name}.json"


def recorded(name: str) -> Any:
    """Return what was recorded."""
    return json.loads(path_of(name).read_text(encoding="utf-8"))


def main(names: Iterable[str] = (*SCENARIOS, "errors")) -> None:
    """Record every scenario."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in names:
        document = errors() if name == "errors" else answers(name)
        path_of(name).write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
