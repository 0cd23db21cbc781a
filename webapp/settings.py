"""Every setting of Warden: name, type, default and help, in groups, read from ``WARDEN_*`` and a TOML file.

A component takes the group that it needs. In the environment and in the file the names are flat: ``WARDEN_VLLM_IMAGE``
and ``vllm_image`` are ``settings.vllm.image``.
"""

from __future__ import annotations

import ast
import inspect
import ipaddress
import json
import os
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import ClassVar, Final, Literal, Self
from urllib.parse import quote, unquote

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo

from webapp.domain.units import GIB
from webapp.errors import ConfigurationError

PREFIX: Final = "WARDEN_"
CONFIG_VARIABLE: Final = "WARDEN_CONFIG"
OTHER_VARIABLES: Final = frozenset({CONFIG_VARIABLE, "WARDEN_TOKEN"})
"""Warden's variables that are not settings."""
DEFAULT_CONFIG = Path("/etc/warden.toml")
MODEL_PLACEHOLDER = "{model}"
"""The placeholder in ``vllm_entrypoint`` for the model's folder."""
WORKER_COMMAND: Final = f"{shlex.quote(sys.executable)} -m webapp.worker"
FIRST_FREE_PORT, LAST_PORT = 1024, 65535
"""The ports that a program may use without privileges."""
REMOVED: Final[Mapping[str, str]] = {
    "prewarm": "every worker is now forked from a launcher that has imported the libraries; remove the setting",
}
"""Settings of earlier versions and their replacements; a start reports one that is still given, and ignores it."""
RENAMED: Final[Mapping[str, str]] = {
    "ticket_limit": "queue_limit",
    "ticket_hold_s": "queue_hold_s",
    "ticket_wait_h": "queue_wait_hours",
}
"""Earlier names of settings; they still work, and a start reports them."""
RELATIVE_FILE: Final = re.compile(r"^sqlite(\+\w+)?:///(?=[^/:?])(?!file:)")


def _default_state_dir() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "warden"


def _default_hf_cache() -> Path:
    """Return the folder that huggingface_hub uses, by its own rules, without importing it."""
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
    """Return whether only this machine's own users can reach ``address``."""
    return address == "localhost" or ipaddress.ip_address(address).is_loopback


def sqlite_url(file: Path) -> str:
    """Return the SQLAlchemy URL of an SQLite file; an unquoted ``%`` or ``?`` in the path would name another file."""
    return f"sqlite:///{quote(str(file))}"


class Group(BaseModel):
    """Settings of one subject. A frozen value, so nothing changes it while Warden runs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prefix: ClassVar[str] = ""
    """Precedes the names of the fields in the environment and in the file."""


class StorageSettings(Group):
    """Where Warden stores its data, and for how long."""

    state_dir: Path = Field(default_factory=_default_state_dir)
    """Folder for the database, worker sockets, logs and secrets."""
    database_url: str | None = None
    """SQLAlchemy URL; SQLite in the state folder if empty. A relative SQLite file is in the state folder, too."""
    audit_days: float = Field(365.0, gt=0)
    """How long audit entries are kept."""
    operation_days: float = Field(365.0, gt=0)
    """How long operations are kept in the history."""

    @field_validator("state_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @property
    def database(self) -> str:
        """The SQLAlchemy URL in force; a relative SQLite file is in the state folder, wherever Warden is started."""
        if not self.database_url:
            return sqlite_url(self.state_dir / "warden.db")
        return RELATIVE_FILE.sub(lambda found: f"{found[0]}{quote(str(self.state_dir))}/", self.database_url)

    @property
    def database_left_behind(self) -> Path | None:
        """The relative SQLite file where earlier versions looked for it, if it is there and not in the state folder."""
        url = self.database_url or ""
        if (found := RELATIVE_FILE.match(url)) is None:
            return None
        file = Path(unquote(url[found.end() :].partition("?")[0]))
        return file.absolute() if file.is_file() and not (self.state_dir / file).exists() else None


class ServerSettings(Group):
    """The web process."""

    bind: str = "127.0.0.1"
    """Address to listen on. Only loopback addresses, until there is an administrator or a trusted proxy."""
    port: int = Field(8000, ge=0, le=65535)
    """Port to listen on."""
    threads: int = Field(16, ge=2, le=256)
    """Threads of the web process."""
    trusted_hosts: tuple[str, ...] = ("localhost", "127.0.0.1", "[::1]")
    """Host names that the page accepts; others are refused (DNS rebinding)."""
    page_poll_s: float = Field(2.0, gt=0)
    """How often an open page polls."""
    default_language: Literal["ru", "en"] = "ru"
    """Language if the browser asks for neither Russian nor English."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """How much Warden logs."""

    @field_validator("bind")
    @classmethod
    def _address(cls, value: str) -> str:
        if value != "localhost":
            ipaddress.ip_address(value)
        return value

    @property
    def is_local(self) -> bool:
        """Whether only this machine's own users can reach the page."""
        return is_local(self.bind)


