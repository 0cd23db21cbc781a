"""Cost of many open pages: viewers poll the real server as the page does, while a model loads and unloads in a loop.

``python -m bench viewers [--viewers 100] [--minutes 2] [--idle]``. Each viewer keeps its connection and cookies, sends
back the state of its page (``version``, ``seen``), and requests the plan after each answer with news, as the form does.
Times are the viewer's, from the first byte sent to the last byte read; processor time is that of the web process only.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import httpx
import psutil

from tests.engine.models import make_model
from tests.engine.server import WardenServer, running

POLL_S = 2.0
SAMPLE_S = 15.0
SETTLE_S = 10.0
"""Warm-up: the pages open and the first load finishes before anything is counted."""
FORM = {
    "mode": "transformers",
    "model": "lab/two",
    "precision": "auto",
    "max_tokens": "512",
    "batch_size": "1",
    "device": "auto",
}
HIDDEN = re.compile(rb'name="(version|seen|plan_version)"[^>]* value="([^"]*)"')
LENGTH = re.compile(rb"content-length: (\d+)", re.I)
COOKIE = re.compile(rb"set-cookie: ([^;]+)", re.I)


@dataclass
class Tally:
    """The sum of what all viewers saw."""

    live_s: list[float] = field(default_factory=list)
    plan_s: list[float] = field(default_factory=list)
    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    contents: set[str] = field(default_factory=set)
    """Tags of the polled region's contents that any viewer received; they differ by language."""
    cycles: int = 0

    def clear(self) -> None:
        """Discard the counts of the warm-up."""
        self.live_s.clear()
        self.plan_s.clear()
        self.answers.clear()
        self.contents.clear()
        self.cycles = 0


class Viewer:
    """One open page: a kept-alive connection, its cookies, and the hidden fields of its last answer."""

    def __init__(self, url: str, number: int, tally: Tally) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 0
        self._language = ("ru", "en")[number % 2]
        self._tally = tally
        self._held: dict[str, str] = {}
        self._cookies: dict[str, str] = {}
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def watch(self, delay_s: float) -> None:
        """Open the page after ``delay_s`` and poll until cancelled."""
        await asyncio.sleep(delay_s)
        await self._get("/")
        due = time.monotonic()
        try:
            while True:
                due = max(due + POLL_S, time.monotonic())
                await asyncio.sleep(due - time.monotonic())
                await self._poll()
        finally:
            if self._streams is not None:
                self._streams[1].close()

    async def _poll(self) -> None:
        began = time.perf_counter()
        query = urlencode({"version": self._held["version"], "seen": self._held["seen"]})
        status = await self._get(f"/fragments/live?{query}")
        self._tally.live_s.append(time.perf_counter() - began)
        self._tally.answers["live", status] += 1
        if status != 200:
            return
        self._tally.contents.add(self._held["version"])
        began = time.perf_counter()
        query = urlencode({**FORM, "plan_version": self._held["plan_version"]})
        self._tally.answers["plan", await self._get(f"/fragments/plan?{query}")] += 1
        self._tally.plan_s.append(time.perf_counter() - began)

    async def _get(self, target: str) -> int:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        cookies = "; ".join(f"{name}={value}" for name, value in self._cookies.items())
        writer.write(
            f"GET {target} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\nAccept-Language: {self._language}\r\n"
            f"HX-Request: true\r\nCookie: {cookies}\r\n\r\n".encode()
        )
        head = await reader.readuntil(b"\r\n\r\n")
        length = LENGTH.search(head)
        body = await reader.readexactly(int(length[1])) if length else b""
        if (cookie := COOKIE.search(head)) is not None:
            name, _, value = cookie[1].decode().partition("=")
            self._cookies[name] = value
        self._held.update((name.decode(), value.decode()) for name, value in HIDDEN.findall(body))
        if b"connection: close" in head.lower():
            writer.close()
            self._streams = None
        return int(head.split(b" ", 2)[1])


