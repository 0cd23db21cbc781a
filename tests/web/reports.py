"""Reports of models that ran out of memory, for the pages."""

from __future__ import annotations

from dataclasses import replace

from webapp.domain.memory import HolderKind
from webapp.domain.modes import LaunchOptions, Mode
from webapp.domain.plan import SwitchRequest, WayOut
from webapp.domain.postmortem import Account, Cause, HolderLine, Phase, PostMortem
from webapp.domain.units import gib
from webapp.message import Message

ASKED = SwitchRequest(Mode.TRANSFORMERS, "Qwen/Qwen3-8B", LaunchOptions(max_tokens=8192), ("gpu-0",))
LINES = (
    HolderLine(0, gib(14.2), HolderKind.WORKER, True, "Qwen/Qwen3-8B", 4100, "me", "python -m webapp.worker", "i9"),
    HolderLine(gib(2.8), gib(6.1), HolderKind.FOREIGN, pid=777, user="alice", command="python train.py"),
    HolderLine(gib(1.5), gib(1.5), HolderKind.WORKER, False, "Qwen/Qwen3-1.7B", 4000, "me", "worker", "i1"),
    HolderLine(gib(0.2), 0, HolderKind.FOREIGN, pid=778, user=None, command=None, container_id="c" * 64),
    HolderLine(gib(0.3), gib(0.3)),
)


def report(cause: Cause = Cause.NEIGHBOUR_GREW, **changes: object) -> PostMortem:
    """Return the report of an 8B model next to a training that grew by 3.3 GiB; a shorter context would have fitted."""
    account = Account("gpu-0", gib(24), gib(17.1), gib(18.8), gib(1.5), 0, gib(14.2), gib(3.1), LINES)
    made = PostMortem(
        taken_at=1_700_000_009.0,
        since=1_700_000_001.0,
        phase=Phase.LOADING,
        cause=cause,
        device_id="gpu-0",
        accounts=(account,),
        log=("loading shard 3 of 4", "torch.OutOfMemoryError: CUDA <out> of memory"),
        way_out=WayOut(
            Message("way_out_tokens", {"max_tokens": 2048}),
            replace(ASKED, options=LaunchOptions(max_tokens=2048)),
        ),
        asked=ASKED,
    )
    return replace(made, **changes)  # type: ignore[arg-type]
