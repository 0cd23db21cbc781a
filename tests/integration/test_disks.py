"""A state folder on a disk that is full, read-only or gone: every page answers, and models can be ended."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from tests.engine.disks import SmallDisk, covered, small_disk
from tests.engine.server import WardenServer, wait_for
from tests.web.test_rights import RULES, address

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a disk")

SAYS_IT_ITSELF = {"/timeline.csv", "/healthz"}
"""What answers 503 while nothing can be kept, because it must."""
PAGES = sorted({address(rule) for rule in RULES if "GET" in rule.methods and rule.path not in SAYS_IT_ITSELF})


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk") as disk:
        yield disk


@pytest.fixture
def server(disk: SmallDisk, cache: Path) -> Iterator[WardenServer]:
    """A server with its state on the small disk, not started."""
    server = WardenServer(disk.folder / "state", cache)
    yield server
    server.stop()
    server.end_models()


def fill(disk: SmallDisk, server: WardenServer, until_end: ExitStack) -> None:
    disk.fill()


def make_read_only(disk: SmallDisk, server: WardenServer, until_end: ExitStack) -> None:
    until_end.enter_context(covered(server.state))


def remove(disk: SmallDisk, server: WardenServer, until_end: ExitStack) -> None:
    shutil.rmtree(server.state)


HARMS = (fill, make_read_only, remove)
Harm = Callable[[SmallDisk, WardenServer, ExitStack], None]


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.__name__)
def test_every_page_answers_after_a_fresh_start_when_the_disk_takes_nothing(
    server: WardenServer, disk: SmallDisk, harm: Harm
) -> None:
    """Nothing is compiled yet: the first page of each kind would be kept in the folder."""
    server.start()
    with ExitStack() as until_end, httpx.Client(base_url=server.url, timeout=20) as browser:
        harm(disk, server, until_end)
        answers = {page: browser.get(page, headers={"Accept": "text/html"}) for page in PAGES}
        token = re.search(r'name="csrf_token" value="([^"]+)"', answers["/confirm/emergency"].text)
        assert token is not None
        emergency = browser.post("/emergency", data={"csrf_token": token[1], "confirmed": "1"})

    # What reads the database may say that it is not there; nothing may break, and what needs none answers.
    assert {page: code for page, answer in answers.items() if (code := answer.status_code) >= 500 and code != 503} == {}
    assert {answers[page].status_code for page in ("/", "/fragments/live", "/confirm/emergency")} == {200}
    assert "<html" in error_page(answers).text
    assert emergency.status_code == 303


def error_page(answers: dict[str, httpx.Response]) -> httpx.Response:
    """An answer that tells of an error as a page."""
    return next(answer for page, answer in answers.items() if answer.status_code == 404 and "/api/" not in page)


@pytest.mark.parametrize("adopted", [False, True])
def test_a_removed_state_folder_leaves_a_model_alive_listed_and_in_reach(
    server: WardenServer, cache: Path, adopted: bool
) -> None:
    server.start()
    server.models(3)
    server.load("lab/one")
    if adopted:
        server.kill()
        server.start()
        server.models(3)
    (pid,) = server.worker_pids()
    shutil.rmtree(server.state)

    instance = server.becomes(server.instance_of("lab/one")["id"], "silent")
    assert instance["problem"]["code"] == "worker_cut_off"
    assert str(pid) in instance["problem"]["text"]
    assert "uses" in refused_start(WardenServer(server.state, cache))
    assert server.worker_pids() == [pid]

    unloaded = server.finished(server.post(f"/api/v1/instances/{instance['id']}/unload").json()["id"])
    assert unloaded["state"] in ("succeeded", "warning"), unloaded  # another process of the host may grow meanwhile
    assert unloaded["receipt"]["expected_bytes"] > 0
    assert server.worker_pids() == []
    again = server.load("lab/two")
    assert again["state"] == "succeeded", again
    folders = [path for path in (server.state, *server.state.rglob("*")) if path.is_dir()]
    assert {path.stat().st_mode & 0o777 for path in folders} == {0o700}


def refused_start(server: WardenServer) -> str:
    """What a Warden says that does not start."""
    server.begin()
    assert server.process is not None
    server.process.wait(30)
    return "\n".join(server.stop())


def test_a_start_on_a_full_disk_shows_the_page_and_ends_models(server: WardenServer, disk: SmallDisk) -> None:
    server.start()
    server.models(3)
    server.load("lab/one")
    server.kill()
    disk.fill()
    server.start()

    page = httpx.get(server.url, headers={"Accept-Language": "en"}, timeout=20)
    assert page.status_code == 200
    assert "the disk is full: free space on it" in complaint(server)
    instance = server.instance_of("lab/one")
    assert instance["state"] in ("ready", "silent")
    accepted = server.post(f"/api/v1/instances/{instance['id']}/unload")
    assert accepted.status_code == 202, accepted.text
    server.finished(accepted.json()["id"])
    assert server.worker_pids() == []


def test_a_lease_outlives_a_start_on_a_full_disk(server: WardenServer, disk: SmallDisk) -> None:
    server.start()
    server.models(3)
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    server.load("lab/one", lease_until=tomorrow.isoformat(), reason="a demo")
    lease = server.instance_of("lab/one")["lease"]
    server.stop()  # so that no journal is at hand, and a copy is read
    disk.fill()
    server.start()
    complaint(server)
    assert server.instance_of("lab/one")["lease"] == lease
    disk.free()
    wait_until_kept(server)
    server.kill()
    server.start()
    assert server.instance_of("lab/one")["lease"] == lease


def test_a_start_on_a_read_only_disk_shows_the_page(server: WardenServer, disk: SmallDisk) -> None:
    server.start()
    server.stop()
    server.end_models()
    disk.make_read_only()
    server.start()

    answers = {
        page: httpx.get(server.url + page, timeout=20).status_code for page in ("/", "/history", "/confirm/emergency")
    }
    assert set(answers.values()) == {200}, answers
    assert "mounted read-only: mount it for writing" in complaint(server)


def complaint(server: WardenServer) -> str:
    """What a server says at its start of the database that it cannot write."""
    begin = f"nothing that happens is kept until this is mended, without a restart: {server.state}/warden.db"
    return next(line for line in server.output if begin in line)


def wait_until_kept(server: WardenServer) -> None:
    """Wait until the page says no more that nothing is kept."""
    wait_for(
        lambda: "cannot save" not in httpx.get(server.url, headers={"Accept-Language": "en"}, timeout=20).text,
        20,
        lambda: "the page says that nothing is kept",
    )


def test_a_fresh_start_on_a_full_disk_keeps_by_itself_what_happens_once_there_is_space(
    server: WardenServer, disk: SmallDisk
) -> None:
    disk.fill()
    server.start()
    server.models(3)
    page = httpx.get(server.url, headers={"Accept-Language": "en"}, timeout=20)
    assert page.status_code == 200
    assert "cannot save" in page.text
    refused = server.post("/api/v1/switch", {"mode": "transformers", "model": "lab/one"})
    assert refused.status_code == 503, refused.text

    disk.free()

    wait_until_kept(server)
    operation = server.load("lab/one")
    assert operation["state"] == "succeeded", operation
    server.kill()
    server.start()
    assert server.get(f"/api/v1/operations/{operation['id']}")["state"] == "succeeded"
