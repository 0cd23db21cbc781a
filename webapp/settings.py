"""Every setting of Warden: name, type, default and help, read from ``WARDEN_*`` and a TOML file into one frozen value."""

from __future__ import annotations

import ipaddress
import os
import re
import shlex
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, Self
from urllib.parse import quote

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from webapp.domain.units import GIB
from webapp.errors import ConfigurationError

CONFIG_VARIABLE = "WARDEN_CONFIG"
DEFAULT_CONFIG = Path("/etc/warden.toml")
MODEL_PLACEHOLDER = "{model}"
"""Stands in ``vllm_entrypoint`` for the model's folder."""
WORKER_COMMAND: Final = f"{shlex.quote(sys.executable)} -m webapp.worker"
FIRST_FREE_PORT, LAST_PORT = 1024, 65535
"""The ports that a program may take without rights of its own."""
REMOVED: Final[Mapping[str, str]] = {
    "prewarm": "every worker is now forked from a launcher that has imported the libraries; remove the setting",
}
"""Settings of earlier versions and what took their place: an upgrade names them and goes on."""


def _default_state_dir() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "warden"


def _default_hf_cache() -> Path:
    """Where huggingface_hub looks, by its own rules, without importing it."""
    if cache := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(cache).expanduser()
    home = os.environ.get("HF_HOME")
    base = (
        Path(home).expanduser()
        if home
        else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    )
    return base / "hub"


def is_local(address: str) -> bool:
    """Whether nobody but this machine's own users can reach ``address``."""
    return address == "localhost" or ipaddress.ip_address(address).is_loopback


def sqlite_url(file: Path) -> str:
    """Return the SQLAlchemy URL of a SQLite file; a ``%`` or ``?`` in the path would name another file where it is not quoted."""
    return f"sqlite:///{quote(str(file))}"


