"""``warden users`` and ``warden tokens``: accounts from the machine's terminal, even while Warden is running.

The commands require no sign-in: everybody who may write the state folder may use them. Each command prints which
database it uses and refuses one that Warden has never run with, since a user other than the service's has an empty
state folder.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import click

from webapp.console import page_url, sentence
from webapp.domain.audit import (
    Action,
    AuditActor,
    AuditChannel,
    AuditEntry,
    Detail,
    Details,
    Kind,
    Result,
    Target,
    short,
)
from webapp.domain.people import ApiToken, Person, Role
from webapp.errors import StoreUnavailable, WardenError
from webapp.settings import Settings, load_settings

if TYPE_CHECKING:
    from webapp.auth.accounts import Accounts
    from webapp.services import AccountsLocation

DAY_S: Final = 86_400.0
role_choice = click.Choice([role.value for role in Role])
as_json_option = click.option("--json", "as_json", is_flag=True, help="Print a JSON list, nothing else.")
from_stdin_option = click.option(
    "--password-stdin", is_flag=True, help="Read the password from the first line of standard input."
)
new_option = click.option("--new", is_flag=True, help="Also if no Warden has run yet: a new installation.")

NOWHERE: Final = """no Warden has ever run with the state folder {folder} and the database {database}: the command did nothing.{elsewhere}
Name the state folder of the service, or run the command as the user of the service:
  WARDEN_STATE_DIR=/path/to/the/folder {command} …
  sudo -u USER {command} …
If the service sets WARDEN_DATABASE_URL or WARDEN_CONFIG, set it here too. For a new installation, before its first start, add --new."""
OTHER_DATABASE: Final = """the Warden of the state folder {folder} uses the database {used}, not {database}: the command did nothing.
Set WARDEN_DATABASE_URL or WARDEN_CONFIG as the service does. For a new database, before its first start, add --new."""
ELSEWHERE: Final = "\nA Warden answers at {url}; its state folder is another one."
ELSEWHERE_TIMEOUT_S: Final = 1.0


@contextmanager
def _accounts(*, new: bool) -> Iterator[Accounts]:
    """Yield the accounts for reading, and print which database they are in."""
    from webapp.services import open_accounts  # noqa: PLC0415  takes half a second, and other commands do not need it

    try:
        settings = load_settings()
        _say_where(settings, new=new)
        with open_accounts(settings) as accounts:
            yield accounts
    except WardenError as exc:
        raise click.ClickException(sentence(exc)) from exc


@contextmanager
def _act(
    action: Action, target: Callable[[Accounts], Target], *further: tuple[Detail, str], new: bool
) -> Iterator[Accounts]:
    """Yield the accounts for one action and record it in the audit trail: actor, action, target and result."""
    from webapp.services import open_people  # noqa: PLC0415  as above

    try:
        settings = load_settings()
        _say_where(settings, new=new)
        with open_people(settings) as (accounts, audit):
            found, details = target(accounts), (*_before(action, accounts, target), *further)
            try:
                yield accounts
            except WardenError as exc:
                result = Result.FAILED if isinstance(exc, StoreUnavailable) else Result.REFUSED
                audit.record(_entry(action, found, details, result, exc.code))
                raise
            audit.record(_entry(action, found if found.id else target(accounts), details))
    except WardenError as exc:
        raise click.ClickException(sentence(exc)) from exc


def _say_where(settings: Settings, *, new: bool) -> None:
    """Print which database is used and whether a Warden is running with it, before anything is written.

    Raises:
        StoreUnavailable, ConfigurationError
        ClickException: Warden has never run with the database, and it is not ``new``. An account in the wrong database
            would leave the running page as open as before.
    """
    from webapp.services import place_of  # noqa: PLC0415  as above

    place = place_of(settings)
    if not place.is_known and not new:
        raise click.ClickException(_nowhere(place, settings))
    if place.is_running is None:
        state = "a Warden has used it; this state folder does not show whether one is running"
    elif place.is_running:
        state = f"Warden is running (process {place.pid})"
    else:
        state = "Warden is not running" if place.is_known else "no Warden has ever run here"
    click.echo(f"State folder {place.state_dir}, database {place.database}: {state}.", err=True)


def _nowhere(place: AccountsLocation, settings: Settings) -> str:
    if place.other_database:
        return OTHER_DATABASE.format(folder=place.state_dir, used=place.other_database, database=place.database)
    url = page_url(settings.server.bind, settings.server.port)
    return NOWHERE.format(
        folder=place.state_dir,
        database=place.database,
        elsewhere=ELSEWHERE.format(url=url) if _answers(url) else "",
        command=click.get_current_context().command_path,
    )


def _answers(url: str) -> bool:
    """Return whether a Warden answers at ``url``."""
    import httpx  # noqa: PLC0415  takes 0.2 s, and only a refusal needs it

    try:
        return "monitor_age_s" in httpx.get(f"{url}/healthz", timeout=ELSEWHERE_TIMEOUT_S, trust_env=False).json()
    except (httpx.HTTPError, ValueError, TypeError):
        return False


def _before(action: Action, accounts: Accounts, target: Callable[[Accounts], Target]) -> Details:
    """Return the person's previous role if the action changes or removes it."""
    if action not in (Action.ROLE, Action.REMOVED):
        return ()
    wanted = target(accounts).id
    return tuple((Detail.ROLE_BEFORE, each.role.value) for each in accounts.people() if each.id == wanted)


