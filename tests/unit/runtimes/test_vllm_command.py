"""What a vLLM container is created with, held against vLLM's own rule for its start."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.control.fakes import FakeMachine, FakeMonitor, model
from webapp.control.context import launch_devices
from webapp.domain.footprint import (
    UTILIZATION_SCALE,
    Conditions,
    Footprint,
    Part,
    PartName,
    budget_bytes,
    estimate,
    share_of,
)
from webapp.domain.memory import DeviceKind, Reading, Sample
from webapp.domain.modes import Dtype, LaunchOptions, Mode
from webapp.domain.plan import SwitchRequest, Verdict
from webapp.domain.planning.admission import AdmissionPolicy
from webapp.domain.planning.planner import plan_switch
from webapp.domain.planning.state import PlanningState
from webapp.domain.units import GIB, MIB, gib
from webapp.errors import LaunchFailed, StartMemoryShort
from webapp.runtimes.base import LaunchDevice, LaunchSpec
from webapp.runtimes.vllm.command import (
    CACHE_TARGET,
    ContainerPlan,
    container_plan,
    gpu_memory_utilization,
    image_family,
    kv_cache_argument_bytes,
    port_range,
    record_of,
)
from webapp.settings import Settings, load_settings

CACHE = Path("/cache/hub")
SNAPSHOT = CACHE / "models--lab--one" / "snapshots" / "abc"


def settings(**changes: object) -> Settings:
    return load_settings(state_dir=Path("/state"), hf_cache=CACHE, **changes)


def gpu(index: int = 0, *, total: int = 24 * GIB, reserved: int = 0, free: int = 20 * GIB) -> LaunchDevice:
    return LaunchDevice(f"gpu-{index}", DeviceKind.GPU, index, f"GPU-{index}", total, reserved, free)


def footprint(device_id: str, budget: int = 8 * GIB, context: int = gib(0.6)) -> Footprint:
    parts = (Part(PartName.WEIGHTS, budget - GIB), Part(PartName.KV_CACHE, GIB), Part(PartName.CONTEXT, context))
    return Footprint(device_id, parts)


def spec(*devices: LaunchDevice, options: LaunchOptions | None = None, **changes: Any) -> LaunchSpec:
    fields: dict[str, Any] = {
        "instance_id": "1a2b3c4d5e6f",
        "operation_id": "op",
        "model_id": "lab/one",
        "revision": "abc",
        "snapshot": SNAPSHOT,
        "options": options or LaunchOptions(max_tokens=2048, batch_size=4),
        "devices": devices,
        "owner": "ivan",
        "started_at": 12.5,
        "footprints": tuple(footprint(device.id) for device in devices),
        **changes,
    }
    return LaunchSpec(**fields)


def on_host(**changes: Any) -> LaunchSpec:
    return spec(LaunchDevice("host", DeviceKind.HOST, None, None), **changes)


def planned(one: LaunchSpec, **changes: object) -> ContainerPlan:
    return container_plan(one, settings(**changes), port=8123, api_key="secret")


def value_of(plan: ContainerPlan, flag: str) -> str:
    return plan.command[plan.command.index(flag) + 1]


def test_the_model_is_its_snapshot_in_the_mounted_cache_and_keeps_its_name() -> None:
    plan = planned(spec(gpu()))
    assert plan.command[0] == f"{CACHE_TARGET}/models--lab--one/snapshots/abc"
    assert value_of(plan, "--served-model-name") == "lab/one"
    (cache,) = [m for m in plan.mounts if m.target == CACHE_TARGET]
    assert (cache.source, cache.read_only, cache.is_volume) == (str(CACHE), True, False)
    assert plan.environment["HF_HUB_OFFLINE"] == "1"


def test_a_snapshot_outside_the_cache_is_refused_by_its_path() -> None:
    with pytest.raises(LaunchFailed) as refused:
        planned(spec(gpu(), snapshot=Path("/elsewhere/abc")))
    assert "/elsewhere/abc" in str(refused.value.params["detail"])


def test_the_options_become_flags() -> None:
    plan = planned(spec(gpu(), options=LaunchOptions(Dtype.BFLOAT16, max_tokens=1024, batch_size=2)))
    flags = {
        flag: value_of(plan, flag) for flag in ("--dtype", "--max-model-len", "--max-num-seqs", "--shutdown-timeout")
    }
    assert flags == {"--dtype": "bfloat16", "--max-model-len": "1024", "--max-num-seqs": "2", "--shutdown-timeout": "5"}
    assert "--tensor-parallel-size" not in plan.command
    assert plan.gpu_ids == ("GPU-0",)


def test_several_gpus_share_the_model() -> None:
    plan = planned(spec(gpu(0), gpu(1)))
    assert value_of(plan, "--tensor-parallel-size") == "2"
    assert plan.gpu_ids == ("GPU-0", "GPU-1")


def test_the_key_is_in_the_environment_and_nowhere_else() -> None:
    plan = planned(spec(gpu()))
    assert plan.environment["VLLM_API_KEY"] == "secret"
    assert "secret" not in " ".join((*plan.command, *plan.labels.values()))


def test_the_container_is_published_on_its_port_unless_it_shares_the_hosts_network() -> None:
    bridged, shared = planned(spec(gpu())), planned(spec(gpu()), vllm_network="host")
    assert (bridged.published, value_of(bridged, "--host"), value_of(bridged, "--port")) == (True, "0.0.0.0", "8000")
    assert (shared.published, value_of(shared, "--host"), value_of(shared, "--port")) == (False, "127.0.0.1", "8123")


def test_what_the_settings_say_themselves_takes_the_place_of_ours() -> None:
    plan = planned(spec(gpu()), vllm_args="--max_num_seqs=9 --enforce-eager --dtype float16")
    assert "--max-num-seqs" not in plan.command
    assert plan.command.count("--dtype") == 1
    assert plan.command[-4:] == ("--max_num_seqs=9", "--enforce-eager", "--dtype", "float16")


def test_another_entry_point_may_name_the_model_where_it_likes() -> None:
    own = planned(spec(gpu()), vllm_entrypoint="python3 -m api --model {model}")
    assert own.entrypoint == ("python3",)
    assert own.command[:4] == ("-m", "api", "--model", f"{CACHE_TARGET}/models--lab--one/snapshots/abc")
    first = planned(spec(gpu()), vllm_entrypoint="vllm serve")
    assert (first.entrypoint, first.command[0]) == (("vllm", "serve"), own.command[3])


def test_mounts_environment_and_shared_memory_are_settings() -> None:
    plan = planned(
        spec(gpu()),
        vllm_mounts=("/data:/data:ro", "things:/things"),
        vllm_env=("A=1", "B=x=y"),
        vllm_shm_gib=2,
        vllm_cache_volume="",
    )
    rest = [(m.source, m.target, m.read_only, m.is_volume) for m in plan.mounts if m.target != CACHE_TARGET]
    assert rest == [("/data", "/data", True, False), ("things", "/things", False, True)]
    assert (plan.environment["A"], plan.environment["B"]) == ("1", "x=y")
    assert (plan.ipc_host, plan.shm_bytes) == (False, 2 * GIB)
    assert (planned(spec(gpu())).ipc_host, planned(spec(gpu())).shm_bytes) == (True, None)


def test_the_labels_tell_the_instance_again() -> None:
    record = record_of(planned(spec(gpu())).labels)
    assert record is not None
    assert (record.id, record.mode, record.owner, record.started_at) == ("1a2b3c4d5e6f", Mode.VLLM, "ivan", 12.5)
    assert record.options == LaunchOptions(max_tokens=2048, batch_size=4)
    assert record_of({}) is None
    assert record_of({"org.warden.record": "{"}) is None


def test_on_the_host_the_kv_cache_is_the_plans_in_whole_blocks() -> None:
    one = on_host(options=LaunchOptions(max_tokens=200, batch_size=3))
    planned_bytes = one.footprints[0].part(PartName.KV_CACHE)
    whole = planned_bytes * (3 * 256 + 128) // 600
    assert whole <= kv_cache_argument_bytes(one) < whole + 2 * MIB
    plan = planned(one)
    assert int(value_of(plan, "--kv-cache-memory-bytes")) % MIB == 0
    assert "--gpu-memory-utilization" not in plan.command
    assert plan.gpu_ids == ()


@pytest.mark.parametrize(
    ("image", "family"),
    [
        ("vllm/vllm-openai:latest", "vllm/vllm-openai"),
        ("docker.io/vllm/vllm-openai@sha256:abc", "vllm/vllm-openai"),
        ("registry:5000/vllm/vllm-openai:v0.32.0@sha256:abc", "registry:5000/vllm/vllm-openai"),
        ("mine", "mine"),
    ],
)
def test_an_image_belongs_to_a_family_whatever_its_tag(image: str, family: str) -> None:
    assert image_family(image) == family


def test_the_ports_are_a_setting() -> None:
    assert list(port_range(settings(vllm_ports="8100-8102").vllm)) == [8100, 8101, 8102]


def starts(one: LaunchSpec, utilization: float) -> bool:
    """vLLM's rule as its ``request_memory`` states it (0.32), on what CUDA shows when the context exists."""
    for device in one.devices:
        total = (device.total_bytes or 0) - (device.reserved_bytes or 0)
        context = next(f.part(PartName.CONTEXT) for f in one.footprints if f.device_id == device.id)
        if (device.free_bytes or 0) - context < math.ceil(total * utilization):
            return False
    return True


