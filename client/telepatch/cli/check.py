"""``telepatch check``: whether what this machine is told to run would work, before it runs."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.table import Column, Table

from telepatch.cli import exits
from telepatch_protocol.errors import BadArgument
from telepatch_protocol.findings import Finding

app = typer.Typer(rich_markup_mode="rich")

GROUP: Final = "telepatch.checks"
_SHOWN: Final = {"ok": "[green]ok[/green]", "warn": "[yellow]warn[/yellow]", "fail": "[red]fail[/red]"}


@app.command(rich_help_panel="Serve others")
def check(
    part: Annotated[str | None, typer.Argument(help="gateway or worker; without it, both.", show_default=False)] = None,
) -> None:
    """Check settings, queue, blob store, keys, cards and disks as the processes of this environment would find them.

    Gateway and worker check the same when they start: they refuse what is marked fail, and log what is marked warn.
    Ends with 0 where nothing fails, with 1 otherwise.

    \b
    [bold]Examples[/bold]
      telepatch check
      telepatch check gateway
      TELEPATCH_MODEL=smollm2-135m telepatch check worker
    """
    known = {point.name: point for point in sorted(entry_points(group=GROUP), key=lambda point: point.name)}
    if part is not None and part not in known:
        typer.echo(f"telepatch: nothing is known to check about {part!r}; there is {', '.join(known)}", err=True)
        raise typer.Exit(exits.USAGE)
    failed = False
    for name, point in known.items():
        if part in (None, name):
            found = _findings(point)
            Console().print(_table(name, found))
            failed = failed or any(one.level == "fail" for one in found)
    raise typer.Exit(exits.FAILED if failed else exits.OK)


def _findings(point: EntryPoint) -> list[Finding]:
    """What a room finds; settings that cannot be are a failure like any other."""
    look: Callable[[], Iterable[Finding]] = vars(importlib.import_module(point.module))[point.attr]
    try:
        return list(look())
    except BadArgument as error:
        return [Finding("settings", "fail", error.detail)]


def _table(part: str, findings: Iterable[Finding]) -> Table:
    table = Table(Column("", min_width=4), "what", Column("found", ratio=1), Column("what would work", ratio=1))
    table.title, table.title_justify, table.expand = part, "left", True
    for one in findings:
        row = [text.replace("[", r"\[") for text in (one.what, one.found, one.works)]
        table.add_row(_SHOWN[one.level], *row)
    return table
