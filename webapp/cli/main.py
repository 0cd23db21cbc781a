"""The ``warden`` command: runs Warden, queries and tests a running one, unloads remaining models, lists the
settings."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from webapp import __version__
from webapp.cli import NotRun, Refusal
from webapp.cli.people import tokens, users
from webapp.console import explain, page_url
from webapp.domain.modes import Mode
from webapp.domain.units import GIB
from webapp.errors import AlreadyRunning, WardenError
from webapp.settings import (
    CONFIG_VARIABLE,
    DEFAULT_CONFIG,
    GROUPS,
    NAMES,
    Settings,
    field_of,
    load_settings,
    meaning_of,
    variable,
)

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from webapp.cli.client import Client
    from webapp.cli.estimate import Estimate
    from webapp.schema import CheckDocument, InstanceDocument, OperationDocument, StatusDocument

SELFTEST_POLL_S = 0.3
UNKNOWN = "n/a"
SECRET_SETTINGS = frozenset({"database_url"})
"""Settings that may contain a password; their values are not printed."""


class CommandGroup(click.Group):
    """A group of commands that reports Warden's errors as a sentence, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except WardenError as exc:
            raise Refusal(explain(exc)) from exc


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="warden")
def main() -> None:
    """Warden: the GPU memory of a shared lab server, under control."""


@main.command()
def run() -> None:
    """Start Warden and serve its page until it is stopped (Ctrl+C)."""
    settings = load_settings()
    configuration = Path(__file__).parents[1] / "server" / "gunicorn_conf.py"
    # The server changes to the program's folder, so relative paths are resolved before.
    os.environ |= {
        "WARDEN_STATE_DIR": str(settings.storage.state_dir),
        "WARDEN_HF_CACHE": str(settings.models.hf_cache),
    }
    if file := os.environ.get(CONFIG_VARIABLE):
        os.environ[CONFIG_VARIABLE] = str(Path(file).absolute())
    # -P: a folder named gunicorn or webapp in the current directory must not be imported instead.
    command = [sys.executable, "-P", "-m", "gunicorn", "-c", str(configuration)]
    os.execv(sys.executable, command)  # noqa: S606  no part of it comes from outside  # nosec B606


@main.command()
def status() -> None:
    """Show the memory and the models of the running Warden."""
    from webapp.cli.client import connected  # noqa: PLC0415  0.4 s that no other command needs

    settings = load_settings()
    with connected(page_url(settings.server.bind, settings.server.port)) as client:
        _print_status(client.status())


@main.command()
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def end(yes: bool) -> None:
    """Unload the models that stayed loaded when Warden was stopped."""
    settings = load_settings()
    if not yes:
        click.confirm(f"End every model that Warden started from {settings.storage.state_dir}?", abort=True)
    from webapp.services import build_services  # noqa: PLC0415  takes half a second, and other commands do not need it

    try:
        lines = build_services(settings).end_everything()
    except AlreadyRunning as exc:
        url = page_url(settings.server.bind, settings.server.port)
        raise Refusal(f"Warden is running: unload its models on the page, {url}") from exc
    for line in lines:
        click.echo(line)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print the operation as JSON, nothing else.")
@click.pass_context
def selftest(ctx: click.Context, as_json: bool) -> None:
    """Check with a tiny model that everything works; loaded models stay as they are.

    Uses the running Warden, or runs alone if there is none. Exit code 0: nothing failed; 1: something failed; 2: it
    could not be run.
    """
    try:
        settings = load_settings()
        with _warden_to_test(settings, quiet=as_json) as client:
            operation = _follow(client, client.begin_selftest(), quiet=as_json)
    except WardenError as exc:
        raise NotRun(explain(exc)) from exc
    except Refusal as exc:
        raise NotRun(exc.message) from exc
    if as_json:
        click.echo(operation.model_dump_json(indent=2))
    else:
        click.echo(operation.state if operation.outcome is None else operation.outcome.text)
        if operation.findings:
            _print_list("Also", (finding.message.text for finding in operation.findings))
    ctx.exit(_exit_code(operation))


