"""``telepatch status``: is the service there, what does it serve, what of mine is running."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from telepatch.cli import exits
from telepatch.cli.service import Key, Service, Url
from telepatch_protocol.errors import Unavailable
from telepatch_protocol.jobs import JobStatus
from telepatch_protocol.printable import printable

app = typer.Typer(rich_markup_mode="rich")


@app.command(rich_help_panel="Use a service")
def status(
    url: Url = None,
    key: Key = None,
    jobs: Annotated[int, typer.Option(help="How many of your last jobs to show.", min=0, max=1000)] = 10,
) -> None:
    """Show whether a service is there, its models, and your last jobs.

    Ends with 0 if it is ready, with 3 if it cannot be reached or no worker serves.

    \b
    [bold]Examples[/bold]
      telepatch status
      telepatch status --url http://gpu-host:8000 --jobs 50
    """
    with Service(url, key) as service:
        trouble = _trouble(service)
        models = service.ask("GET", "/v1/models")["models"]
        mine = service.ask("GET", "/v1/jobs", limit=jobs)["jobs"] if jobs else []
    console = Console()
    console.print(f"{service.url}: {printable(trouble or 'ready')}", markup=False, highlight=False)
    if models:
        console.print(_models(models))
    if mine:
        console.print(_jobs([JobStatus.model_validate(job) for job in mine]))
    if trouble:
        raise typer.Exit(exits.UNREACHABLE)


def _trouble(service: Service) -> str | None:
    """What the gateway says it lacks; None if it is ready."""
    try:
        service.ask("GET", "/readyz")
    except Unavailable as error:
        return error.detail
    return None


def _models(models: Iterable[dict[str, Any]]) -> Table:
    table = Table("model", "revision", "workers", "queued", "", title="Models", title_justify="left")
    for model in models:
        loading = "; ".join(f"{part['stage']} {part['done']}/{part['total']}" for part in model.get("loading", ()))
        numbers = (str(model.get("workers", 0)), str(model.get("queued", 0)))
        words = (model["id"], model.get("revision", ""), *numbers, loading or model.get("title", ""))
        table.add_row(*map(_plain, words))
    return table


def _jobs(jobs: Iterable[JobStatus]) -> Table:
    whole = Column("job", no_wrap=True, min_width=36)  # an id that is cut short is of no use
    table = Table(whole, "model", "state", "submitted", "", title="Your last jobs", title_justify="left")
    for job in jobs:
        submitted = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(job.timings.submitted))
        error = job.error.detail.splitlines()[0] if job.error and job.error.detail else ""
        table.add_row(*map(_plain, (job.id, job.model, job.state, submitted, error)))
    return table


def _plain(text: str) -> Text:
    """Text that others wrote: no markup, and nothing that a terminal obeys."""
    return Text(printable(text, lines=False))
