"""From a pid to its user, command, container and instance."""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.unit.hardware.conftest import ProcTree
from webapp.domain.memory import Holder, HolderKind
from webapp.errors import WorkerSilent
from webapp.hardware.holders import COMMAND_LENGTH, FACTS_LOOKS, Holders, container_of, parse_stat, short_command

ID = "0123456789abcdef" * 4
OTHER = "fedcba9876543210" * 4


def holders_in(
    proc: ProcTree, workers: Mapping[int, str] | None = None, containers: Mapping[str, str] | None = None
) -> Holders:
    return Holders(lambda: workers or {}, lambda: containers or {}, proc.root)


@pytest.mark.parametrize(
    "path",
    [
        f"0::/system.slice/docker-{ID}.scope",
        f"4:memory:/docker/{ID}",
        f"1:name=systemd:/docker/{ID}\n0::/docker/{ID}/init",
        f"0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope",
        f"0::/machine.slice/libpod-{ID}.scope/container",
        f"4:memory:/docker/{OTHER}/docker/{ID}",
    ],
)
def test_a_control_group_names_the_innermost_container(path: str) -> None:
    assert container_of(path) == ID


@pytest.mark.parametrize(
    "path",
    ["0::/", "", "0::/user.slice/user-1000.slice", f"0::/docker-{ID[:-1]}.scope", f"0::/docker/{ID}0", f"0::/x/{ID}"],
)
def test_other_control_groups_name_no_container(path: str) -> None:
    assert container_of(path) is None


def test_a_command_name_may_hold_blanks_and_parentheses() -> None:
    stat = parse_stat("7 (a (b) c) D 1 2 3 " + "0 " * 15 + "42 0")
    assert (stat.pid, stat.comm, stat.state, stat.ppid, stat.pgrp, stat.session) == (7, "a (b) c", "D", 1, 2, 3)
    assert stat.start_time == 42


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["/usr/bin/python3", "train.py", "--lr", "0.1"], "python3 train.py --lr 0.1"),
        (["vllm", "--api-key", "sk-1", "--port", "1"], "vllm --api-key *** --port 1"),
        (["vllm", "--api-key=sk-1"], "vllm --api-key=***"),
        (["env", "HF_TOKEN=hf_1", "python"], "env HF_TOKEN=*** python"),
        (["x", "--token", "hf_1"], "x --token ***"),
        (["x", "--max-tokens", "512", "--tokenizer", "t"], "x --max-tokens 512 --tokenizer t"),
        (["x", "a\nb\x1b[31m"], "x a b [31m"),
        ([], None),
        ([""], None),
    ],
)
def test_a_command_line_is_short_and_keeps_no_secret(arguments: list[str], text: str | None) -> None:
    assert short_command(arguments) == text


def test_a_long_command_line_is_cut() -> None:
    text = short_command(["python", "x" * 500])
    assert text is not None
    assert len(text) == COMMAND_LENGTH
    assert text.endswith("…")


def test_a_process_is_described_with_user_command_state_and_container(proc: ProcTree) -> None:
    proc.add(20, state="D", cgroup=f"0::/docker/{ID}")
    assert holders_in(proc).look().holder(20, 7) == Holder(
        pid=20,
        user="4000000000",
        command="python train.py",
        used_bytes=7,
        kind=HolderKind.FOREIGN,
        container_id=ID,
        process_state="D",
    )


def test_a_user_with_a_name_is_called_by_it(proc: ProcTree) -> None:
    proc.add(20, uid=os.getuid())
    assert holders_in(proc).look().holder(20, None).user == getpass.getuser()


def test_a_process_without_a_command_line_is_called_by_its_name(proc: ProcTree) -> None:
    proc.add(20, command="", comm="python", state="Z")
    assert holders_in(proc).look().holder(20, None).command == "[python]"


def test_of_a_process_that_has_gone_pid_and_bytes_remain(proc: ProcTree) -> None:
    assert holders_in(proc).look().holder(99, 5) == Holder(99, None, None, 5, HolderKind.FOREIGN)


def test_a_process_that_goes_while_it_is_read_is_described_as_far_as_it_was(proc: ProcTree) -> None:
    proc.add(20)
    for name in ("cmdline", "status", "cgroup"):
        (proc.root / "20" / name).unlink()
    holder = holders_in(proc).look().holder(20, 5)
    assert (holder.user, holder.command, holder.container_id, holder.process_state) == (None, "[python]", None, "S")


@pytest.mark.parametrize("garbage", ["", "20", "20 (x", "20 (x) S", "x (x) S 1 1 1"])
def test_a_process_whose_figures_cannot_be_understood_counts_as_unknown(proc: ProcTree, garbage: str) -> None:
    proc.add(20)
    (proc.root / "20" / "stat").write_text(garbage)
    assert holders_in(proc).look().holder(20, 5).process_state is None


