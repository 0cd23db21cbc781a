"""Settings are documented, read in one order, and refused by name if they are invalid."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from webapp.cli.main import settings_markdown
from webapp.errors import ConfigurationError
from webapp.settings import NAMES, REMOVED, RENAMED, load_settings, meaning_of, setting_notes, variable

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "settings.md"


@pytest.fixture(autouse=True)
def only_these_variables(tmp_path: Path) -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as environment:
        for name in os.environ:
            if name.startswith(("WARDEN_", "HF_", "HUGGINGFACE_", "XDG_")):
                environment.delenv(name)
        environment.setenv("WARDEN_CONFIG", str(tmp_path / "none.toml"))
        yield environment


@pytest.fixture
def toml(tmp_path: Path, only_these_variables: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "warden.toml"
    only_these_variables.setenv("WARDEN_CONFIG", str(path))
    return path


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_says_what_it_is_for(name: str) -> None:
    assert re.fullmatch(r"\S.{8,}[.…]", meaning_of(name))


@pytest.mark.parametrize("name", NAMES)
def test_the_reference_lists_every_setting(name: str) -> None:
    row = next(line for line in settings_markdown().splitlines() if f"`{variable(name)}`" in line)

    assert row in REFERENCE.read_text(encoding="utf-8").splitlines(), "run: make reference"


def test_the_defaults_are_valid_and_listen_on_this_machine_only() -> None:
    settings = load_settings()

    assert (settings.server.bind, settings.server.port) == ("127.0.0.1", 8000)
    assert settings.storage.database == f"sqlite:///{settings.storage.state_dir}/warden.db"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WARDEN_PORT", "many"),
        ("WARDEN_PORT", "65536"),
        ("WARDEN_THREADS", "1"),
        ("WARDEN_ON_STOP", "sometimes"),
        ("WARDEN_MEMORY_LIMIT_GIB", "0"),
        ("WARDEN_RESERVE_PERCENT", "100"),
        ("WARDEN_PROXY_USER_HEADER", "X-User: root"),
        ("WARDEN_PROXY_DEFAULT_ROLE", "root"),
        ("WARDEN_SESSION_HOURS", "0"),
        ("WARDEN_BIND", "gpu-server"),
        ("WARDEN_BIND", ""),
    ],
)
def test_a_value_that_cannot_be_meant_names_its_variable(
    name: str, value: str, only_these_variables: pytest.MonkeyPatch
) -> None:
    only_these_variables.setenv(name, value)

    with pytest.raises(ConfigurationError) as caught:
        load_settings()

    assert caught.value.params["setting"] == name
    assert caught.value.params["value"] == value
    assert caught.value.params["detail"]


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.0.1", "::1", "localhost"])
def test_every_address_of_this_machine_alone_may_be_bound(address: str) -> None:
    assert load_settings(bind=address).server.bind == address


@pytest.mark.parametrize(
    ("address", "local"),
    [("localhost", True), ("127.8.0.1", True), ("::1", True), ("0.0.0.0", False), ("::", False), ("10.0.0.1", False)],
)
def test_an_address_is_local_when_no_other_machine_reaches_it(address: str, local: bool) -> None:
    assert load_settings(bind=address).server.is_local is local


@pytest.mark.parametrize("networks", [("0.0.0.0/0",), ("::/0",), ("proxy.lab",), ("10.0.0.1/8",)])
def test_a_proxy_is_named_by_its_address(networks: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationError, match="WARDEN_TRUSTED_PROXIES"):
        load_settings(trusted_proxies=networks)


def test_a_header_without_the_proxies_that_may_send_it_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="WARDEN_TRUSTED_PROXIES"):
        load_settings(proxy_user_header="X-Forwarded-User")

    assert load_settings(proxy_user_header="X-Forwarded-User", trusted_proxies=("10.0.0.0/8", "::1")).auth.has_proxy


def test_a_toml_file_is_read(toml: Path) -> None:
    toml.write_text('port = 8100\ntrusted_hosts = ["gpu.lab"]\n', encoding="utf-8")

    settings = load_settings()

    assert settings.server.port == 8100
    assert settings.server.trusted_hosts == ("gpu.lab",)


def test_arguments_come_before_the_environment_and_that_before_the_file(
    toml: Path, only_these_variables: pytest.MonkeyPatch
) -> None:
    toml.write_text("port = 1\nthreads = 3\nqueue_limit = 4\n", encoding="utf-8")
    only_these_variables.setenv("WARDEN_PORT", "2")
    only_these_variables.setenv("WARDEN_THREADS", "5")

    settings = load_settings(port=3)

    assert (settings.server.port, settings.server.threads, settings.queue.limit) == (3, 5, 4)


def test_case_of_a_name_has_no_meaning(toml: Path, only_these_variables: pytest.MonkeyPatch) -> None:
    toml.write_text("PORT = 8100\n", encoding="utf-8")
    for name, value in (("warden_log_level", "DEBUG"), ("Warden_Threads", "5"), ("WARDEN_THREADS", "6")):
        only_these_variables.setenv(name, value)

    server = load_settings().server

    assert (server.port, server.log_level, server.threads) == (8100, "DEBUG", 6)
    assert list(setting_notes()) == []


def test_a_setting_that_was_removed_is_named_and_refuses_no_start(
    toml: Path, only_these_variables: pytest.MonkeyPatch
) -> None:
    assert list(setting_notes()) == []
    toml.write_text("port = 8100\nprewarm = 2\n", encoding="utf-8")

    assert load_settings().server.port == 8100
    (in_file,) = setting_notes()
    assert in_file.startswith("WARDEN_PREWARM is no longer a setting and is ignored: every worker is now forked")

    toml.write_text("", encoding="utf-8")
    only_these_variables.setenv("WARDEN_PREWARM", "1")
    assert list(setting_notes()) == [in_file]


def test_a_setting_works_under_its_earlier_name_and_its_present_one_is_named(
    toml: Path, only_these_variables: pytest.MonkeyPatch
) -> None:
    toml.write_text("ticket_limit = 3\nticket_wait_h = 2.0\n", encoding="utf-8")
    only_these_variables.setenv("WARDEN_TICKET_HOLD_S", "60")

    queue = load_settings().queue

    assert (queue.limit, queue.hold_s, queue.wait_hours) == (3, 60.0, 2.0)
    assert [note.partition(";")[0] for note in setting_notes()] == [
        "WARDEN_TICKET_HOLD_S is now called WARDEN_QUEUE_HOLD_S",
        "WARDEN_TICKET_LIMIT is now called WARDEN_QUEUE_LIMIT",
        "WARDEN_TICKET_WAIT_H is now called WARDEN_QUEUE_WAIT_HOURS",
    ]
    toml.write_text("ticket_limit = 3\nqueue_limit = 4\n", encoding="utf-8")
    assert load_settings().queue.limit == 4


@pytest.mark.parametrize("name", RENAMED)
def test_an_earlier_name_is_a_setting_now_and_no_longer_one_itself(name: str) -> None:
    assert RENAMED[name] in NAMES
    assert name not in {**NAMES, **REMOVED}


def test_a_variable_that_is_no_setting_is_named_and_refuses_no_start(only_these_variables: pytest.MonkeyPatch) -> None:
    for name in ("WARDEN_PROT", "WARDEN_SERVICE_HOST", "WARDEN_TOKEN"):
        only_these_variables.setenv(name, "8100")

    assert load_settings().server.port == 8000
    assert list(setting_notes()) == [
        "WARDEN_PROT is not a setting and is ignored; did you mean WARDEN_PORT?",
        "WARDEN_SERVICE_HOST is not a setting and is ignored",
    ]


@pytest.mark.parametrize(
    ("url", "database"),
    [
        ("sqlite:///people.db", "sqlite:////state/people.db"),
        ("sqlite+pysqlite:///data/people.db?timeout=5", "sqlite+pysqlite:////state/data/people.db?timeout=5"),
        ("sqlite:////data/people.db", "sqlite:////data/people.db"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("sqlite:///file:people.db?uri=true", "sqlite:///file:people.db?uri=true"),
        ("sqlite://", "sqlite://"),
        ("postgresql://db/people", "postgresql://db/people"),
        ("", "sqlite:////state/warden.db"),
    ],
)
def test_a_relative_database_is_in_the_state_folder(url: str, database: str) -> None:
    """``warden run`` changes the working directory, and another command may be typed anywhere."""
    assert load_settings(state_dir="/state", database_url=url).storage.database == database


def test_a_changed_copy_leaves_the_settings_as_they_were() -> None:
    settings = load_settings(queue_limit=3)
    changed = settings.changed(queue_limit=4, state_dir=Path("/elsewhere"))

    assert (settings.queue.limit, changed.queue.limit, changed.storage.state_dir) == (3, 4, Path("/elsewhere"))
    assert changed.queue.hold_s == settings.queue.hold_s


def test_an_unknown_name_in_the_file_is_refused(toml: Path) -> None:
    toml.write_text("prot = 8100\n", encoding="utf-8")

    with pytest.raises(ConfigurationError, match="WARDEN_PROT"):
        load_settings()


@pytest.mark.parametrize("text", ["port = ", "port = 8100\nport = 8101", "\x00"])
def test_a_broken_file_names_the_variable_of_the_file(toml: Path, text: str) -> None:
    toml.write_text(text, encoding="utf-8")

    with pytest.raises(ConfigurationError, match="WARDEN_CONFIG"):
        load_settings()


def test_paths_are_absolute_and_know_the_home_folder() -> None:
    settings = load_settings(state_dir="~/state", hf_cache="models")

    assert settings.storage.state_dir == Path.home() / "state"
    assert settings.models.hf_cache == Path.cwd() / "models"


@pytest.mark.parametrize(
    ("variables", "cache"),
    [
        ({"HF_HUB_CACHE": "/a", "HF_HOME": "/b"}, "/a"),
        ({"HF_HOME": "/b", "XDG_CACHE_HOME": "/c"}, "/b/hub"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/huggingface/hub"),
    ],
)
def test_the_cache_is_where_huggingface_hub_looks(
    variables: dict[str, str], cache: str, only_these_variables: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        only_these_variables.setenv(name, value)

    assert load_settings().models.hf_cache == Path(cache)


def test_nothing_changes_a_setting_while_warden_runs() -> None:
    settings = load_settings()
    with pytest.raises(ValueError, match="frozen"):
        setattr(settings.server, "port", 1)  # noqa: B010  the type checker would refuse the plain way


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("vllm_ports", ""),
        ("vllm_ports", "8100"),
        ("vllm_ports", "8199-8100"),
        ("vllm_ports", "80-90"),
        ("vllm_ports", "65000-65536"),
        ("vllm_env", ("NAME",)),
        ("vllm_env", ("A=1", "2B=3")),
        ("vllm_mounts", ("/data",)),
        ("vllm_mounts", ("data/models:/models",)),
        ("vllm_mounts", ("/data:models",)),
        ("vllm_mounts", ("/data:/models:rw",)),
        ("vllm_args", "--name 'open"),
        ("vllm_entrypoint", "python3 -c 'open"),
        ("vllm_entrypoint", "vllm serve {path}"),
        ("vllm_image", ""),
        ("vllm_image", "two images"),
        ("docker_socket", "docker.sock"),
    ],
)
def test_what_docker_could_not_be_told_is_refused_with_its_name(name: str, value: object) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(**{name: value})

    assert caught.value.params["setting"] == variable(name)
    assert caught.value.params["detail"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("vllm_ports", "1024-65535"),
        ("vllm_ports", "8100-8100"),
        ("vllm_env", ("HF_TOKEN=", "A_1=b=c d")),
        ("vllm_mounts", ("/data:/models", "/data:/models:ro", "a-volume:/cache")),
        ("vllm_args", "--enforce-eager --name 'two words'"),
        ("vllm_entrypoint", "python3 -m vllm.entrypoints.openai.api_server --model {model}"),
        ("vllm_entrypoint", ""),
    ],
)
def test_what_docker_can_be_told_is_taken_as_it_is(name: str, value: object) -> None:
    assert load_settings(**{name: value}).value(name) == value


def test_a_list_stands_in_the_environment_as_json(only_these_variables: pytest.MonkeyPatch) -> None:
    only_these_variables.setenv("WARDEN_VLLM_ENV", '["A=1", "B=two words"]')

    assert load_settings().vllm.env == ("A=1", "B=two words")
