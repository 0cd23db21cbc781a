"""What the administrator's guide tells people to type is valid: settings, shell commands, and the commands of Warden in them."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import click
import pytest

from scripts.guide_blocks import commands
from webapp.cli.main import main
from webapp.settings import load_settings, setting_notes

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "admin-guide.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
WARDEN = re.compile(r"(?:^|-- |TOKEN )warden ((?:[a-z]+ ?)+)", re.MULTILINE)
"""``warden users add`` at the beginning of a command, not the name of the service or of its account."""


def blocks(language: str) -> list[str]:
    return [text for name, text in BLOCKS if name == language]


@pytest.mark.parametrize("text", blocks("toml"))
def test_a_file_of_settings_is_taken(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "warden.toml"
    path.write_text(text, encoding="utf-8")
    for name in [name for name in os.environ if name.startswith("WARDEN_")]:  # the tests' own, such as REQUIRE_ALL
        monkeypatch.delenv(name)
    monkeypatch.setenv("WARDEN_CONFIG", str(path))

    load_settings()

    assert list(setting_notes()) == []


@pytest.mark.parametrize("text", blocks("sh"))
def test_commands_are_valid_shell(text: str) -> None:
    assert subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False).stderr == ""


def test_the_commands_of_warden_exist() -> None:
    named = [match.split() for text in blocks("sh") for match in WARDEN.findall(text)]

    assert len(named) > 5
    for words in named:
        command: click.Command = main
        for word in words:
            if not isinstance(command, click.Group):
                break
            assert word in command.commands, " ".join(words)
            command = command.commands[word]


def test_the_unit_keeps_models_and_has_a_private_state_folder() -> None:
    (unit,) = blocks("ini")

    assert "KillMode=process\n" in unit
    assert "StateDirectoryMode=0700\n" in unit
    assert unit.startswith("# /etc/systemd/system/")


def test_every_proxy_passes_on_what_warden_asks_for() -> None:
    server = next(text for text in blocks("nginx") if "server {" in text)

    for header in ("Host $http_host", "X-Forwarded-For $remote_addr", "X-Forwarded-Proto $scheme"):
        assert f"proxy_set_header {header};" in server


def test_the_trial_of_the_guide_writes_its_files_and_types_its_commands() -> None:
    script = "\n".join(commands(GUIDE))

    for name in ("/etc/warden.toml", "/etc/systemd/system/warden.service", "/etc/nginx/sites-available/warden"):
        assert f"cat >{name} <<" in script
    assert "systemctl enable --now warden" in script
    assert "caddy" not in script.lower()  # an alternative, in a section without a number
    assert subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False).stderr == ""
