"""``telepatch top``: what a service does now, once a second: models, workers, queues, batches, and who waits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Annotated, Final

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from telepatch.cli.readings import Between, Reading
from telepatch.cli.service import Key, Service, Url

app = typer.Typer(rich_markup_mode="rich")

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")
_OLD_SECONDS: Final = 60.0
_STATES: Final = ("busy", "idle", "draining", "loading")


@app.command(rich_help_panel="Use a service")
def top(
    url: Url = None,
    key: Key = None,
    every: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.1, max=3600)] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Look twice, print what happened in between, and end.")] = False,
) -> None:
    """Show what a service does: models, workers, queues and their age, jobs and batches, and who waits.

    What it shows is the gateway's /metrics, so it needs a key of the scope admin where these are not open. People are
    named if the gateway's TELEPATCH_GATEWAY_METRICS_PEOPLE says how many. Ctrl-C ends it.

    \b
    [bold]Examples[/bold]
      telepatch top
      telepatch top --url http://gpu-host:8000 --every 5
      telepatch top --once
    """
    console = Console()
    with Service(url, key) as service:
        looks = _looks(service, every)
        if once:
            console.print(frame(next(looks), service.url))
            return
        with Live(frame(next(looks), service.url), console=console, screen=console.is_terminal) as live:
            for look in looks:
                live.update(frame(look, service.url), refresh=True)


def _looks(service: Service, every: float) -> Iterator[Between]:
    """What happened since the look before, again and again."""
    before = _look(service)
    while True:
        time.sleep(every)
        now = _look(service)
        yield Between(before, now)
        before = now


def _look(service: Service) -> Reading:
    return Reading.of(service.fetch("GET", "/metrics").decode(), time.monotonic())


def frame(between: Between, url: str) -> RenderableType:
    """One picture of a service."""
    parts: list[RenderableType] = [_head(between, url), _models(between)]
    people = sorted(between.now.of_labels("telepatch_person_queued_jobs"), key=lambda one: -one[1])
    if people:
        table = Table("person", "model", "lane", "queued", title="Who waits", title_justify="left")
        for told, jobs in people[:10]:
            table.add_row(Text(told["person"]), told["model"], told["lane"], f"{jobs:.0f}")
        parts.append(table)
    return Group(*parts)


def _head(between: Between, url: str) -> Text:
    now = between.now
    requests = between.rate("telepatch_requests_total")
    streams = now.total("telepatch_event_streams")
    lines = [f"{url}  {requests:.1f} requests/s, {streams:.0f} event streams at this gateway"]
    if not now.total("telepatch_redis_up"):
        return Text("\n".join([*lines, "Redis does not answer"]))
    limit = now.total("telepatch_redis_memory_limit_bytes")
    of = f" of {_bytes(limit)}" if limit else ""
    journal = "off" if not now.total("telepatch_redis_aof_enabled") else "ok"
    journal = journal if now.total("telepatch_redis_aof_ok") else "in trouble"
    memory, free = now.total("telepatch_redis_memory_bytes"), now.total("telepatch_blob_free_bytes")
    return Text("\n".join([*lines, f"Redis {_bytes(memory)}{of}, journal {journal}; disk {_bytes(free)} free"]))


def _models(between: Between) -> Table:
    columns = (
        "model",
        "workers",
        "queued",
        "long",
        "oldest",
        "running",
        "jobs/s",
        "failed/s",
        "jobs",
        "rows",
        "tokens",
    )
    table = Table(*columns, title="Models; jobs, rows and tokens of a forward", title_justify="left")
    for model in between.now.values("telepatch_workers", "model"):
        table.add_row(*_row(between, model))
    return table


def _row(between: Between, model: str) -> Iterator[str]:
    now = between.now
    yield model
    states = {state: now.total("telepatch_workers", model=model, state=state) for state in _STATES}
    yield ", ".join(f"{number:.0f} {state}" for state, number in states.items() if number) or "none"
    for lane in ("interactive", "long"):
        yield f"{now.total('telepatch_queue_jobs', model=model, lane=lane):.0f}"
    yield _age(now.most("telepatch_queue_oldest_seconds", model=model))
    yield f"{now.total('telepatch_jobs', model=model, state='running'):.0f}"
    yield f"{between.rate('telepatch_jobs', model=model, state='completed'):.1f}"
    yield f"{between.rate('telepatch_failed_jobs_total', model=model):.1f}"
    for what in ("jobs", "rows", "tokens"):
        mean = between.mean(f"telepatch_worker_batch_{what}", model=model)
        yield "-" if mean is None else f"{mean:.1f}"


def _age(seconds: float) -> str:
    if seconds < _OLD_SECONDS:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 60 * _OLD_SECONDS else f"{seconds / 3600:.1f} h"


def _bytes(number: float) -> str:
    for unit in _UNITS[:-1]:
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} {_UNITS[-1]}"
