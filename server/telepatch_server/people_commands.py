"""The commands about people: ``telepatch keys``, ``limits`` and ``usage``. What they run is imported when they run."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from telepatch_protocol.errors import BadArgument, GraphError, NotFound

if TYPE_CHECKING:
    from telepatch_server.desk import Desk

PANEL = "Serve others"
_USAGE = 2

keys = typer.Typer(rich_markup_mode="rich", no_args_is_help=True)
limits = typer.Typer(rich_markup_mode="rich")
usage = typer.Typer(rich_markup_mode="rich")

Name = Annotated[str, typer.Argument(help="Whose.")]
Url = Annotated[
    str | None, typer.Option(help="A gateway, asked with an admin key; else TELEPATCH_URL.", show_default=False)
]
Key = Annotated[str | None, typer.Option(help="The admin key; else TELEPATCH_API_KEY.", show_default=False)]
RedisUrl = Annotated[str | None, typer.Option(help="The queue itself; else TELEPATCH_REDIS_URL.", show_default=False)]
Home = Annotated[
    Path | None,
    typer.Option(help="The folder of telepatch up, running or not; else ~/.local/share/telepatch.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
KeyId = Annotated[
    str | None, typer.Option("--id", help="Which key, by its id, where there are several.", show_default=False)
]


@keys.callback(rich_help_panel=PANEL)
def about_keys() -> None:
    """Make, list, rotate and remove API keys.

    Only hashes are kept, so a lost key cannot be read back: make another. What is done holds at once, on every gateway.

    \b
    [bold]Examples[/bold]
      telepatch keys add alice
      telepatch keys add alice --scope read --expires 90d
      telepatch keys list
      telepatch keys rotate alice --grace 1d
      telepatch keys remove alice
    """


@keys.command("add")
def add_key(
    name: Name,
    scope: Annotated[
        Literal["read", "submit", "admin"],
        typer.Option(help="Look at own jobs; send jobs too; or everything, people included."),
    ] = "submit",
    expires: Annotated[
        str | None, typer.Option(help="How long it is good, such as 12h or 90d.", show_default=False)
    ] = None,
    url: Url = None,
    key: Key = None,
    redis_url: RedisUrl = None,
    home: Home = None,
) -> None:
    """Make a key for a person and print it, this once."""
    with _desk(url, key, redis_url, home) as desk:
        seconds = None if expires is None else _seconds(expires)
        made = desk.ask("POST", "/keys", {"person": name, "scope": scope, "expires_seconds": seconds})
        _print_key(made, desk)


@keys.command("list")
def list_keys(
    name: Annotated[str | None, typer.Argument(help="Whose; everybody's if left out.", show_default=False)] = None,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
    redis_url: RedisUrl = None,
    home: Home = None,
) -> None:
    """Show keys by their ids: whose they are, what they are good for, when they were used last."""
    with _desk(url, key, redis_url, home) as desk:
        found = desk.ask("GET", "/keys", person=name)["keys"]
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    now = time.time()
    rows = []
    for one in found:
        ends = one["expires"]
        state = "" if ends is None else f"{'ended' if ends <= now else 'ends'} {_day(ends)}"
        used = "never" if one["used"] is None else _day(one["used"])
        rows.append((one["person"], one["id"], one["scope"], _day(one["created"]), used, state))
    _table(("person", "id", "scope", "made", "used", ""), rows)


@keys.command("rotate")
def rotate_key(
    name: Name,
    grace: Annotated[
        str, typer.Option(help="How long the old key stays good, such as 1h or 7d; 0 is not at all.")
    ] = "0",
    id: KeyId = None,
    url: Url = None,
    key: Key = None,
    redis_url: RedisUrl = None,
    home: Home = None,
) -> None:
    """Make a new key in the place of a person's, and print it, this once."""
    with _desk(url, key, redis_url, home) as desk:
        found = [one for one in _keys_of(desk, name, id) if not _ended(one)]
        if len(found) != 1:
            known = ", ".join(one["id"] for one in found) or "none"
            raise BadArgument(f"{name} has {len(found)} keys that are good ({known}); say which with --id")
        made = desk.ask("POST", f"/keys/{found[0]['id']}/rotation", {"grace_seconds": _seconds(grace)})
        _print_key(made, desk)


@keys.command("remove")
def remove_key(
    name: Name, id: KeyId = None, url: Url = None, key: Key = None, redis_url: RedisUrl = None, home: Home = None
) -> None:
    """Make all keys of a person worthless, or one of them; what the person has stays."""
    with _desk(url, key, redis_url, home) as desk:
        for one in _keys_of(desk, name, id):
            desk.ask("DELETE", f"/keys/{one['id']}")
            typer.echo(f"removed {one['id']} of {name}")


@keys.command("import")
def import_keys(
    file: Annotated[Path, typer.Argument(help="A keys file of an older version.")],
    url: Url = None,
    key: Key = None,
    redis_url: RedisUrl = None,
    home: Home = None,
) -> None:
    """Take over the keys of an old keys file: they stay as they are, and nobody needs a new one."""
    try:
        found = json.loads(file.read_bytes())
    except OSError as error:
        raise _unusable(f"{file} cannot be read: {error.strerror}") from None
    except ValueError:
        raise _unusable(f"{file} is no keys file, which is JSON with 'version' and 'keys'") from None
    with _desk(url, key, redis_url, home) as desk:
        taken = desk.ask("POST", "/keys/import", found)["keys"]
        for one in taken:
            typer.echo(f"took over {one['id']} of {one['person']}")
        if not taken:
            typer.echo(f"all keys of {file} had been taken over before")