def main(arguments: list[str] | None = None) -> None:
    """Run the viewers and print what they saw and the cost."""
    parser = argparse.ArgumentParser(prog="python -m bench viewers")
    parser.add_argument("--viewers", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--idle", action="store_true", help="load nothing")
    asked = parser.parse_args(arguments or [])
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        make_model(cache, "lab/one", seed=1)
        make_model(cache, "lab/two", seed=2)
        with running(WardenServer(Path(folder) / "state", cache)) as server:
            server.models(2)
            asyncio.run(_measure(server, asked.viewers, asked.minutes, idle=asked.idle))


async def _measure(server: WardenServer, count: int, minutes: float, *, idle: bool) -> None:
    web = psutil.Process(server.web_processes()[0].pid)
    tally = Tally()
    began_rss = web.memory_info().rss
    tasks = [asyncio.create_task(Viewer(server.url, n, tally).watch(POLL_S * n / count)) for n in range(count)]
    if not idle:
        tasks.append(asyncio.create_task(_load_and_unload(server.url, tally)))
    await asyncio.sleep(SETTLE_S)
    _fail_early(tasks)
    tally.clear()
    began, began_cpu = time.monotonic(), _cpu_s(web)
    sizes = [began_rss, web.memory_info().rss]
    while (left := began + 60 * minutes - time.monotonic()) > 0:
        await asyncio.sleep(min(SAMPLE_S, left))
        sizes.append(web.memory_info().rss)
        _fail_early(tasks)
    took_s, cpu_s = time.monotonic() - began, _cpu_s(web) - began_cpu
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    _report(tally, count, took_s, cpu_s, sizes)


async def _load_and_unload(url: str, tally: Tally) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        while True:
            model = ("lab/one", "lab/two")[tally.cycles % 2]
            body = {"mode": "transformers", "model": model, "options": {"max_tokens": 128}}
            await _finished(client, await client.post("/api/v1/switch", json=body))
            (instance,) = (await client.get("/api/v1/status")).json()["instances"]
            await asyncio.sleep(1)
            await _finished(client, await client.post(f"/api/v1/instances/{instance['id']}/unload", json={}))
            tally.cycles += 1
            await asyncio.sleep(1)


async def _finished(client: httpx.AsyncClient, accepted: httpx.Response) -> None:
    assert accepted.status_code == 202, accepted.text
    path = f"/api/v1/operations/{accepted.json()['id']}"
    while (await client.get(path)).json()["state"] == "running":
        await asyncio.sleep(0.5)


def _fail_early(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        if task.done():
            task.result()


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _report(tally: Tally, count: int, took_s: float, cpu_s: float, sizes: list[int]) -> None:
    _say(f"{count} viewers, {took_s:.0f} s, {tally.cycles} loads and unloads, load average {os.getloadavg()[0]:.2f}")
    _say(_times("live", tally.live_s))
    _say(_times("plan", tally.plan_s))
    _say("answers: " + ", ".join(f"{name} {status}: {n}" for (name, status), n in sorted(tally.answers.items())))
    _say(f"contents shown: {len(tally.contents)}, {len(tally.contents) / took_s:.2f} a second")
    _say(
        f"web process: {cpu_s / took_s:.1%} of one core, {1000 * cpu_s / max(1, sum(tally.answers.values())):.2f} ms an answer"
    )
    shown = [f"{size / 2**20:.1f}" for size in (*sizes[:2], *sizes[2 :: max(1, len(sizes) // 8)], sizes[-1])]
    _say(
        f"web process, MiB resident: before the pages {shown[0]}, then {' '.join(shown[1:])}; most {max(sizes) / 2**20:.1f}"
    )


def _times(name: str, seconds: list[float]) -> str:
    if not seconds:
        return f"{name}: none"
    ordered = sorted(seconds)
    shown = [
        f"p{share} {1000 * ordered[min(len(ordered) - 1, len(ordered) * share // 100)]:.1f} ms"
        for share in (50, 90, 99)
    ]
    return f"{name}: {', '.join(shown)}, most {1000 * ordered[-1]:.1f} ms, {len(ordered)} answers"


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
