"""The controller of the page's tests answers every call that the real one has, and takes the same arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.web.fakes import FakeController, FakeLeases, FakeQueue, FakeTimeline
from webapp.control.controller import Controller
from webapp.control.leases import Leasing
from webapp.control.queue import LaunchQueue
from webapp.control.recorder import Timeline

LIFE = frozenset({"start", "stop", "end_operations", "end_everything"})
"""Calls of the process that a page never makes."""
CALLS = [
    *((Controller, FakeController, name) for name in sorted({*vars(Controller)} - LIFE)),
    *((LaunchQueue, FakeQueue, name) for name in ("check", "cancel", "resume", "is_stored", "start_now")),
    *((Leasing, FakeLeases, name) for name in ("set", "ask", "answer", "keep")),
    *((Timeline, FakeTimeline, name) for name in ("devices", "track")),
]


def public_calls() -> Iterator[tuple[Callable[..., Any], type[object], str]]:
    for real, fake, name in CALLS:
        if not name.startswith("_") and inspect.isfunction(call := vars(real)[name]):
            yield call, fake, name


@pytest.mark.parametrize(("call", "fake", "name"), [*public_calls()])
def test_fake_takes_each_call_as_it_is_declared(call: Callable[..., Any], fake: type[object], name: str) -> None:
    assert name in vars(fake), f"{fake.__name__} leaves {name} to the real one"
    assert inspect.signature(vars(fake)[name]) == inspect.signature(call)
