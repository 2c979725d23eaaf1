"""``telepatch models load`` and ``unload``: which models the hosts of a service serve, changed while it runs."""

from __future__ import annotations

import time
from typing import Annotated, Any
from urllib.parse import quote

import typer

from telepatch.cli import exits
from telepatch.cli.service import Key, Service, Url

load = typer.Typer(rich_markup_mode="rich")
unload = typer.Typer(rich_markup_mode="rich")

Id = Annotated[str, typer.Argument(help="Id of a model card in the models folder of the hosts.")]


@load.command()
def load_model(
    model: Id,
    replicas: Annotated[int, typer.Option(help="So many workers serve it.", min=1, max=1000)] = 1,
    host: Annotated[
        str | None, typer.Option(help="On this host alone; else on any that has room.", show_default=False)
    ] = None,
    wait: Annotated[float, typer.Option(help="Seconds to wait until it is served; 0 does not.", min=0)] = 3600.0,
    url: Url = None,
    key: Key = None,
) -> None:
    """Have hosts (`telepatch host`) serve a model, beside those that they serve already.

    Called again with another number of replicas, changes that. Ends with 0 once all copies are ready, with 1 where none
    is and a worker says why it cannot; the model stays wanted, and is tried again.

    \b
    [bold]Examples[/bold]
      telepatch models load smollm2-135m
      telepatch models load smollm2-135m --replicas 2 --host gpu-3
    """
    with Service(url, key) as service:
        service.ask("POST", "/v1/admin/models", {"id": model, "replicas": replicas, "host": host})
        until, shown = time.monotonic() + wait, ""
        while time.monotonic() < until:
            copies = _copies(service, model)
            ready = sum(one["state"] == "ready" for one in copies if one["number"] < replicas)
            now = f"{model}: {ready} of {replicas} ready" + "".join(
                f"; copy {one['number']} {one['state']}{': ' if one['detail'] else ''}{one['detail']}"
                for one in copies
                if one["state"] != "ready"
            )
            if now != shown:
                typer.echo(shown := now, err=True)
            if ready == replicas:
                return
            if not ready and copies and all(one["state"] == "failed" for one in copies):
                raise typer.Exit(exits.FAILED)
            time.sleep(0.5)
    raise typer.Exit(exits.OK if wait == 0 else exits.UNREACHABLE)


@unload.command()
def unload_model(model: Id, url: Url = None, key: Key = None) -> None:
    """Have hosts serve a model no more: jobs in hand are finished, queued ones wait until it is loaded again.

    \b
    [bold]Example[/bold]
      telepatch models unload smollm2-135m
    """
    with Service(url, key) as service:
        found = service.ask("DELETE", f"/v1/admin/models/{quote(model, safe='')}")
    typer.echo(f"{model}: {found['draining']} workers end once their jobs have; {found['queued']} jobs stay queued")


def _copies(service: Service, model: str) -> list[dict[str, Any]]:
    hosts = service.ask("GET", "/v1/admin/models")["hosts"]
    return [copy for host in hosts for copy in host["copies"] if copy["model"] == model]
