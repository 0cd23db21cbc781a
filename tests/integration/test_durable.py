"""What a real server has confirmed outlives ``kill -9``, a locked database, a full disk and a deleted file; the rest it refuses."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from subprocess import PIPE, Popen
from sys import executable
from typing import Any

import httpx
import pytest

from tests.engine.disks import small_disk
from tests.engine.server import WardenServer, wait_for

Start = Callable[..., WardenServer]
ROUNDS = 4
LOCKED_S = 7.0
HOLD = """
import sqlite3, sys, time
holder = sqlite3.connect(sys.argv[1], isolation_level=None)
holder.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def locked(server: WardenServer) -> Iterator[None]:
    """Let a second process hold the database for as long as the block runs."""
    with Popen([executable, "-c", HOLD, server.state / "warden.db"], stdin=PIPE, stdout=PIPE) as holder:
        assert holder.stdout is not None and holder.stdin is not None
        assert holder.stdout.readline() == b"held\n"
        try:
            yield
        finally:
            holder.stdin.close()


def killed_behind(server: WardenServer, ask: Callable[[], httpx.Response]) -> httpx.Response:
    """Return the answer to ``ask``; the server was killed as soon as it was there: looking for its processes takes time enough to write."""
    assert server.process is not None
    victims = [process.pid for process in server.web_processes()]
    answer = ask()
    for pid in (*victims, server.process.pid):
        os.kill(pid, signal.SIGKILL)
    server.process.wait(10)
    return answer


def lease(server: WardenServer, model: str, **terms: object) -> httpx.Response:
    instance = server.instance_of(model)
    return server.post(f"/api/v1/instances/{instance['id']}/lease", {"extend_s": 7200, "reason": "paper", **terms})


def problem(server: WardenServer) -> str | None:
    """Why nothing can be kept, by the status."""
    found = server.status()["store_problem"]
    return None if found is None else found["code"]


def until_problem_is(server: WardenServer, code: str | None) -> None:
    wait_for(lambda: problem(server) == code, 15, lambda: f"the problem is {problem(server)}, not {code}")


def is_read_from(database: Path, sql: str) -> Any:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as reader:
        return reader.execute(sql).fetchall()


def test_a_lease_is_there_after_a_kill_right_behind_its_answer(start_server: Start) -> None:
    server = start_server()
    server.load("lab/one")
    for number in range(ROUNDS):
        instance = server.instance_of("lab/one")["id"]
        terms = {"extend_s": 600, "reason": f"round {number}"}
        answer = killed_behind(server, lambda: server.post(f"/api/v1/instances/{instance}/lease", terms))  # noqa: B023
        assert answer.status_code == 200
        server.start()
        assert server.instance_of("lab/one")["lease"] == answer.json()["lease"]


def test_an_accepted_operation_reads_abandoned_after_a_kill_right_behind_its_answer(start_server: Start) -> None:
    server = start_server()
    for number in range(ROUNDS):
        path = "/api/v1/clean" if number % 2 else "/api/v1/switch"
        body = {} if number % 2 else {"mode": "transformers", "model": "lab/one"}
        answer = killed_behind(server, lambda: server.post(path, body))  # noqa: B023
        assert answer.status_code == 202
        assert answer.json()["stored"] is True
        server.start()
        ended = server.get(f"/api/v1/operations/{answer.json()['id']}")
        assert ended["state"] in ("abandoned", "succeeded")


def test_an_emergency_that_dies_behind_its_answer_has_paused_what_waits(start_server: Start) -> None:
    server = start_server(memory_limit_gib=0.045, reserve_mib=0, reserve_percent=0)
    server.load("lab/one")
    request = {"mode": "transformers", "model": "lab/two", "keep_others": True, "starts_by_itself": True}
    answer = server.post("/api/v1/tickets", request)
    assert answer.status_code == 201, answer.text
    with locked(server):
        begun = server.post("/api/v1/emergency")
        server.kill()
    assert (begun.status_code, begun.json()["stored"]) == (202, False)
    server.start()
    ticket = server.get(f"/api/v1/tickets/{answer.json()['id']}")
    assert ticket["paused_by"] is not None