@main.command()
@click.argument("model_or_folder")
@click.option(
    "--mode", type=click.Choice([mode.value for mode in Mode], case_sensitive=False), default=Mode.TRANSFORMERS.value
)
@click.option(
    "--max-tokens", type=click.IntRange(1, 2**40), default=2048, help="Prompt and output of one request together."
)
@click.option("--batch", type=click.IntRange(1, 2**20), default=1, help="Requests at once.")
@click.option("--prompt-tokens", type=click.IntRange(1), help="Tokens of the prompt. Default: all of --max-tokens.")
@click.option("--dtype", default="auto", help="auto, float16, bfloat16 or float32.")
@click.option("--quantization", default="none", help="none, int8 or int4 (bitsandbytes), or fp8 (vLLM).")
@click.option("--devices", type=click.IntRange(1, 1024), default=1, help="Number of GPUs that share the model.")
@click.option("--device-memory", type=float, help="GiB of one GPU; vLLM's own limits follow from it.")
@click.option("--device-name", default="", help="The GPU's name; an A100 has smaller limits.")
@click.option("--cpu", is_flag=True, help="In the host's RAM instead of a GPU.")
@click.option("--vllm-version", help="For example 0.19.0. Default: the newest that is known.")
@click.option(
    "--max-num-seqs",
    type=click.IntRange(1),
    help="Requests that vLLM warms up for. Default: vLLM's own, at least --batch.",
)
@click.option("--kv-cache-dtype", type=click.Choice(["auto", "fp8"]), default="auto")
@click.option("--json", "as_json", is_flag=True, help="Print the estimate as JSON, in bytes, nothing else.")
def estimate(**asked: Any) -> None:
    """Estimate the memory that a model will take, part by part and device by device.

    MODEL_OR_FOLDER is a cached model (owner/name) or a folder with a config.json and safetensors files; their headers
    are enough. Exit code 2: no estimate is possible.
    """
    from webapp.cli import estimate  # noqa: PLC0415  only this command needs the catalogue

    try:
        made = estimate.make(estimate.EstimateRequest(**asked))
    except (estimate.CannotEstimate, WardenError) as exc:
        raise NotRun(str(exc) if isinstance(exc, estimate.CannotEstimate) else explain(exc)) from exc
    if asked["as_json"]:
        click.echo(json.dumps(made.document, indent=2))
    else:
        _print_estimate(made)


def _print_estimate(made: Estimate) -> None:
    console, table = _table(made.title, *(f"{row.device_id}" for row in made.footprints), "Source", "Confidence")
    for number, part in enumerate(made.footprints[0].parts):
        sizes = (_gib(row.parts[number].bytes) for row in made.footprints)
        table.add_row(part.name.value, *sizes, part.source.value, part.confidence.value)
    peaks = (
        ("at its peak", [row.total_bytes for row in made.footprints]),
        ("while it loads", [row.load_peak_bytes for row in made.footprints]),
    )
    for title, sums in peaks:
        table.add_row(title, *map(_gib, sums), "", "", style="bold")
    console.print(table)
    click.echo(f"Confidence: {made.document['confidence']}")
    _print_list("Notes", made.document["notes"])


ENDED_EARLY = frozenset({"cancelled", "abandoned"})
SIGNS: Mapping[str, str] = {"ok": "✅", "warning": "⚠️", "failed": "❌", "skipped": "➖"}


def _exit_code(operation: OperationDocument) -> int:
    if operation.state in ENDED_EARLY or not operation.checks:
        return NotRun.exit_code
    return int(operation.state == "failed" or any(check.mark == "failed" for check in operation.checks))


@contextmanager
def _warden_to_test(settings: Settings, *, quiet: bool) -> Iterator[Client]:
    """Yield a client of the running Warden or, if there is none, of one in this process that serves nobody else."""
    from webapp.cli.client import connected, in_process, is_served  # noqa: PLC0415

    url = page_url(settings.server.bind, settings.server.port)
    say = (lambda line: None) if quiet else click.echo
    if is_served(url):
        say(f"Asking the Warden at {url}.")
        with connected(url) as client:
            yield client
        return
    from webapp import create_app  # noqa: PLC0415
    from webapp.services import services_beside  # noqa: PLC0415

    say(f"No Warden answers at {url}: the self-test runs without one.")
    with services_beside(settings) as (services, loaded):
        if loaded:
            say(f"Models that stayed loaded, and stay: {', '.join(loaded)}.")
        with in_process(create_app(services.settings, services)) as client:
            yield client


def _follow(client: Client, operation_id: str, *, quiet: bool) -> OperationDocument:
    """Wait for the end of the self-test and show its checks as they finish; Ctrl+C cancels it."""
    from rich.console import Console  # noqa: PLC0415
    from rich.live import Live  # noqa: PLC0415

    console = Console(markup=False, quiet=quiet)
    pause, shown = threading.Event(), 0
    try:
        with Live(console=console, auto_refresh=False) if console.is_terminal else nullcontext() as live:
            while True:
                operation = client.operation(operation_id)
                if live is not None:
                    live.update(_checks_table(operation), refresh=True)
                elif not quiet:
                    for check in operation.checks[shown:]:
                        click.echo(_check_line(check))
                shown = len(operation.checks)
                if operation.state != "running":
                    return operation
                pause.wait(SELFTEST_POLL_S)
    except KeyboardInterrupt:
        client.cancel(operation_id)
        raise NotRun("cancelled") from None


def _checks_table(operation: OperationDocument) -> Any:
    from rich.table import Table  # noqa: PLC0415

    table = Table("", "Check", "What was seen", "Time")
    for check in operation.checks:
        table.add_row(SIGNS[check.mark], check.title, _seen(check, "\n"), f"{check.seconds:.2f} s")
    if operation.state == "running":
        table.add_row("⏳", "", "…", "")
    return table