@limits.command(rich_help_panel=PANEL)
def show_or_set_limits(
    name: Name,
    requests_per_minute: Annotated[str | None, typer.Option(help="Of any kind.", show_default=False)] = None,
    jobs_queued: Annotated[str | None, typer.Option(help="Jobs that have not ended.", show_default=False)] = None,
    bytes_stored: Annotated[str | None, typer.Option(help="Of uploads and results.", show_default=False)] = None,
    seconds_per_day: Annotated[str | None, typer.Option(help="Of workers, per UTC day.", show_default=False)] = None,
    job_tokens: Annotated[str | None, typer.Option(help="Tokens of one job.", show_default=False)] = None,
    job_flops: Annotated[str | None, typer.Option(help="Operations of one job.", show_default=False)] = None,
    models: Annotated[str | None, typer.Option(help="Names, with commas.", show_default=False)] = None,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
    redis_url: RedisUrl = None,
    home: Home = None,
) -> None:
    """Show what a person may have and has, or give them limits of their own.

    'none' is no limit at all, and 'usual' gives back the one of the service's settings. What is set holds from the
    person's next request on.

    \b
    [bold]Examples[/bold]
      telepatch limits alice
      telepatch limits alice --jobs-queued 500 --bytes-stored 1000000000
      telepatch limits alice --models smollm2-135m,minilm --jobs-queued usual
      telepatch limits alice --seconds-per-day none
    """
    given = {
        "requests_per_minute": requests_per_minute,
        "jobs_queued": jobs_queued,
        "bytes_stored": bytes_stored,
        "seconds_per_day": seconds_per_day,
        "job_tokens": job_tokens,
        "job_flops": job_flops,
        "models": models,
    }
    changes = {limit: None if text == "usual" else text for limit, text in given.items() if text is not None}
    with _desk(url, key, redis_url, home) as desk:
        found = desk.ask("PATCH" if changes else "GET", f"/people/{name}", {"limits": changes} if changes else None)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    has = _has(found["has"])
    rows = [
        (limit, _shown(value), has.get(limit, ""), "own" if limit in found["own"] else "usual")
        for limit, value in found["limits"].items()
    ]
    _table(("limit", "may have", "has", ""), rows)


@usage.command(rich_help_panel=PANEL)
def show_usage(
    name: Annotated[str | None, typer.Argument(help="Whose; everybody's if left out.", show_default=False)] = None,
    days: Annotated[int, typer.Option(help="How many days back, today included.", min=1, max=400)] = 30,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
    redis_url: RedisUrl = None,
    home: Home = None,
) -> None:
    """Show what people have used: jobs, seconds of workers and bytes of results, by day (UTC).

    Seconds of forwards that several jobs share are divided among them, so all together come to what the workers did.

    \b
    [bold]Examples[/bold]
      telepatch usage
      telepatch usage alice --days 7
      telepatch usage --days 400 --json
    """
    with _desk(url, key, redis_url, home) as desk:
        found = desk.ask("GET", "/usage", person=name, days=days)["usage"]
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    rows = [
        (one["person"], one["day"], f"{one['jobs']:,}", f"{one['seconds']:,.1f}", f"{one['bytes']:,}") for one in found
    ]
    _table(("person", "day", "jobs", "seconds", "bytes"), rows)


@contextmanager
def _desk(url: str | None, key: str | None, redis_url: str | None, home: Path | None) -> Iterator[Desk]:
    """Where people are kept; what was said wrongly is one line, and a usage error."""
    from telepatch_broker.places import refuse_password
    from telepatch_server.desk import Where, desk
    from telepatch_server.settings import environment

    try:
        refuse_password(redis_url)
        with desk(Where(url, key, redis_url, home), environment()) as found:
            yield found
    except (GraphError, NotFound) as error:
        raise _unusable(str(error)) from None


def _unusable(text: str) -> typer.Exit:
    typer.echo(f"telepatch: {text}", err=True)
    return typer.Exit(_USAGE)


def _print_key(made: dict[str, Any], desk: Desk) -> None:
    """The key alone on standard output, for scripts; beside it, what a person wants to know."""
    typer.echo(made["key"])
    ends = "" if made["expires"] is None else f", ends {_day(made['expires'])}"
    typer.echo(f"{made['id']} of {made['person']}, scope {made['scope']}{ends}; kept by {desk.where}", err=True)


def _keys_of(desk: Desk, name: str, id: str | None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = desk.ask("GET", "/keys", person=name)["keys"]
    wanted = [one for one in found if id in (None, one["id"])]
    if not wanted:
        known = ", ".join(one["id"] for one in found) or "none"
        raise NotFound(f"{name} has no key{'' if id is None else f' {id}'} here; there are: {known}")
    return wanted


def _ended(key: dict[str, Any]) -> bool:
    return key["expires"] is not None and key["expires"] <= time.time()


def _seconds(text: str) -> float:
    """A time as people write it: 45s, 30m, 12h, 90d, 2w; seconds where nothing is said."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw]?)", text.strip().lower())
    if match is None:
        raise BadArgument(f"{text!r} is no time; such as 45s, 30m, 12h, 90d or 2w can be")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}[match[2]]


def _has(has: dict[str, Any]) -> dict[str, str]:
    """What of the limited things a person has now."""
    return {
        "jobs_queued": f"{has['jobs_queued']:,}",
        "bytes_stored": f"{has['uploads'] + has['results'] + has['promised']:,}",
        "seconds_per_day": f"{has['today']['seconds']:,.1f}",
    }


def _shown(value: Any) -> str:
    if value is None:
        return "no limit"
    return ", ".join(value) if isinstance(value, list) else f"{value:,}"


def _day(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*heads)
    for row in rows:
        table.add_row(*row)
    Console().print(table)
