"""A machine that gives no thread and no process any more (``pids.max``): the emergency still acts."""

from __future__ import annotations

from pathlib import Path

from tests.engine.server import WardenServer, running
from tests.engine.task_group import task_group


def test_emergency_acts_where_no_task_is_left(cache: Path, tmp_path: Path) -> None:
    with task_group() as group:
        server = WardenServer(tmp_path / "state", cache)
        server.started_by = group.command
        with running(server):
            server.models(3)
            server.load("lab/one", keep_others=True)
            server.load("lab/two", keep_others=True)
            group.give_no_more()
            refused = server.post("/api/v1/clean")
            assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
            before = group.refused()
            answer = server.post("/api/v1/emergency")
            assert answer.status_code == 202, answer.json()
            ended = server.finished(answer.json()["id"])
            assert ended["state"] == "succeeded", ended
            assert group.refused() > before
            assert (server.worker_pids(), server.status()["instances"]) == ([], [])
            again = server.post("/api/v1/emergency")
            assert server.finished(again.json()["id"])["state"] == "succeeded"
