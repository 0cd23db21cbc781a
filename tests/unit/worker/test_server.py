"""A client that hangs up leaves no trace in the log that people read."""

from __future__ import annotations

import logging

import pytest

from webapp.worker.server import WorkerServer


@pytest.fixture
def server(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> WorkerServer:
    monkeypatch.chdir(str(tmp_path))
    with WorkerServer("socket", "token", {}) as made:
        return made


@pytest.mark.parametrize(
    ("error", "lines"), [(ConnectionResetError("reset"), []), (ValueError("broken"), ["a connection failed"])]
)
def test_only_what_went_wrong_is_logged(
    server: WorkerServer, caplog: pytest.LogCaptureFixture, error: Exception, lines: list[str]
) -> None:
    caplog.set_level(logging.INFO)
    try:
        raise error
    except (ConnectionError, ValueError):
        server.handle_error(None, None)
    assert [record.getMessage() for record in caplog.records] == lines
