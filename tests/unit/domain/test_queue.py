"""Whose turn it is: the order holds, nobody is starved, and a launch says what it waits for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.control.fakes import FakeMachine, FakeMonitor, loaded, model
from webapp.domain.instance import Instance
from webapp.domain.lease import Lease
from webapp.domain.modes import LaunchOptions, Mode
from webapp.domain.operation import Operation, OperationKind, OperationState
from webapp.domain.plan import SwitchRequest
from webapp.domain.planning.admission import AdmissionPolicy
from webapp.domain.planning.state import Cooldown, PlanningState
from webapp.domain.queue import (
    COMES_BACK,
    NO_FAULT,
    OPEN,
    TRANSITIONS,
    QueuedLaunch,
    QueueEntry,
    QueueState,
    QueueVerdict,
    came_back,
    check_admissible,
    check_place,
    counts_as_try,
    in_order,
    judge,
    line_up,
    may_cancel,
    next_to_start,
)
from webapp.domain.units import gib
from webapp.errors import AlreadyWaiting, CannotWait, InvalidRequest, ModeUnavailable, QueueFull
from webapp.message import Message

SMALL, LARGE, HUGE = (
    model("lab/small"),
    model("lab/large", weights_bytes=gib(15)),
    model("lab/huge", weights_bytes=gib(40)),
)
DEVICES = ("gpu-0", "gpu-1", "gpu-2")
FULL = FakeMachine(held={("gpu-0", "old"): gib(22)})
"""There is room only where the model that runs there goes."""


def request(model_id: str = SMALL.id, **changes: object) -> SwitchRequest:
    return SwitchRequest(Mode.TRANSFORMERS, model_id, LaunchOptions(), **changes)  # type: ignore[arg-type]


def launch(
    number: int = 1, model_id: str = SMALL.id, asked: SwitchRequest | None = None, **changes: object
) -> QueuedLaunch:
    made = QueuedLaunch(f"t{number}", number, asked or request(model_id), f"person {number}", 1000.0)
    return replace(made, **changes)  # type: ignore[arg-type]


def planning_state(machine: FakeMachine, *instances: Instance, **changes: object) -> PlanningState:
    made = PlanningState(
        now=2000.0,
        sample=FakeMonitor(machine).latest(),
        sample_is_stale=False,
        instances=instances,
        models={cached.id: cached for cached in (SMALL, LARGE, HUGE)},
        policy=AdmissionPolicy(),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def judged(one: QueuedLaunch, now: PlanningState, *held: str, running: tuple[Operation, ...] = ()) -> QueueVerdict:
    return judge(one, frozenset(held), now, {operation.id: operation for operation in running})


# The table of states


ENDS = {"started", "cancelled", "expired", "failed"}
ALLOWED = {
    "waiting": {"waiting", "ready", "starting"} | ENDS,
    "ready": {"waiting", "ready", "starting"} | ENDS,
    "starting": {"waiting", "starting"} | ENDS - {"expired"},
    "started": {"started"},
    "cancelled": {"cancelled"},
    "expired": {"expired"},
    "failed": {"failed"},
}
"""Written down a second time: a model that somebody else loads satisfies a launch in each state in which it waits."""


@pytest.mark.parametrize("before", list(QueueState))
@pytest.mark.parametrize("after", list(QueueState))
def test_only_the_tables_transitions_are_allowed(before: QueueState, after: QueueState) -> None:
    one = launch(state=before)
    if after.value in ALLOWED[before.value]:
        assert one.to(after).state is after
    else:
        with pytest.raises(ValueError, match="cannot go"):
            one.to(after)


@pytest.mark.parametrize("before", sorted(OPEN))
def test_model_that_is_there_satisfies_a_launch_in_whatever_state_it_waits(before: QueueState) -> None:
    there = loaded(SMALL, "i1", owner="maria")
    found = judged(launch(state=before), planning_state(FakeMachine(), there))
    assert (found.is_over, found.why) == (True, Message("ticket_satisfied", {"model": SMALL.id, "owner": "maria"}))
    assert launch(state=before).ended(QueueState.STARTED, 1.0, found.why).outcome == found.why


def test_open_are_those_that_lead_on() -> None:
    assert set(TRANSITIONS) == set(QueueState)
    assert {QueueState.WAITING, QueueState.READY, QueueState.STARTING} == OPEN


# The line


@dataclass(frozen=True)
class Asked:
    """What a drawn launch needs of each of some devices; ``None`` leaves the choice of one to the judge."""

    needs: int
    devices: frozenset[str] | None


def drawn(free: dict[str, int], asked: dict[str, Asked]) -> object:
    """A judge over plain numbers, which keeps what ``judge`` promises."""

    def judge_drawn(one: QueuedLaunch, held: frozenset[str]) -> QueueVerdict:
        wanted = asked[one.id]
        if wanted.devices is None:
            fitting = [d for d in DEVICES if free[d] >= wanted.needs]
            chosen = next((d for d in fitting if d not in held), next(iter(fitting), None))
            if chosen is None:
                return QueueVerdict(Message("waits_memory"), frozenset(DEVICES))
            return QueueVerdict(None, frozenset({chosen}))
        short = any(free[device] < wanted.needs for device in wanted.devices)
        return QueueVerdict(Message("waits_memory") if short else None, wanted.devices)

    return judge_drawn


CHOICES = st.one_of(st.none(), st.frozensets(st.sampled_from(DEVICES), min_size=1))
ASKED = st.builds(Asked, st.integers(1, 30), CHOICES)
LAUNCHES = st.lists(
    st.tuples(
        ASKED, st.booleans(), st.sampled_from([None, "ivan"]), st.sampled_from([QueueState.WAITING, QueueState.READY])
    ),
    max_size=8,
)
FREE = st.fixed_dictionaries({device: st.integers(0, 30) for device in DEVICES})


def made(rows: list[tuple[Asked, bool, str | None, QueueState]]) -> tuple[list[QueuedLaunch], dict[str, Asked]]:
    launches = [
        launch(number, starts_by_itself=by_itself, paused_by=paused, state=state)
        for number, (_, by_itself, paused, state) in enumerate(rows, 1)
    ]
    return launches, {one.id: row[0] for one, row in zip(launches, rows, strict=True)}


@given(rows=LAUNCHES, free=FREE, order=st.randoms(use_true_random=False))
def test_the_line_is_in_the_order_in_which_people_came(rows, free, order) -> None:  # type: ignore[no-untyped-def]
    launches, asked = made(rows)
    shuffled = list(launches)
    order.shuffle(shuffled)
    line = line_up(shuffled, drawn(free, asked))  # type: ignore[arg-type]
    assert [(one.launch, one.place) for one in line] == [(one, place) for place, one in enumerate(launches, 1)]


@given(rows=LAUNCHES, free=FREE)
def test_nobody_starts_on_a_device_that_an_earlier_one_holds(rows, free) -> None:  # type: ignore[no-untyped-def]
    launches, asked = made(rows)
    judge_drawn = drawn(free, asked)
    one = next_to_start(line_up(launches, judge_drawn))  # type: ignore[arg-type]
    if one is None:
        return
    assert (one.launch.starts_by_itself, one.launch.paused_by, one.launch.state) == (True, None, QueueState.WAITING)
    held = frozenset[str]()
    for earlier in launches[: one.place - 1]:
        if earlier.paused_by is None:
            held |= judge_drawn(earlier, held).devices  # type: ignore[operator]
    assert not held & judge_drawn(one.launch, held).devices  # type: ignore[operator]


@given(rows=LAUNCHES, free=FREE)
def test_first_that_is_not_paused_waits_for_nobody(rows, free) -> None:  # type: ignore[no-untyped-def]
    launches, asked = made(rows)
    line = line_up(launches, drawn(free, asked))  # type: ignore[arg-type]
    first = next((one for one in line if one.launch.paused_by is None), None)
    assert first is None or first.behind is None


@given(first=ASKED, rows=st.lists(ASKED, max_size=7), free=FREE)
def test_the_first_is_not_starved_by_smaller_ones(first: Asked, rows: list[Asked], free: dict[str, int]) -> None:
    """Whoever goes first, what the first launch waits for never shrinks: what comes free there is kept for it."""
    launches, asked = made([(each, True, None, QueueState.WAITING) for each in (first, *rows)])
    begun, started = dict(free), []
    last: dict[str, frozenset[str]] = {}

    def noting(one: QueuedLaunch, held: frozenset[str]) -> QueueVerdict:
        found: QueueVerdict = drawn(free, asked)(one, held)  # type: ignore[operator]
        last[one.id] = found.devices
        return found

    while (one := next_to_start(line_up(launches, noting))) is not None:
        started.append(one.launch.id)
        for device in last[one.launch.id]:
            free = {**free, device: free[device] - asked[one.launch.id].needs}
        launches = [each for each in launches if each.id != one.launch.id]
    if "t1" not in started:
        for device in first.devices or DEVICES:
            assert free[device] == begun[device]


def test_one_that_is_starting_holds_nothing_and_keeps_its_place() -> None:
    line = line_up(
        [launch(1, state=QueueState.STARTING), launch(2)], lambda one, held: QueueVerdict(None, frozenset({"gpu-0"}))
    )
    assert [(one.place, one.fits) for one in line] == [(1, True), (2, True)]
    assert next_to_start(line) == line[1]


def test_one_who_was_told_keeps_what_it_needs() -> None:
    told = launch(1, state=QueueState.READY, starts_by_itself=False)
    line = line_up([told, launch(2)], lambda one, held: QueueVerdict(None, frozenset({"gpu-0"})))
    assert line[1].behind == told
    assert next_to_start(line) is None


def test_what_was_never_judged_fits_nowhere() -> None:
    assert not QueueEntry(launch(), 1, Message("waits_judgement")).fits


# What one waits for


def test_it_says_how_much_memory_lacks_and_holds_every_device_that_could_do() -> None:
    machine = FakeMachine({"gpu-0": gib(24), "gpu-1": gib(24), "gpu-2": gib(8)}, {"gpu-0": gib(20), "gpu-1": gib(21)})
    found = judged(launch(model_id=LARGE.id), planning_state(machine))
    assert found.why is not None
    assert found.why.code == "waits_memory"
    assert isinstance(found.why.params["missing_bytes"], int)
    assert found.devices == {"gpu-0", "gpu-1"}


def test_it_holds_only_the_device_that_it_names() -> None:
    machine = FakeMachine({"gpu-0": gib(24), "gpu-1": gib(24)}, {"gpu-0": gib(23)})
    found = judged(launch(asked=request(devices=("gpu-0",))), planning_state(machine))
    assert (found.why is not None, found.devices) == (True, frozenset({"gpu-0"}))


def test_where_the_choice_is_free_it_goes_where_nobody_waits_before_it() -> None:
    machine = FakeMachine({"gpu-0": gib(24), "gpu-1": gib(20)})
    assert judged(launch(), planning_state(machine)).devices == {"gpu-0"}
    found = judged(launch(), planning_state(machine), "gpu-0")
    assert (found.why, found.devices) == (None, frozenset({"gpu-1"}))
    assert found.request is not None
    assert found.request.devices == ("gpu-1",)


def test_what_goes_for_it_is_touched_too() -> None:
    machine = FakeMachine({"gpu-0": gib(24), "gpu-1": gib(24)})
    both = loaded(LARGE, devices=("gpu-0", "gpu-1"), predicted_bytes={"gpu-0": gib(8), "gpu-1": gib(8)})
    found = judged(launch(asked=request(devices=("gpu-0",)), actor="maria"), planning_state(machine, both))
    assert (found.why, found.devices) == (None, frozenset({"gpu-0", "gpu-1"}))


def test_it_waits_for_another_persons_lease_and_not_for_an_own_one() -> None:
    held = planning_state(FULL, loaded(LARGE, lease=Lease(until=9000.0)))
    found = judged(launch(), held)
    assert found.why is not None
    assert (found.why.code, found.why.params["until"], found.devices) == ("waits_leased", 9000.0, frozenset({"gpu-0"}))
    assert judged(launch(actor="maria"), held).why is None
    check_admissible(request(), held.seen_by("ivan"))


def test_it_waits_for_another_persons_idle_model_unless_that_was_confirmed_when_it_came() -> None:
    there = planning_state(FULL, loaded(LARGE))
    found = judged(launch(), there)
    assert found.why is not None
    assert (found.why.code, found.why.params["models"], found.devices) == (
        "waits_others",
        "lab/large (maria)",
        frozenset({"gpu-0"}),
    )
    assert judged(launch(asked=request(unload=("old",))), there).why is None
    check_admissible(request(), there.seen_by("ivan"))


@pytest.mark.parametrize(
    ("changes", "code"), [({"in_flight": 1}, "waits_in_use"), ({"lease": Lease(until=9000.0)}, "waits_leased")]
)
def test_what_was_confirmed_is_taken_only_while_it_is_idle_and_not_leased(changes: dict[str, Any], code: str) -> None:
    found = judged(launch(asked=request(unload=("old",))), planning_state(FULL, loaded(LARGE, **changes)))
    assert found.why is not None
    assert (found.why.code, found.devices) == (code, frozenset({"gpu-0"}))


def test_its_own_lease_that_ended_while_it_waited_is_asked_for_no_more() -> None:
    found = judged(launch(asked=request(lease_until=1999.0)), planning_state(FakeMachine()))
    assert (found.why, found.request and found.request.lease_until) == (None, None)


def test_two_clicks_with_a_lease_are_one_launch() -> None:
    with pytest.raises(AlreadyWaiting):
        check_place([launch(asked=request(lease_until=3000.0))], request(lease_until=3001.0), "person 1", 8)


def test_it_waits_for_a_model_in_use_and_for_an_operation() -> None:
    machine, busy = FULL, loaded(LARGE, in_flight=2)
    in_use = judged(launch(), planning_state(machine, busy)).why
    assert in_use is not None
    assert (in_use.code, in_use.params["owner"]) == ("waits_in_use", "maria")
    operation = Operation("op", OperationKind.UNLOAD, "ivan", OperationState.RUNNING, 1500.0, model_id="lab/x")
    claimed = judged(launch(), planning_state(machine, busy, claims={"gpu-0": "op"}), running=(operation,))
    assert claimed.why == Message(
        "waits_operation",
        {"device": "gpu-0", "kind": "unload", "model": "lab/x", "actor": "ivan", "since": 1500.0},
    )
    assert claimed.devices == {"gpu-0"}


def test_what_is_no_matter_of_room_holds_nobody_up() -> None:
    machine = FakeMachine()
    cooling = judged(launch(), planning_state(machine, cooldowns={SMALL.id: Cooldown(1, 10.0)}))
    away = judged(
        launch(), planning_state(machine, mode_problems={Mode.TRANSFORMERS: Message("worker_command_missing")})
    )
    gone = judged(launch(model_id="lab/gone"), planning_state(machine))
    for found, code in ((cooling, "waits_cooldown"), (away, "mode_unavailable"), (gone, "unknown_model")):
        assert found.why is not None
        assert (found.why.code, found.devices, found.is_over) == (code, frozenset(), False)


def test_model_that_was_to_go_and_has_gone_is_asked_for_no_more() -> None:
    asked = request(keep_others=True, unload=("gone",))
    found = judged(launch(asked=asked), planning_state(FakeMachine()))
    assert found.why is None
    assert found.request is not None
    assert found.request.unload == ()


def test_after_a_start_that_found_no_room_it_pauses_and_keeps_its_place() -> None:
    found = judged(launch(tries=1, not_before=5.0), planning_state(FakeMachine(), monotonic=2.0))
    assert (found.why is not None and found.why.code, found.devices) == ("waits_pause", frozenset({"gpu-0"}))
    assert judged(launch(tries=1, not_before=1.0), planning_state(FakeMachine(), monotonic=2.0)).why is None


# What may wait, who may take it back


@given(
    clicks=st.lists(
        st.tuples(st.sampled_from(["anna", "boris"]), st.sampled_from(["a", "b", "c"]), st.booleans()), max_size=30
    ),
    limit=st.integers(1, 4),
)
def test_there_are_never_more_than_may_wait_and_nobody_waits_for_the_same_twice(
    clicks: list[tuple[str, str, bool]], limit: int
) -> None:
    launches: list[QueuedLaunch] = []
    for number, (actor, model_id, first_goes) in enumerate(clicks, 1):
        if first_goes and launches:
            launches[0] = replace(launches[0], state=QueueState.CANCELLED)
            launches = launches[1:] + launches[:1]
        try:
            check_place(launches, request(model_id), actor, limit)
        except (QueueFull, AlreadyWaiting):
            continue
        launches.append(launch(number, asked=request(model_id), actor=actor))
    waiting = [(one.actor, one.request) for one in in_order(launches)]
    assert len(waiting) <= limit
    assert len(set(map(str, waiting))) == len(waiting)


def test_what_would_not_fit_an_empty_device_may_not_wait() -> None:
    machine = FakeMachine(foreign={"gpu-0": gib(23)})
    check_admissible(request(LARGE.id), planning_state(machine))
    for asked in (request(HUGE.id), request(HUGE.id, devices=("gpu-0",))):
        with pytest.raises(CannotWait) as caught:
            check_admissible(asked, planning_state(machine))
        assert caught.value.params["most_bytes"] == gib(24)
    with pytest.raises(CannotWait):
        check_admissible(request(LARGE.id), planning_state(machine, policy=AdmissionPolicy(memory_limit_bytes=gib(10))))


def test_what_is_no_matter_of_room_may_not_wait() -> None:
    away = {Mode.TRANSFORMERS: Message("worker_command_missing")}
    with pytest.raises(ModeUnavailable):
        check_admissible(request(), planning_state(FakeMachine(), mode_problems=away))
    with pytest.raises(InvalidRequest):
        check_admissible(request(load_anyway=True), planning_state(FakeMachine()))
    with pytest.raises(InvalidRequest):
        check_admissible(request(override_reason="a demo"), planning_state(FakeMachine()))


@pytest.mark.parametrize(
    ("actor", "is_administrator", "allowed"),
    [("person 1", False, True), ("boris", False, False), ("boris", True, True), ("person 1", True, True)],
)
def test_its_own_person_or_an_administrator_may_take_it_back(actor: str, is_administrator: bool, allowed: bool) -> None:
    assert may_cancel(launch(), actor, is_administrator) is allowed


@pytest.mark.parametrize("code", sorted({*COMES_BACK, *NO_FAULT, "worker_died", "out_of_memory", "cancelled"}))
def test_only_a_want_of_room_or_a_cut_from_outside_leaves_it_waiting(code: str) -> None:
    failed = Operation("op", OperationKind.SWITCH, "ivan", OperationState.FAILED, 1.0, error=Message(code))
    assert came_back(failed) is (code in COMES_BACK | NO_FAULT)
    assert counts_as_try(failed) is (code in COMES_BACK)


@pytest.mark.parametrize("code", ["disk_full", "disk_read_only", "too_many_files", "too_many_processes"])
def test_a_shortage_of_the_machine_is_no_fault_of_the_model(code: str) -> None:
    failed = Operation("op", OperationKind.SWITCH, "ivan", OperationState.FAILED, 1.0, error=Message(code))
    assert (came_back(failed), counts_as_try(failed)) == (True, True)


def test_start_that_was_cut_off_by_the_end_of_warden_counts_as_none() -> None:
    cut = Operation("op", OperationKind.SWITCH, "ivan", OperationState.ABANDONED, 1.0)
    assert (came_back(cut), counts_as_try(cut)) == (True, False)