class Settings(BaseSettings):
    """All settings. Times are seconds; a frozen value, so nothing changes it while Warden runs."""

    model_config = SettingsConfigDict(env_prefix="WARDEN_", frozen=True, extra="forbid")

    state_dir: Path = Field(
        default_factory=_default_state_dir,
        description="Folder for the database, worker sockets, logs and secrets.",
    )
    bind: str = Field(
        "127.0.0.1",
        description="Address to listen on. Only loopback addresses, until there is an administrator or a trusted proxy.",
    )
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on.")
    threads: int = Field(16, ge=2, le=256, description="Threads of the web process.")
    trusted_hosts: tuple[str, ...] = Field(
        ("localhost", "127.0.0.1", "[::1]"),
        description="Host names that the page accepts; others are refused (DNS rebinding).",
    )
    session_idle_hours: float = Field(
        12.0,
        gt=0,
        description="A session ends after this long without use; an open page that only polls does not count…",
    )
    session_hours: float = Field(168.0, gt=0, description="…and in any case after this long.")
    sign_in_failures: int = Field(
        10,
        ge=1,
        description="Failed sign-ins for one name within 15 minutes before a pause; after three times as many from one address, "
        "a name may fail a third as often from there.",
    )
    proxy_user_header: str | None = Field(
        None, description="Header in which a trusted proxy names the person, such as X-Forwarded-User."
    )
    trusted_proxies: tuple[str, ...] = Field(
        (), description="Addresses and networks of the trusted proxies; the header from elsewhere is ignored."
    )
    proxy_default_role: Literal["none", "viewer", "operator", "administrator"] = Field(
        "viewer",
        description="Role of a person whom the proxy names for the first time; “none” admits only known people.",
    )
    audit_days: float = Field(365.0, gt=0, description="How long audit entries are kept.")
    operation_days: float = Field(365.0, gt=0, description="How long operations are kept in the history.")
    database_url: str | None = Field(None, description="SQLAlchemy URL; SQLite in the state folder if empty.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="How much Warden logs.")
    default_language: Literal["ru", "en"] = Field(
        "ru", description="Language if the browser asks for neither Russian nor English."
    )

    hf_cache: Path = Field(
        default_factory=_default_hf_cache, description="The Hugging Face cache that holds the models."
    )
    cache_poll_s: float = Field(2.0, gt=0, description="How often the cache is checked for changes.")
    allow_pickle: bool = Field(False, description="Load pickle weights, which can run code.")
    allow_remote_code: bool = Field(False, description="Run code from a model's repository.")

    memory_limit_gib: float | None = Field(
        None, gt=0, description="Limit of the memory that Warden's own models may hold on a device, in GiB."
    )
    reserve_mib: int = Field(512, ge=0, description="Safety reserve on a device, at least this many MiB…")
    reserve_percent: float = Field(5.0, ge=0, lt=100, description="…or this share of the device, whichever is more.")
    fits_percent: float = Field(
        80.0,
        gt=0,
        le=100,
        description="A launch “fits” up to this share of the free memory; above it, it is “tight”.",
    )
    reading_interval_s: float = Field(1.0, gt=0, description="How often the devices are read.")
    busy_reading_interval_s: float = Field(
        0.25, gt=0, description="How often the devices are read while an operation runs."
    )
    stale_after_s: float = Field(
        10.0, gt=0, description="A reading older than this is marked stale and is not used for decisions."
    )
    history_minutes: float = Field(10.0, gt=0, description="Time span of the small chart on a card.")

    page_poll_s: float = Field(2.0, gt=0, description="How often an open page polls.")

    settle_poll_s: float = Field(
        0.25, gt=0, description="How often the device is read while its memory is being freed."
    )
    settle_percent: float = Field(75.0, gt=0, le=100, description="Share of the expected memory that must be freed.")
    settle_warn_s: float = Field(5.0, gt=0, description="After this time the wait is reported as slow.")
    settle_deadline_s: float = Field(30.0, gt=0, description="After this time the memory counts as not freed.")

    worker_command: str = Field(
        WORKER_COMMAND,
        description="The program that runs a Transformers model.",
    )
    launcher: Literal["start", "demand", "off"] = Field(
        "start",
        description="When the libraries that all Transformers workers share are imported: when Warden starts, for the first model, "
        "or in every worker separately. Not used with a custom WARDEN_WORKER_COMMAND.",
    )
    worker_ask_s: float = Field(10.0, ge=0, description="How long a worker may take to stop after it was asked to.")
    worker_term_s: float = Field(5.0, ge=0, description="…and after SIGTERM.")
    worker_kill_s: float = Field(5.0, ge=0, description="…and after SIGKILL to its process group.")
    launch_stall_s: float = Field(
        300.0, gt=0, description="A launch without any activity for this long counts as stalled."
    )
    launch_deadline_s: float = Field(3600.0, gt=0, description="Limit of the total time of a launch.")
    cooldown_s: float = Field(
        10.0,
        ge=0,
        description="Pause before a model that failed to load can be tried again; doubles with each failure…",
    )
    cooldown_max_s: float = Field(300.0, ge=0, description="…up to this.")
    ticket_limit: int = Field(8, ge=1, le=100, description="Length of the launch queue.")
    ticket_hold_s: float = Field(
        600.0, gt=0, description="How long a queue place is held for a person who was notified that the model fits now."
    )
    ticket_wait_h: float = Field(24.0, gt=0, description="A queued launch expires after this many hours.")
    undo_s: float = Field(
        10.0,
        ge=0,
        description="How long the unloading of another person's model can still be stopped before it begins; 0: it begins at once.",
    )
    idle_unload_minutes: float = Field(
        0.0, ge=0, description="A model that nobody has used for this many minutes is unloaded; 0: never."
    )
    release_silence_s: float = Field(
        60.0,
        gt=0,
        description="How long a release request may stay unanswered; after that, an idle model without a lease counts as released.",
    )
    on_stop: Literal["keep", "unload"] = Field("keep", description="What stopping Warden does with loaded models.")
    log_lines: int = Field(1000, ge=10, description="Lines of a model's log that are kept for the page.")

    emergency_runtime_s: float = Field(
        30.0, gt=0, description="How long an emergency stop waits for one mode before it continues without it."
    )

    docker_socket: Path = Field(Path("/var/run/docker.sock"), description="The Docker engine's socket.")
    docker_timeout_s: float = Field(10.0, gt=0, description="How long Docker may take for one answer.")
    docker_start_timeout_s: float = Field(
        60.0, gt=0, description="How long Docker may take to create a container, and to start it."
    )
    docker_poll_s: float = Field(2.0, gt=0, description="How often Docker is asked for its containers.")
    vllm_image: str = Field("vllm/vllm-openai:latest", description="Image of vLLM mode.")
    vllm_entrypoint: str = Field(
        "",
        description="Program to run in the image instead of the image's own; {model} is replaced by the model's folder, "
        "which otherwise follows as the first argument.",
    )
    vllm_args: str = Field("", description="Additional arguments for vLLM, as on a command line.")
    vllm_env: tuple[str, ...] = Field(
        (), description="Additional environment variables of the containers, NAME=value each."
    )
    vllm_mounts: tuple[str, ...] = Field(
        (), description="Additional folders or volumes of the containers, HOST:CONTAINER[:ro] each."
    )
    vllm_cache_volume: str = Field(
        "warden-vllm-cache", description="Docker volume for code that vLLM compiles; empty for none."
    )
    vllm_shm_gib: float | None = Field(
        None, gt=0, description="Private shared memory of a container, in GiB; the host's is used if empty."
    )
    vllm_ports: str = Field("8100-8199", description="Ports on 127.0.0.1 that the containers may use, FIRST-LAST.")
    vllm_network: str = Field(
        "bridge", description="Docker network of the containers; with “host”, vLLM itself listens on 127.0.0.1."
    )
    vllm_drain_s: float = Field(
        5.0, ge=0, description="How long vLLM may continue to answer when it is stopped (its --shutdown-timeout)."
    )
    vllm_term_s: float = Field(30.0, ge=0, description="How long a container may take to exit after SIGTERM.")
    vllm_kill_s: float = Field(10.0, ge=0, description="…and after SIGKILL, and to be removed.")

    @field_validator("state_dir", "hf_cache")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("docker_socket")
    @classmethod
    def _socket_path(cls, value: Path) -> Path:
        if not value.is_absolute():
            raise ValueError(f"{value} is not the full path of a socket, such as /var/run/docker.sock")
        return value

    @field_validator("vllm_image")
    @classmethod
    def _one_image(cls, value: str) -> str:
        if not value or any(char.isspace() for char in value):
            raise ValueError("give one image, such as vllm/vllm-openai:latest")
        return value

    @field_validator("vllm_args", "vllm_entrypoint")
    @classmethod
    def _command_line(cls, value: str) -> str:
        try:
            shlex.split(value)
        except ValueError as exc:
            raise ValueError(f"it cannot be read as a command line: {exc}") from exc
        return value

    @field_validator("vllm_entrypoint")
    @classmethod
    def _known_placeholder(cls, value: str) -> str:
        unknown = set(re.findall(r"\{[^{}\s]*\}", value)) - {MODEL_PLACEHOLDER}
        if unknown:
            raise ValueError(f"only {MODEL_PLACEHOLDER} is put in, not {', '.join(sorted(unknown))}")
        return value

    @field_validator("vllm_env")
    @classmethod
    def _assignments(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            if not re.fullmatch(r"[A-Za-z_]\w*=[^\x00]*", text):
                raise ValueError(f"{text!r} is not NAME=value")
        return value

    @field_validator("vllm_mounts")
    @classmethod
    def _bindings(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            if not re.fullmatch(r"(/[^:\x00]*|\w[\w.-]+):/[^:\x00]*(:ro)?", text):
                raise ValueError(
                    f"{text!r} is not HOST:CONTAINER[:ro] with full paths, or a volume's name before the colon"
                )
        return value

    @field_validator("vllm_ports")
    @classmethod
    def _port_range(cls, value: str) -> str:
        found = re.fullmatch(r"(\d{1,5})-(\d{1,5})", value)
        if found is None:
            raise ValueError("give FIRST-LAST, such as 8100-8199")
        first, last = int(found[1]), int(found[2])
        if not FIRST_FREE_PORT <= first <= last <= LAST_PORT:
            raise ValueError(f"the ports have to rise and lie within {FIRST_FREE_PORT}-{LAST_PORT}")
        return value

    @field_validator("bind")
    @classmethod
    def _address(cls, value: str) -> str:
        if value != "localhost":
            ipaddress.ip_address(value)
        return value

    @field_validator("proxy_user_header")
    @classmethod
    def _header(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]*", value):
            raise ValueError("give one header, such as X-Forwarded-User")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            if ipaddress.ip_network(text).prefixlen == 0:
                raise ValueError(f"{text} is everybody; name the proxies' own addresses")
        return value

    @model_validator(mode="after")
    def _proxy_is_whole(self) -> Self:
        if self.proxy_user_header and not self.trusted_proxies:
            raise ValueError("WARDEN_PROXY_USER_HEADER needs WARDEN_TRUSTED_PROXIES: the addresses that may send it")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments come before the environment, and that before the TOML file."""
        return (init_settings, env_settings, _File(settings_cls, toml_file=_file()))

    @property
    def database(self) -> str:
        """The SQLAlchemy URL in force."""
        return self.database_url or sqlite_url(self.state_dir / "warden.db")

    @property
    def forks_workers(self) -> bool:
        """Whether workers are forked from a launcher: a program of one's own cannot be."""
        return self.launcher != "off" and self.worker_command == WORKER_COMMAND

    @property
    def is_local(self) -> bool:
        """Whether nobody but this machine's own users can reach the page."""
        return is_local(self.bind)

    @property
    def has_proxy(self) -> bool:
        """Whether a trusted proxy says who sends a request."""
        return self.proxy_user_header is not None

    @property
    def memory_limit_bytes(self) -> int | None:
        """The limit on a device for Warden's own instances, in bytes."""
        return None if self.memory_limit_gib is None else round(self.memory_limit_gib * GIB)


class _File(TomlConfigSettingsSource):
    """The TOML file, without what is a setting no longer."""

    def __call__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__call__().items() if name not in REMOVED}


def _file() -> Path:
    return Path(os.environ.get(CONFIG_VARIABLE) or DEFAULT_CONFIG)


def removed_settings() -> Mapping[str, str]:
    """Return the settings of earlier versions that are still given, by their variable, with what took their place."""
    try:
        in_file = tomllib.loads(_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        in_file = {}  # a file that cannot be read is refused by ``load_settings``
    variables = {name: f"WARDEN_{name.upper()}" for name in REMOVED}
    return {variables[name]: REMOVED[name] for name in REMOVED if variables[name] in os.environ or name in in_file}


def load_settings(**overrides: object) -> Settings:
    """Read the settings.

    Raises:
        ConfigurationError: a value is missing, unknown or cannot be meant; names the setting.
    """
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as exc:
        first = exc.errors()[0]
        if not first["loc"]:  # of several settings together, whose values are not to be shown
            raise ConfigurationError(setting="WARDEN_PROXY_USER_HEADER", value="…", detail=first["msg"]) from exc
        name = "WARDEN_" + "_".join(str(part) for part in first["loc"]).upper()
        raise ConfigurationError(setting=name, value=str(first.get("input")), detail=first["msg"]) from exc
    except (OSError, ValueError) as exc:
        raise ConfigurationError(
            setting=CONFIG_VARIABLE, value=os.environ.get(CONFIG_VARIABLE, ""), detail=str(exc)
        ) from exc
