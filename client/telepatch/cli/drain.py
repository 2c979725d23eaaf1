"""``telepatch drain``: have a worker finish what it has, and end."""

from __future__ import annotations

import time
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.console import Console
from rich.table import Column, Table

from telepatch.cli import exits
from telepatch.cli.service import Key, Service, Url

app = typer.Typer(rich_markup_mode="rich")


@app.command(rich_help_panel="Serve others")
def drain(
    worker: Annotated[
        str | None, typer.Argument(help="Id of a worker; without it, all workers are listed.", show_default=False)
    ] = None,
    wait: Annotated[float, typer.Option(help="Seconds to wait until it has ended.", min=0)] = 60.0,
    url: Url = None,
    key: Key = None,
) -> None:
    """Have a worker finish what it has in hand, take nothing new, and end.

    Jobs that it has taken and not begun go to others at once, jobs that train go on elsewhere from where they are.
    Whatever restarts workers (`telepatch host`, systemd, containers) may start it again: to serve a model no more, use
    `telepatch models unload`. Ends with 0 once the worker has ended, with 3 if it has not after so long.

    \b
    [bold]Examples[/bold]
      telepatch drain
      telepatch drain gpu-3-4711-a0b1c2
      telepatch drain gpu-3-4711-a0b1c2 --wait 600
    """
    with Service(url, key) as service:
        if worker is None:
            Console().print(_table(_workers(service)))
            return
        service.ask("POST", f"/v1/admin/workers/{quote(worker, safe='')}/drain")
        until = time.monotonic() + wait
        while (found := {one["id"]: one for one in _workers(service)}.get(worker)) is not None:
            if time.monotonic() > until:
                typer.echo(f"{worker} still has {found['running']} jobs; it ends once they have", err=True)
                raise typer.Exit(exits.UNREACHABLE)
            time.sleep(0.5)
    typer.echo(f"{worker} has ended")


def _workers(service: Service) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = service.ask("GET", "/v1/admin/workers")["workers"]
    return found


def _table(workers: list[dict[str, Any]]) -> Table:
    table = Table(Column("worker", no_wrap=True), "model", "host", "device", "state", "jobs in hand", "up since")
    for one in workers:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one["started"]))
        table.add_row(one["id"], one["model"], one["host"], one["device"], one["state"], str(one["running"]), since)
    return table