def _entry(
    action: Action, target: Target, details: Details, result: Result = Result.DONE, problem: str | None = None
) -> AuditEntry:
    from webapp.auth.accounts import local_name  # noqa: PLC0415  as above

    return AuditEntry(
        time.time(), AuditActor(local_name(), AuditChannel.COMMAND_LINE), action, target, result, "", problem, details
    )


def _person(name: str) -> Callable[[Accounts], Target]:
    """Return a function that names the account of ``name``, or only the name if there is no such account."""

    def find(accounts: Accounts) -> Target:
        found = next((each for each in accounts.people() if each.name.lower() == name.lower()), None)
        return Target(Kind.PERSON, name=short(name)) if found is None else Target(Kind.PERSON, found.id, found.name)

    return find


def _token(token_id: str) -> Callable[[Accounts], Target]:
    def find(accounts: Accounts) -> Target:
        label = next((each.name for each in accounts.tokens() if each.id == token_id), "")
        return Target(Kind.TOKEN, short(token_id), label)

    return find


def _password(name: str, from_stdin: bool) -> str:
    """Ask for a password twice, without showing it."""
    if from_stdin:
        return sys.stdin.readline().rstrip("\n")
    asked: str = click.prompt(f"Password of {name}", hide_input=True, confirmation_prompt="Once more", err=True)
    return asked


@click.group()
def users() -> None:
    """Accounts: who may sign in, and with which role."""


@users.command("add")
@click.argument("name")
@click.option("--role", type=role_choice, default=Role.VIEWER.value, show_default=True)
@click.option("--proxied", is_flag=True, help="Without a password: the person signs in through a trusted proxy only.")
@from_stdin_option
@new_option
def add_user(name: str, role: str, proxied: bool, password_stdin: bool, new: bool) -> None:
    """Create an account. Once there is an administrator, everybody has to sign in."""
    with _act(Action.PERSON_MADE, _person(name), (Detail.ROLE, role), new=new) as accounts:
        accounts.check_new(name, at_the_machine=True)
        password = None if proxied else _password(name, password_stdin)
        person = accounts.add(name, Role(role), password)
    click.echo(f"{person.name} is {person.role}.")


@users.command("list")
@as_json_option
@new_option
def list_users(as_json: bool, new: bool) -> None:
    """List all accounts."""
    with _accounts(new=new) as accounts:
        people = accounts.people()
    if as_json:
        click.echo(json.dumps([_user_document(person) for person in people], indent=2))
        return
    rows = [
        (
            p.name,
            p.role.value,
            "disabled" if p.disabled else "",
            _shown(p.seen_at),
            "" if p.has_password else "by proxy",
        )
        for p in people
    ]
    _print_table(("Name", "Role", "", "Last seen", ""), rows)


@users.command("role")
@click.argument("name")
@click.argument("role", type=role_choice)
@new_option
def change_role(name: str, role: str, new: bool) -> None:
    """Change a role; it applies from the next request on."""
    with _act(Action.ROLE, _person(name), (Detail.ROLE, role), new=new) as accounts:
        accounts.set_role(name, Role(role))
    click.echo(f"{name} is {role}.")


@users.command("disable")
@click.argument("name")
@new_option
def disable_user(name: str, new: bool) -> None:
    """Disable an account: its sessions end and its tokens stop working."""
    with _act(Action.DISABLED, _person(name), new=new) as accounts:
        accounts.set_disabled(name, True)
    click.echo(f"{name} is disabled.")


@users.command("enable")
@click.argument("name")
@new_option
def enable_user(name: str, new: bool) -> None:
    """Enable an account again."""
    with _act(Action.ENABLED, _person(name), new=new) as accounts:
        accounts.set_disabled(name, False)
    click.echo(f"{name} is enabled.")