def test_while_another_process_holds_the_database_nothing_is_confirmed_that_is_not_kept(start_server: Start) -> None:
    server = start_server(threads=8)
    server.load("lab/one")
    before = server.instance_of("lab/one")["lease"]
    with locked(server):
        began = time.monotonic()
        refused = lease(server, "lab/one")
        assert time.monotonic() - began < 2.5
        assert (refused.status_code, refused.json()["code"]) == (503, "not_stored")
        switch = server.post("/api/v1/switch", {"mode": "transformers", "model": "lab/two"})
        assert (switch.status_code, switch.json()["code"]) == (503, "not_stored")
        clean = server.post("/api/v1/clean")
        assert (clean.status_code, clean.json()["stored"]) == (202, False)
        until_problem_is(server, "keeping_locked")
        assert httpx.get(server.url + "/healthz").status_code == 503
        assert "data-store-problem" in httpx.get(server.url + "/").text
        assert server.status()["operations"] == []
        assert server.instance_of("lab/one")["lease"] == before
        time.sleep(max(0.0, LOCKED_S - (time.monotonic() - began)))
    until_problem_is(server, None)
    assert "data-store-problem" not in httpx.get(server.url + "/").text
    kept = lease(server, "lab/one")
    assert kept.status_code == 200
    server.stop()  # in good order, as any update is
    server.start()
    assert server.instance_of("lab/one")["lease"] == kept.json()["lease"]
    assert server.get(f"/api/v1/operations/{clean.json()['id']}")["state"] == "succeeded"


def test_those_who_wait_for_a_locked_database_leave_the_page_its_threads(start_server: Start) -> None:
    server = start_server(threads=8)
    server.load("lab/one")
    with locked(server), httpx.Client(base_url=server.url, timeout=10) as page:
        asking = [Popen([executable, "-c", ASK, server.url, server.instance_of("lab/one")["id"]]) for _ in range(12)]
        slowest = 0.0
        while any(process.poll() is None for process in asking):
            began = time.monotonic()
            assert page.get("/fragments/notices").status_code in (200, 204)
            slowest = max(slowest, time.monotonic() - began)
    assert {process.returncode for process in asking} == {0}
    assert slowest < 0.8, "a page had to wait for those who write"


ASK = """
import json, sys, urllib.request, urllib.error
url, instance = sys.argv[1:]
request = urllib.request.Request(f"{url}/api/v1/instances/{instance}/lease", b'{"extend_s": 60}', {"Content-Type": "application/json"})
try:
    urllib.request.urlopen(request, timeout=20)
except urllib.error.HTTPError as exc:
    sys.exit(json.load(exc)["code"] not in ("not_stored", "lease_pending"))
sys.exit(1)
"""


@pytest.mark.parametrize("harm", ["deleted", "replaced"])
def test_a_database_that_is_gone_is_made_anew_with_what_is_in_memory(
    start_server: Start, tmp_path: Path, harm: str
) -> None:
    server = start_server()
    operation = server.load("lab/one")
    database = server.state / "warden.db"
    leased = lease(server, "lab/one").json()["lease"]
    if harm == "deleted":
        for file in server.state.glob("warden.db*"):
            file.unlink()
    else:
        with closing(sqlite3.connect(tmp_path / "other.db")) as other:
            other.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
            other.executescript(_schema(database))
        (tmp_path / "other.db").replace(database)
    wait_for(database.exists, 10, lambda: "the file was not made anew")
    wait_for(lambda: not database.stat().st_mode & 0o077, 10, lambda: "others may read the file")
    wait_for(lambda: _count(database, "SELECT count(*) FROM leases"), 10, lambda: "the lease was not written again")
    assert problem(server) is None
    longer = lease(server, "lab/one").json()["lease"]
    assert longer != leased
    server.kill()
    server.start()
    assert server.instance_of("lab/one")["lease"] == longer
    assert server.get(f"/api/v1/operations/{operation['id']}")["state"] == "succeeded"


def _schema(database: Path) -> str:
    """The statements that make the tables of a database, and its revision."""
    rows = is_read_from(database, "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name != 'alembic_version'")
    ((revision,),) = is_read_from(database, "SELECT version_num FROM alembic_version")
    made = [row[0] for row in rows if not row[0].startswith("CREATE TABLE sqlite_")]
    return ";\n".join([*made, f"INSERT INTO alembic_version VALUES ('{revision}')"]) + ";"


def _count(database: Path, sql: str) -> int:
    try:
        return int(is_read_from(database, sql)[0][0])
    except sqlite3.Error:
        return 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a disk")
def test_on_a_full_disk_nothing_is_confirmed_and_the_page_names_the_disk(tmp_path: Path, cache: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        server = WardenServer(disk.folder / "state", cache)
        try:
            server.start()
            server.models(3)
            server.load("lab/one")
            disk.fill()
            answers = [lease(server, "lab/one", reason="x" * 190) for _ in range(40)]
            assert {answer.status_code for answer in answers} <= {200, 503}
            if 503 in {answer.status_code for answer in answers}:
                until_problem_is(server, "keeping_full")
                assert str(disk.folder) in httpx.get(server.url + "/", headers={"Accept-Language": "en"}).text
            last = server.instance_of("lab/one")["lease"]
            disk.free()
            until_problem_is(server, None)
            server.kill()
            server.start()
            assert server.instance_of("lab/one")["lease"] == last
        finally:
            server.stop()
            server.end_models()