CARDS = st.lists(
    st.tuples(st.integers(8 * GIB, 180 * GIB), st.integers(0, GIB), st.floats(0, 1)), min_size=1, max_size=8
)
"""Total, what the driver keeps, and the share of the rest that is free."""


@given(CARDS, st.integers(GIB, 100 * GIB))
def test_a_utilization_satisfies_vllms_rule_on_every_gpu_and_holds_the_plan(
    cards: list[tuple[int, int, float]], budget: int
) -> None:
    devices = [
        gpu(n, total=total, reserved=reserved, free=int((total - reserved) * share))
        for n, (total, reserved, share) in enumerate(cards)
    ]
    one = spec(*devices, footprints=tuple(footprint(d.id, budget) for d in devices))
    try:
        share = gpu_memory_utilization(one)
    except StartMemoryShort as short:
        assert int(short.params["wanted_bytes"] or 0) > int(short.params["free_bytes"] or 0)
        return
    assert starts(one, share)
    for device in devices:
        assert ((device.total_bytes or 0) - (device.reserved_bytes or 0)) * share >= budget - 2


@given(
    CARDS,
    st.integers(MIB, 80 * GIB),
    st.sampled_from([AdmissionPolicy(), AdmissionPolicy(reserve_bytes=0, reserve_percent=0)]),
)
def test_what_the_plan_admits_vllm_starts(
    cards: list[tuple[int, int, float]], weights: int, policy: AdmissionPolicy
) -> None:
    cached = model("lab/one", weights_bytes=weights)
    readings = tuple(reading(n, *card) for n, card in enumerate(cards))
    sample = Sample(1, 0.0, 0.0, readings)
    planning_state = PlanningState(0.0, sample, False, (), {cached.id: cached}, policy)
    request = SwitchRequest(Mode.VLLM, cached.id, LaunchOptions(), devices=tuple(r.device_id for r in readings))
    plan = plan_switch(request, planning_state)
    if plan.verdict is Verdict.REFUSED:
        return
    devices = launch_devices(sample, [r.device_id for r in readings])
    one = spec(*devices, footprints=tuple(d.footprint for d in plan.devices))
    share = gpu_memory_utilization(one)
    assert starts(one, share)
    for device, admitted in zip(devices, plan.devices, strict=True):
        context = admitted.footprint.part(PartName.CONTEXT)
        taken = math.ceil(((device.total_bytes or 0) - (device.reserved_bytes or 0)) * share)
        assert taken + context <= admitted.footprint.total_bytes