@users.command("password")
@click.argument("name")
@from_stdin_option
@new_option
def new_password(name: str, password_stdin: bool, new: bool) -> None:
    """Set a new password; all sessions of the person end."""
    with _act(Action.PASSWORD, _person(name), new=new) as accounts:
        person = accounts.person(name)
        accounts.set_password(name, _password(person.name, password_stdin))
    click.echo(f"The password of {person.name} is changed, all sessions have ended.")


@users.command("remove")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@new_option
def remove_user(name: str, yes: bool, new: bool) -> None:
    """Remove an account with its sessions, tokens and open invitations; its operations stay in the history.

    An account without a password is disabled instead: the proxy would recreate it with the person's next request.
    """
    with _act(Action.REMOVED, _person(name), new=new) as accounts:
        person = accounts.person(name)
        if not yes:
            click.confirm(f"Remove {person.name} ({person.role})?", abort=True)
        gone = accounts.remove(name)
    kept = "has lost its tokens and is disabled, not removed: the proxy would create it again"
    click.echo(f"{person.name} is removed." if gone else f"{person.name} {kept}.")


@click.group()
def tokens() -> None:
    """API tokens for programs."""


@tokens.command("add")
@click.argument("owner")
@click.argument("label")
@click.option(
    "--scope", type=role_choice, default=Role.VIEWER.value, show_default=True, help="At most the owner's role."
)
@click.option("--days", type=click.IntRange(1, 3650), help="Days until it expires. Default: it does not expire.")
@new_option
def add_token(owner: str, label: str, scope: str, days: int | None, new: bool) -> None:
    """Create a token for OWNER and print it, this once: only its hash is stored."""
    token = Target(Kind.TOKEN, name=short(label))
    further = ((Detail.OWNER, short(owner)), (Detail.SCOPE, scope), (Detail.DAYS, str(days or 0)))
    with _act(Action.TOKEN_MADE, lambda accounts: token, *further, new=new) as accounts:
        key = accounts.add_token(accounts.person(owner), label, Role(scope), None if days is None else days * DAY_S)
    click.echo("Save it now; it is not shown again:", err=True)
    click.echo(key)


@tokens.command("list")
@as_json_option
@new_option
def list_tokens(as_json: bool, new: bool) -> None:
    """List all tokens, without their secrets."""
    with _accounts(new=new) as accounts:
        names = {person.id: person.name for person in accounts.people()}
        found = accounts.tokens()
    if as_json:
        click.echo(json.dumps([_token_document(token, names) for token in found], indent=2))
        return
    rows = [
        (t.id, names.get(t.person_id, ""), t.name, t.scope.value, _shown(t.used_at), _shown(t.expires_at) or "never")
        for t in found
    ]
    _print_table(("Id", "Owner", "Label", "Scope", "Last use", "Until"), rows)


@tokens.command("revoke")
@click.argument("token_id")
@new_option
def revoke_token(token_id: str, new: bool) -> None:
    """Revoke a token by its id."""
    with _act(Action.TOKEN_REVOKED, _token(token_id), new=new) as accounts:
        accounts.drop_token(token_id)
    click.echo(f"The token {token_id} is revoked.")


def _user_document(person: Person) -> Mapping[str, object]:
    return {
        "name": person.name,
        "role": person.role.value,
        "disabled": person.disabled,
        "has_password": person.has_password,
        "created_at": _when(person.created_at),
        "seen_at": _when(person.seen_at),
    }


def _token_document(token: ApiToken, names: Mapping[str, str]) -> Mapping[str, object]:
    return {
        "id": token.id,
        "owner": names.get(token.person_id),
        "label": token.name,
        "scope": token.scope.value,
        "created_at": _when(token.created_at),
        "used_at": _when(token.used_at),
        "expires_at": _when(token.expires_at),
    }


def _when(epoch_s: float | None) -> str | None:
    return None if epoch_s is None else datetime.fromtimestamp(epoch_s, UTC).isoformat(timespec="seconds")


def _shown(epoch_s: float | None) -> str:
    return "" if epoch_s is None else datetime.fromtimestamp(epoch_s).strftime("%Y-%m-%d %H:%M")


def _print_table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    from rich.console import Console  # noqa: PLC0415  takes 0.1 s, and only tables need it
    from rich.table import Table  # noqa: PLC0415

    table = Table(*columns)
    for row in rows:
        table.add_row(*row)
    Console(markup=False).print(table)
