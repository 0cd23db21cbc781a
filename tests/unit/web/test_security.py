"""Names, paths and the secret key."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest

from webapp.errors import ConfigurationError
from webapp.web.security import host_is_trusted, same_site_path, secret_key

NAMES = ("localhost", "127.0.0.1", "[::1]")


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:1", "LocalHost:8000", "127.0.0.1", "[::1]", "[::1]:8000", "localhost."]
)
def test_a_trusted_name_is_trusted_on_every_port(host: str) -> None:
    assert host_is_trusted(host, NAMES)


@pytest.mark.parametrize(
    "host",
    [
        "",
        ":8000",
        "evil",
        "localhost.evil",
        "evil.localhost",
        "127.0.0.1.evil:80",
        "::1",
        "localhost:x",
        "a@localhost",
        "localhost/",
        "[::2]:1",
    ],
)
def test_anything_else_is_not(host: str) -> None:
    assert not host_is_trusted(host, NAMES)


def test_a_domain_covers_the_names_below_it() -> None:
    assert host_is_trusted("gpu.lab:80", (".lab",))
    assert not host_is_trusted("gpulab", (".lab",))


@pytest.mark.parametrize("target", ["/", "/?a=b#c", "/instances/x/log"])
def test_a_path_of_this_site_is_kept(target: str) -> None:
    assert same_site_path(target) == target


@pytest.mark.parametrize("target", [None, "", "x", "//e", "/\\e", "http://e", "/a\\b", "/\n/e", "\\/e", "///e"])
def test_a_way_out_of_the_site_is_not(target: str | None) -> None:
    assert same_site_path(target) == "/"


def test_the_secret_key_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "state"

    first, second = secret_key(folder), secret_key(folder)

    assert first == second
    assert len(first) == 32
    assert stat.S_IMODE((folder / "secret_key").stat().st_mode) == 0o600
    assert [path.name for path in folder.iterdir()] == ["secret_key"]


def test_two_starts_at_once_agree_on_the_key(tmp_path: Path) -> None:
    gate, keys = threading.Barrier(8), []

    def start() -> None:
        gate.wait(10)
        keys.append(secret_key(tmp_path))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(keys) == 8
    assert len(set(keys)) == 1


def test_a_broken_key_is_said_and_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "secret_key").write_bytes(b"short")

    with pytest.raises(ConfigurationError, match="holds no key"):
        secret_key(tmp_path)


def test_a_state_folder_that_cannot_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")

    with pytest.raises(ConfigurationError, match="WARDEN_STATE_DIR"):
        secret_key(tmp_path / "file" / "state")


def test_a_key_that_others_could_read_is_closed(tmp_path: Path) -> None:
    key = secret_key(tmp_path)
    (tmp_path / "secret_key").chmod(0o644)

    assert secret_key(tmp_path) == key
    assert stat.S_IMODE((tmp_path / "secret_key").stat().st_mode) == 0o600