class AuthSettings(Group):
    """Who may sign in, and how."""

    session_idle_hours: float = Field(12.0, gt=0)
    """A session ends after this long without use; an open page that only polls does not count…"""
    session_hours: float = Field(168.0, gt=0)
    """…and in any case after this long."""
    sign_in_failures: int = Field(10, ge=1)
    """Failed sign-ins for one name within 15 minutes before a pause; after three times as many from one address, a name
    may fail a third as often from there."""
    proxy_user_header: str | None = None
    """Header in which a trusted proxy names the person, such as X-Forwarded-User."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses and networks of the trusted proxies; the header from elsewhere is ignored."""
    proxy_default_role: Literal["none", "viewer", "operator", "administrator"] = "viewer"
    """Role of a person whom the proxy names for the first time; “none” admits only known people."""

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

    @property
    def has_proxy(self) -> bool:
        """Whether a trusted proxy names the senders of requests."""
        return self.proxy_user_header is not None


class ModelSettings(Group):
    """The cached models, and which of them may be loaded."""

    hf_cache: Path = Field(default_factory=_default_hf_cache)
    """The Hugging Face cache that holds the models."""
    cache_poll_s: float = Field(2.0, gt=0)
    """How often the cache is checked for changes."""
    allow_pickle: bool = False
    """Load pickle weights, which can run code."""
    allow_remote_code: bool = False
    """Run code from a model's repository."""

    @field_validator("hf_cache")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()


class AdmissionSettings(Group):
    """Which launches fit."""

    memory_limit_gib: float | None = Field(None, gt=0)
    """Limit of the memory that Warden's own models may hold on a device, in GiB."""
    reserve_mib: int = Field(512, ge=0)
    """Safety reserve on a device, at least this many MiB…"""
    reserve_percent: float = Field(5.0, ge=0, lt=100)
    """…or this share of the device, whichever is more."""
    fits_percent: float = Field(80.0, gt=0, le=100)
    """A launch “fits” up to this share of the free memory; above it, it is “tight”."""

    @property
    def memory_limit_bytes(self) -> int | None:
        """The limit on a device for Warden's own instances, in bytes."""
        return None if self.memory_limit_gib is None else round(self.memory_limit_gib * GIB)


class MonitorSettings(Group):
    """How the devices are read."""

    reading_interval_s: float = Field(1.0, gt=0)
    """How often the devices are read."""
    busy_reading_interval_s: float = Field(0.25, gt=0)
    """How often the devices are read while an operation runs."""
    stale_after_s: float = Field(10.0, gt=0)
    """A reading older than this is marked stale and is not used for decisions."""
    history_minutes: float = Field(10.0, gt=0)
    """Time span of the small chart on a card."""


class SettleSettings(Group):
    """How long an unload waits for the memory to be freed."""

    prefix: ClassVar[str] = "settle_"

    poll_s: float = Field(0.25, gt=0)
    """How often the device is read while its memory is being freed."""
    percent: float = Field(75.0, gt=0, le=100)
    """Share of the expected memory that must be freed."""
    warn_s: float = Field(5.0, gt=0)
    """After this time the wait is reported as slow."""
    deadline_s: float = Field(30.0, gt=0)
    """After this time the memory counts as not freed."""