def test_a_worker_is_known_by_its_pid_even_when_it_has_gone(proc: ProcTree) -> None:
    holder = holders_in(proc, workers={20: "a"}).look().holder(20, 5)
    assert (holder.kind, holder.instance_id) == (HolderKind.WORKER, "a")


def test_a_child_of_a_workers_child_counts_as_the_workers(proc: ProcTree) -> None:
    proc.add(20)
    proc.add(21, ppid=20)
    proc.add(22, ppid=21)
    holder = holders_in(proc, workers={20: "a"}).look().holder(22, 5)
    assert (holder.kind, holder.instance_id) == (HolderKind.WORKER, "a")


@pytest.mark.parametrize("left", ["pgrp", "session"])
def test_an_orphan_of_a_worker_is_known_by_its_group_or_session(proc: ProcTree, left: str) -> None:
    belonging: dict[str, Any] = {left: 20}
    proc.add(22, ppid=1, **belonging)
    assert holders_in(proc, workers={20: "a"}).look().holder(22, 5).instance_id == "a"


def test_a_process_in_a_container_of_ours_is_its_instances(proc: ProcTree) -> None:
    proc.add(20, cgroup=f"0::/docker/{ID}")
    holder = holders_in(proc, containers={ID: "v"}).look().holder(20, 5)
    assert (holder.kind, holder.instance_id, holder.container_id) == (HolderKind.CONTAINER, "v", ID)


def test_a_process_in_another_container_is_foreign(proc: ProcTree) -> None:
    proc.add(20, cgroup=f"0::/docker/{OTHER}")
    holder = holders_in(proc, containers={ID: "v"}).look().holder(20, 5)
    assert (holder.kind, holder.instance_id, holder.container_id) == (HolderKind.FOREIGN, None, OTHER)


def test_parents_that_form_a_ring_end_the_search(proc: ProcTree) -> None:
    proc.add(20, ppid=21)
    proc.add(21, ppid=20)
    assert holders_in(proc, workers={30: "a"}).look().holder(20, 5).kind is HolderKind.FOREIGN


def test_a_runtime_that_cannot_be_asked_costs_no_reading(proc: ProcTree) -> None:
    def silent() -> Mapping[int, str]:
        raise WorkerSilent(instance="a", seconds=1)

    proc.add(20)
    assert Holders(silent, proc=proc.root).look().holder(20, 5).kind is HolderKind.FOREIGN


def test_what_a_process_is_called_is_read_once_while_it_lives(proc: ProcTree) -> None:
    proc.add(20)
    holders = holders_in(proc)
    holders.look().holder(20, 5)
    (proc.root / "20" / "cmdline").write_text("changed\0")
    assert holders.look().holder(20, 5).command == "python train.py"


@pytest.mark.parametrize("other", [{"start_time": 501}, {"comm": "bash"}])
def test_another_process_with_the_same_pid_or_another_program_is_read_anew(
    proc: ProcTree, other: dict[str, Any]
) -> None:
    proc.add(20)
    holders = holders_in(proc)
    holders.look().holder(20, 5)
    proc.add(20, command="bash", **other)
    assert holders.look().holder(20, 5).command == "bash"


def test_what_a_process_is_called_is_read_again_after_some_looks(proc: ProcTree) -> None:
    proc.add(20)
    holders = holders_in(proc)
    holders.look().holder(20, 5)
    (proc.root / "20" / "cmdline").write_text("changed\0")
    for _ in range(FACTS_LOOKS):
        holder = holders.look().holder(20, 5)
    assert holder.command == "changed"


def test_a_process_that_has_no_command_line_yet_is_asked_again_at_the_next_look(proc: ProcTree) -> None:
    proc.add(20)
    cmdline = proc.root / "20" / "cmdline"
    whole = cmdline.read_text()
    cmdline.write_text("")
    holders = holders_in(proc)
    assert (holders.look().holder(20, 5).command or "").startswith("[")
    cmdline.write_text(whole)
    assert holders.look().holder(20, 5).command == "python train.py"


def test_a_look_sees_one_moment(proc: ProcTree) -> None:
    proc.add(20, state="S")
    look = holders_in(proc).look()
    look.holder(20, 5)
    proc.add(20, state="D")
    assert look.holder(20, 5).process_state == "S"


def test_a_real_process_and_its_child_are_described() -> None:
    program = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE) as parent:
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
        while not (found := children.read_text().split()):
            assert parent.poll() is None
        look = Holders(lambda: {parent.pid: "a"}).look()
        child = look.holder(int(found[0]), 5)
        parent.communicate(b"\n")
    assert (child.kind, child.instance_id, child.user) == (HolderKind.WORKER, "a", getpass.getuser())