def _check_line(check: CheckDocument) -> str:
    return f"{check.mark:<8} {check.title} ({check.seconds:.2f} s): {_seen(check, ' ')}"


def _seen(check: CheckDocument, joint: str) -> str:
    seen = "" if check.seen is None else check.seen.text
    return seen + (f"{joint}→ {check.advice.text}" if check.advice else "")


@main.command("settings")
@click.option("--markdown", is_flag=True, help="As a Markdown table, with the defaults instead of the values.")
def show_settings(markdown: bool) -> None:
    """List every setting with its type, default, meaning and current value."""
    if markdown:
        click.echo(settings_markdown())
        return
    _print_settings(load_settings())


def settings_markdown() -> str:
    """Return the settings as Markdown, a table for each group, the same on every machine."""
    head = "| Setting | Type | Default | Meaning |\n| --- | --- | --- | --- |"
    return "\n\n".join(
        "\n".join((f"## {(group.__doc__ or name).rstrip('.')}\n\n{head}", *_rows_of(name)))
        for name, group in GROUPS.items()
    )


def _rows_of(group: str) -> Iterator[str]:
    for name in (name for name, (own, _) in NAMES.items() if own == group):
        field = field_of(name)
        yield f"| `{variable(name)}` | {_type_of(field)} | {_default_of(name, field)} | {meaning_of(name)} |"


MACHINE_DEFAULTS: Mapping[str, str] = {
    "state_dir": "`$XDG_STATE_HOME/warden` (`~/.local/state/warden`)",
    "hf_cache": "where huggingface_hub looks (`~/.cache/huggingface/hub`)",
    "worker_command": "`python -m webapp.worker`",
}
"""Descriptions of the defaults that differ between machines."""


def _default_of(name: str, field: FieldInfo) -> str:
    if name in MACHINE_DEFAULTS:
        return MACHINE_DEFAULTS[name]
    if field.default is None:
        return "none"
    return f"`{text}`" if (text := _text(field.default)) else "empty"


def _type_of(field: FieldInfo) -> str:
    """Return a setting's type for people: ``whole number``, ``ru, en``."""
    members = [each for each in get_args(field.annotation) or (field.annotation,) if each is not type(None)]
    if all(isinstance(each, str) for each in members):
        return ", ".join(members)
    words = {bool: "yes or no", int: "whole number", float: "number", str: "text", Path: "path", Ellipsis: ""}
    named = words.get(members[0], "text")
    return f"list of {named} (JSON)" if Ellipsis in members else named


def _text(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _print_settings(settings: Settings) -> None:
    console, table = _table("Setting", "Value", "Default", "Meaning")
    for name in NAMES:
        field, value = field_of(name), settings.value(name)
        default = field.get_default(call_default_factory=True, validated_data={})
        shown = "(set)" if name in SECRET_SETTINGS and value else _text(value)
        style = None if value == default else "bold"
        table.add_row(variable(name), shown, _text(default), f"{meaning_of(name)} [{_type_of(field)}]", style=style)
    console.print(table)
    console.print(
        f"From the environment, then from {os.environ.get(CONFIG_VARIABLE) or DEFAULT_CONFIG} ({CONFIG_VARIABLE})."
    )


def _print_status(status: StatusDocument) -> None:
    console, table = _table("Device", "Total", "Used", "Free", "Level")
    for device in status.devices:
        sizes = map(_gib, (device.total_bytes, device.used_bytes, device.free_bytes))
        table.add_row(f"{device.id} {device.name or ''}".strip(), *sizes, device.level or UNKNOWN)
    console.print(table)
    _print_list("Loaded models", map(_instance_line, status.instances))
    _print_list("Operations", (f"{each.kind} by {each.actor} since {each.started_at}" for each in status.operations))


def _instance_line(instance: InstanceDocument) -> str:
    held, where = instance.measured_bytes or instance.predicted_bytes, ", ".join(instance.devices)
    return f"{instance.model} ({instance.mode}, {instance.state}): {_gib(held)} on {where}, owner: {instance.owner}"


def _print_list(title: str, lines: Iterable[str]) -> None:
    shown = list(lines)
    click.echo(f"{title}:" if shown else f"{title}: none")
    for line in shown:
        click.echo(f"  {line}")


def _gib(size: int | None) -> str:
    return UNKNOWN if size is None else f"{size / GIB:.2f} GiB"


def _table(*columns: str) -> tuple[Any, Any]:
    """Return rich's console and an empty table."""
    from rich.console import Console  # noqa: PLC0415  takes 0.1 s, and only tables need it
    from rich.table import Table  # noqa: PLC0415

    table = Table(*columns)
    table.columns[0].no_wrap = True
    return Console(markup=False), table


main.add_command(users)
main.add_command(tokens)

if __name__ == "__main__":
    main()