class LaunchSettings(Group):
    """How a model is started."""

    launcher: Literal["start", "demand", "off"] = "start"
    """When the libraries that all Transformers workers share are imported: when Warden starts, for the first model, or
    in every worker separately. Not used with a custom WARDEN_WORKER_COMMAND."""
    worker_command: str = WORKER_COMMAND
    """The program that runs a Transformers model."""
    launch_stall_s: float = Field(300.0, gt=0)
    """A launch without any activity for this long counts as stalled."""
    launch_deadline_s: float = Field(3600.0, gt=0)
    """Limit of the total time of a launch."""
    cooldown_s: float = Field(10.0, ge=0)
    """Pause before a model that failed to load can be tried again; doubles with each failure…"""
    cooldown_max_s: float = Field(300.0, ge=0)
    """…up to this."""
    log_lines: int = Field(1000, ge=10)
    """Lines of a model's log that are kept for the page."""

    def pause_s(self, failures: int) -> float:
        """Return the pause after so many failed launches of a model in a row."""
        return min(self.cooldown_s * 2.0 ** (failures - 1), self.cooldown_max_s)

    @property
    def forks_workers(self) -> bool:
        """Whether workers are forked from a launcher; a custom program cannot be."""
        return self.launcher != "off" and self.worker_command == WORKER_COMMAND


class WorkerSettings(Group):
    """How long a Transformers worker may take to stop."""

    prefix: ClassVar[str] = "worker_"

    ask_s: float = Field(10.0, ge=0)
    """How long a worker may take to stop after it was asked to."""
    term_s: float = Field(5.0, ge=0)
    """…and after SIGTERM."""
    kill_s: float = Field(5.0, ge=0)
    """…and after SIGKILL to its process group."""


class QueueSettings(Group):
    """The launch queue."""

    prefix: ClassVar[str] = "queue_"

    limit: int = Field(8, ge=1, le=100)
    """Length of the launch queue."""
    hold_s: float = Field(600.0, gt=0)
    """How long a queue place is held for a person who was notified that the model fits now."""
    wait_hours: float = Field(24.0, gt=0)
    """A queued launch expires after this many hours."""


class SharingSettings(Group):
    """When a model is unloaded for another person, or because nobody uses it."""

    undo_s: float = Field(10.0, ge=0)
    """How long the unloading of another person's model can still be stopped before it begins; 0: it begins at once."""
    idle_unload_minutes: float = Field(0.0, ge=0)
    """A model that nobody has used for this many minutes is unloaded; 0: never."""
    release_silence_s: float = Field(60.0, gt=0)
    """How long a release request may stay unanswered; after that, an idle model without a lease counts as released."""


class StopSettings(Group):
    """What ends with Warden, and in an emergency."""

    on_stop: Literal["keep", "unload"] = "keep"
    """What stopping Warden does with loaded models."""
    emergency_runtime_s: float = Field(30.0, gt=0)
    """How long an emergency stop waits for one mode before it continues without it."""


class DockerSettings(Group):
    """The Docker engine."""

    prefix: ClassVar[str] = "docker_"

    socket: Path = Path("/var/run/docker.sock")
    """The Docker engine's socket."""
    timeout_s: float = Field(10.0, gt=0)
    """How long Docker may take for one answer."""
    start_timeout_s: float = Field(60.0, gt=0)
    """How long Docker may take to create a container, and to start it."""
    poll_s: float = Field(2.0, gt=0)
    """How often Docker is asked for its containers."""

    @field_validator("socket")
    @classmethod
    def _socket_path(cls, value: Path) -> Path:
        if not value.is_absolute():
            raise ValueError(f"{value} is not the full path of a socket, such as /var/run/docker.sock")
        return value