PLANS = st.tuples(
    CARDS, st.integers(MIB, 80 * GIB), st.integers(1, 100_000), st.integers(1, 1024), st.sampled_from([8192, 131_072])
)


def launched(cards: list[tuple[int, int, float]], weights: int, tokens: int, batch: int, length: int) -> LaunchSpec:
    """What is launched of a plan, refused or not."""
    cached = model("lab/one", weights_bytes=weights, context_length=length)
    readings = tuple(reading(n, *card) for n, card in enumerate(cards))
    sample, ids = Sample(1, 0.0, 0.0, readings), tuple(r.device_id for r in readings)
    options = LaunchOptions(max_tokens=tokens, batch_size=batch)
    request = SwitchRequest(Mode.VLLM, cached.id, options, devices=ids)
    plan = plan_switch(request, PlanningState(0.0, sample, False, (), {cached.id: cached}, AdmissionPolicy()))
    footprints = tuple(d.footprint for d in plan.devices)
    return spec(*launch_devices(sample, ids), footprints=footprints, options=plan.request.options)


@given(PLANS)
def test_no_smaller_share_holds_the_context_and_the_requests(
    drawn: tuple[list[tuple[int, int, float]], int, int, int, int],
) -> None:
    one = launched(*drawn)
    totals = [(d.total_bytes or 0) - (d.reserved_bytes or 0) for d in one.devices]
    cached = model("lab/one", weights_bytes=drawn[1], context_length=drawn[4])
    ids = [(d.id, d.kind) for d in one.devices]
    asked = estimate(cached, one.options, ids, Mode.VLLM, Conditions(device_memory_bytes=min(totals)))
    share = share_of(one.footprints, totals)

    def holds(share: int) -> bool:
        return all(
            -(-t * share // UTILIZATION_SCALE) >= budget_bytes(f) - 2 for f, t in zip(asked, totals, strict=True)
        )

    assert holds(share)
    assert not holds(share - 1)


@given(PLANS)
def test_vllm_is_told_what_the_plan_counted(drawn: tuple[list[tuple[int, int, float]], int, int, int, int]) -> None:
    one = launched(*drawn)
    flags = planned(one, vllm_args="--gpu-memory-utilization 0.5")
    length, requests, batched = (
        int(value_of(flags, flag)) for flag in ("--max-model-len", "--max-num-seqs", "--max-num-batched-tokens")
    )
    assert (length, requests) == (min(drawn[2], drawn[4]), drawn[3])
    assert requests <= batched <= length * requests  # else vLLM refuses the first and warns of the second
    cached = model("lab/one", weights_bytes=drawn[1], context_length=drawn[4])
    totals = [(d.total_bytes or 0) - (d.reserved_bytes or 0) for d in one.devices]
    told = Conditions(device_memory_bytes=min(totals), max_num_seqs=requests, max_num_batched_tokens=batched)
    again = estimate(cached, one.options, [(d.id, d.kind) for d in one.devices], Mode.VLLM, told)
    assert [f.part(PartName.ACTIVATION) for f in again] == [f.part(PartName.ACTIVATION) for f in one.footprints]


@pytest.mark.parametrize(
    ("name", "memory", "tokens"),
    [("NVIDIA H100", 80, 8192), ("NVIDIA A100-SXM4-80GB", 80, 2048), ("RTX 4090", 24, 2048)],
)
def test_tokens_at_once_are_those_that_vllm_takes_on_such_a_gpu(name: str, memory: int, tokens: int) -> None:
    cached = model("lab/one", context_length=131_072)
    sample = Sample(1, 0.0, 0.0, (replace(reading(0, memory * GIB, 0, 1.0), name=name),))
    request = SwitchRequest(Mode.VLLM, cached.id, LaunchOptions(max_tokens=100_000), devices=("gpu-0",))
    (device,) = plan_switch(
        request, PlanningState(0.0, sample, False, (), {cached.id: cached}, AdmissionPolicy())
    ).devices
    assert device.footprint.batched_tokens == tokens


@pytest.mark.parametrize(
    "args", ["--max-num-batched-tokens 4096", "--no-enable-chunked-prefill", "--max-model-len 9000"]
)
def test_tokens_at_once_are_left_to_vllm_where_the_settings_decide_on_them(args: str) -> None:
    told = [replace(f, batched_tokens=512) for f in spec(gpu()).footprints]
    assert "512" in planned(spec(gpu(), footprints=tuple(told))).command
    assert "512" not in planned(spec(gpu(), footprints=tuple(told)), vllm_args=args).command


def test_tokens_at_once_are_left_to_vllm_where_an_image_must_be_taken_whole() -> None:
    for cached, told in ((model(), True), (model(has_vision=True), False)):
        (one,) = estimate(cached, LaunchOptions(), [("gpu-0", DeviceKind.GPU)], Mode.VLLM)
        assert (one.batched_tokens is not None) is told


def reading(number: int, total: int, reserved: int, share: float) -> Reading:
    free = int((total - reserved) * share)
    sample = FakeMonitor(FakeMachine()).latest()
    assert sample is not None
    (whole, *_) = sample.readings
    return replace(
        whole,
        device_id=f"gpu-{number}",
        kind=DeviceKind.GPU,
        total_bytes=total,
        reserved_bytes=reserved,
        used_bytes=total - reserved - free,
        free_bytes=free,
    )


def test_a_gpu_whose_memory_is_not_known_is_refused() -> None:
    with pytest.raises(LaunchFailed):
        gpu_memory_utilization(spec(replace(gpu(), total_bytes=None)))


def test_the_engine_and_the_context_are_part_of_the_plan() -> None:
    (one,) = estimate(model("lab/one", weights_bytes=GIB), LaunchOptions(), [("gpu-0", DeviceKind.GPU)], Mode.VLLM)
    (other,) = estimate(model("lab/one", weights_bytes=GIB), LaunchOptions(), [("gpu-0", DeviceKind.GPU)])
    assert one.part(PartName.GRAPHS) > 0 == other.part(PartName.GRAPHS)
    assert one.part(PartName.NON_TORCH) > 0 == other.part(PartName.NON_TORCH)
    assert one.total_bytes > other.total_bytes


def test_share_that_the_settings_name_is_not_computed() -> None:
    short = spec(gpu(free=GIB))
    with pytest.raises(StartMemoryShort):
        planned(short)
    plan = planned(short, vllm_args="--gpu-memory-utilization 0.3")
    assert plan.command.count("--gpu-memory-utilization") == 1
    assert value_of(plan, "--gpu-memory-utilization") == "0.3"


def test_code_from_a_models_repository_runs_only_where_the_setting_allows_it() -> None:
    assert "--trust-remote-code" not in planned(spec(gpu())).command
    assert planned(spec(gpu()), allow_remote_code=True).command.count("--trust-remote-code") == 1


# What somebody might put into a name


@pytest.mark.parametrize(
    "name", ["-h", "--trust-remote-code", "-tp 8", "a b", "a\n--trust-remote-code", "$(reboot)", "a;reboot", "{model}"]
)
def test_a_models_name_is_one_word_and_never_a_flag(name: str) -> None:
    usual, odd = (
        planned(on_host(), vllm_entrypoint="vllm serve {model}"),
        planned(on_host(model_id=name), vllm_entrypoint="vllm serve {model}"),
    )

    differing = [word for word in odd.command if word not in usual.command]
    assert differing in ([name], [f"--served-model-name={name}"])
    assert not differing[0].startswith("-") or differing == [f"--served-model-name={name}"]
    assert len(odd.command) in (len(usual.command), len(usual.command) - 1)
    assert (odd.mounts, odd.environment, odd.entrypoint, odd.name) == (
        usual.mounts,
        usual.environment,
        usual.entrypoint,
        usual.name,
    )


@pytest.mark.parametrize("revision", ["../../../../etc", "..", "a/../../.."])
def test_a_snapshot_that_climbs_out_of_the_cache_is_refused(revision: str) -> None:
    with pytest.raises(LaunchFailed):
        planned(on_host(snapshot=SNAPSHOT.parent / "../../.." / revision))


@pytest.mark.parametrize("name", ["models---rm", "models--lab--{model}", "models--a b"])
def test_a_folders_name_in_the_cache_stays_behind_the_caches_own(name: str) -> None:
    plan = planned(on_host(snapshot=CACHE / name / "snapshots" / "abc"), vllm_entrypoint="serve {model} --x={model}")

    assert plan.command[:2] == (f"{CACHE_TARGET}/{name}/snapshots/abc", f"--x={CACHE_TARGET}/{name}/snapshots/abc")


def test_the_guard_is_put_before_the_server_beside_what_the_settings_put_there() -> None:
    plan = planned(on_host(), vllm_args="--middleware theirs.Own")

    named = [plan.command[place + 1] for place, word in enumerate(plan.command) if word == "--middleware"]
    assert named == ["warden_guard.Guard", "theirs.Own"]
    assert b"class Guard" in plan.modules["warden_guard"]