class VllmSettings(Group):
    """vLLM mode."""

    prefix: ClassVar[str] = "vllm_"

    image: str = "vllm/vllm-openai:latest"
    """Image of vLLM mode."""
    entrypoint: str = ""
    """Program to run in the image instead of the image's own; {model} is replaced by the model's folder, which
    otherwise follows as the first argument."""
    args: str = ""
    """Additional arguments for vLLM, as on a command line."""
    env: tuple[str, ...] = ()
    """Additional environment variables of the containers, NAME=value each."""
    mounts: tuple[str, ...] = ()
    """Additional folders or volumes of the containers, HOST:CONTAINER[:ro] each."""
    cache_volume: str = "warden-vllm-cache"
    """Docker volume for code that vLLM compiles; empty for none."""
    shm_gib: float | None = Field(None, gt=0)
    """Private shared memory of a container, in GiB; the host's is used if empty."""
    ports: str = "8100-8199"
    """Ports on 127.0.0.1 that the containers may use, FIRST-LAST."""
    network: str = "bridge"
    """Docker network of the containers; with “host”, vLLM itself listens on 127.0.0.1."""
    drain_s: float = Field(5.0, ge=0)
    """How long vLLM may continue to answer when it is stopped (its --shutdown-timeout)."""
    term_s: float = Field(30.0, ge=0)
    """How long a container may take to exit after SIGTERM."""
    kill_s: float = Field(10.0, ge=0)
    """…and after SIGKILL, and to be removed."""

    @field_validator("image")
    @classmethod
    def _one_image(cls, value: str) -> str:
        if not value or any(char.isspace() for char in value):
            raise ValueError("give one image, such as vllm/vllm-openai:latest")
        return value

    @field_validator("args", "entrypoint")
    @classmethod
    def _command_line(cls, value: str) -> str:
        try:
            shlex.split(value)
        except ValueError as exc:
            raise ValueError(f"it cannot be read as a command line: {exc}") from exc
        return value

    @field_validator("entrypoint")
    @classmethod
    def _known_placeholder(cls, value: str) -> str:
        unknown = set(re.findall(r"\{[^{}\s]*\}", value)) - {MODEL_PLACEHOLDER}
        if unknown:
            raise ValueError(f"only {MODEL_PLACEHOLDER} is put in, not {', '.join(sorted(unknown))}")
        return value

    @field_validator("env")
    @classmethod
    def _assignments(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            if not re.fullmatch(r"[A-Za-z_]\w*=[^\x00]*", text):
                raise ValueError(f"{text!r} is not NAME=value")
        return value

    @field_validator("mounts")
    @classmethod
    def _bindings(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            if not re.fullmatch(r"(/[^:\x00]*|\w[\w.-]+):/[^:\x00]*(:ro)?", text):
                raise ValueError(
                    f"{text!r} is not HOST:CONTAINER[:ro] with full paths, or a volume's name before the colon"
                )
        return value

    @field_validator("ports")
    @classmethod
    def _port_range(cls, value: str) -> str:
        found = re.fullmatch(r"(\d{1,5})-(\d{1,5})", value)
        if found is None:
            raise ValueError("give FIRST-LAST, such as 8100-8199")
        first, last = int(found[1]), int(found[2])
        if not FIRST_FREE_PORT <= first <= last <= LAST_PORT:
            raise ValueError(f"the ports have to rise and lie within {FIRST_FREE_PORT}-{LAST_PORT}")
        return value


class Settings(BaseModel):
    """All settings. Times are in the unit that ends their name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    storage: StorageSettings = Field(default_factory=StorageSettings)
    server: ServerSettings = ServerSettings()
    auth: AuthSettings = AuthSettings()
    models: ModelSettings = Field(default_factory=ModelSettings)
    admission: AdmissionSettings = AdmissionSettings()
    monitor: MonitorSettings = MonitorSettings()
    settle: SettleSettings = SettleSettings()
    launch: LaunchSettings = LaunchSettings()
    worker: WorkerSettings = WorkerSettings()
    queue: QueueSettings = QueueSettings()
    sharing: SharingSettings = SharingSettings()
    stop: StopSettings = StopSettings()
    docker: DockerSettings = DockerSettings()
    vllm: VllmSettings = VllmSettings()

    def changed(self, **changes: object) -> Self:
        """Return a copy with other values, by the names of ``NAMES``; they are not validated."""
        update = {group: getattr(self, group).model_copy(update=own) for group, own in _by_group(changes).items()}
        return self.model_copy(update=update)

    def value(self, name: str) -> object:
        """Return a setting by its name in the file."""
        group, field = NAMES[name]
        return getattr(getattr(self, group), field)


GROUPS: Final[Mapping[str, type[Group]]] = {name: each.annotation for name, each in Settings.model_fields.items()}  # type: ignore[misc]
NAMES: Final[Mapping[str, tuple[str, str]]] = {
    f"{group.prefix}{field}": (name, field) for name, group in GROUPS.items() for field in group.model_fields
}
"""Every setting by its name in the file: its group and its field there."""


def variable(name: str) -> str:
    """Return the environment variable of the setting ``name``."""
    return f"{PREFIX}{name.upper()}"


def field_of(name: str) -> FieldInfo:
    """Return the declaration of a setting."""
    group, field = NAMES[name]
    return GROUPS[group].model_fields[field]


def meaning_of(name: str) -> str:
    """Return what a setting is for: the docstring below its field, in one line. Only a list of settings needs it."""
    group, field = NAMES[name]
    (declared,) = ast.parse(inspect.getsource(GROUPS[group])).body
    assert isinstance(declared, ast.ClassDef)
    at = next(number for number, each in enumerate(declared.body) if ast.unparse(each).startswith(f"{field}:"))
    return " ".join(ast.literal_eval(ast.unparse(declared.body[at + 1])).split())


def load_settings(**given: object) -> Settings:
    """Read the settings: ``given`` takes precedence over the environment, and that over the file.

    Raises:
        ConfigurationError: a value is missing, unknown or invalid; names the setting.
    """
    values = {**_renamed(_from_file()), **_renamed(_from_environment()), **given}
    if unknown := values.keys() - NAMES.keys() - REMOVED.keys():
        name = min(unknown)
        raise ConfigurationError(
            setting=variable(name), value=str(values[name]), detail=f"no such setting{_meant(name)}"
        )
    known = {name: value for name, value in values.items() if name in NAMES}
    try:
        return Settings.model_validate(_by_group(known))
    except ValidationError as exc:
        first = exc.errors()[0]
        group, *field = (str(part) for part in first["loc"][:2])
        if not field:  # of several settings together, whose values are not to be shown
            raise ConfigurationError(setting="WARDEN_PROXY_USER_HEADER", value="…", detail=first["msg"]) from exc
        name = f"{GROUPS[group].prefix}{field[0]}"
        raise ConfigurationError(setting=variable(name), value=str(first["input"]), detail=first["msg"]) from exc


def setting_notes() -> Iterator[str]:
    """Yield a sentence for each setting that is given under an earlier name, or that does not exist (any longer).

    Raises:
        ConfigurationError: the file cannot be read.
    """
    for name in sorted(_variables().keys() | _from_file().keys()):
        if name in REMOVED:
            yield f"{variable(name)} is no longer a setting and is ignored: {REMOVED[name]}"
        elif name in RENAMED:
            yield f"{variable(name)} is now called {variable(RENAMED[name])}; rename it, a later version ignores it"
        elif name not in NAMES and variable(name) not in OTHER_VARIABLES:
            yield f"{variable(name)} is not a setting and is ignored{_meant(name)}"


def _meant(name: str) -> str:
    likely = get_close_matches(name, NAMES, 1)
    return f"; did you mean {variable(likely[0])}?" if likely else ""


def _by_group(values: Mapping[str, object]) -> dict[str, dict[str, object]]:
    grouped: dict[str, dict[str, object]] = {}
    for name, value in values.items():
        group, field = NAMES[name]
        grouped.setdefault(group, {})[field] = value
    return grouped


def _renamed(values: Mapping[str, object]) -> dict[str, object]:
    """Return the settings by their present names, which take precedence over earlier names."""
    earlier = {RENAMED[name]: value for name, value in values.items() if name in RENAMED}
    return earlier | {name: value for name, value in values.items() if name not in RENAMED}


def _from_environment() -> dict[str, object]:
    return {name: _parsed(name, text) for name, text in _variables().items() if name in NAMES or name in RENAMED}


def _variables() -> dict[str, str]:
    """Return the variables ``WARDEN_…`` by the names of settings; their case has no meaning, but capitals come first."""
    capitals_last = sorted(os.environ.items(), key=lambda each: each[0].isupper())
    given = {name.upper(): text for name, text in capitals_last}
    return {name.removeprefix(PREFIX).lower(): text for name, text in given.items() if name.startswith(PREFIX)}


def _parsed(name: str, text: str) -> object:
    """Return the value of an environment variable: a list is JSON, and any other value is a text, which the field
    converts.
    """
    if isinstance(field_of(RENAMED.get(name, name)).default, tuple):
        with suppress(ValueError):
            return json.loads(text)
    return text


def _from_file() -> dict[str, object]:
    """Return the settings in the file, if there is one; the case of their names has no meaning. Raises ConfigurationError."""
    path = os.environ.get(CONFIG_VARIABLE) or DEFAULT_CONFIG
    try:
        given = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        return {name.lower(): value for name, value in given.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as exc:
        raise ConfigurationError(setting=CONFIG_VARIABLE, value=str(path), detail=str(exc)) from exc
