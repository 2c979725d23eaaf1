"""The command ``telepatch quarantine``: jobs that workers died of, for whoever runs the service."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from telepatch_protocol.errors import TelepatchError

if TYPE_CHECKING:
    from telepatch_broker.quarantine import Held, Quarantine

T = TypeVar("T")

app = typer.Typer(rich_markup_mode="rich", no_args_is_help=True)

Job = Annotated[str, typer.Argument(help="Id of the job.")]
RedisUrl = Annotated[
    str | None,
    typer.Option(help="Redis or Valkey of the service: redis://HOST:6379/0 or unix:///PATH.", show_default=False),
]
Blobs = Annotated[str | None, typer.Option(help="Folder for results of the service.", show_default=False)]


@app.callback(rich_help_panel="Serve others")
def about() -> None:
    """Look at jobs that workers died of.

    A job comes here when two workers have died while they had it. Its owner sees it failed; its document and tensors
    are kept here, of the newest 100. Where the queue is comes from the environment (TELEPATCH_REDIS_URL,
    TELEPATCH_BLOBS), or from the options.

    \b
    [bold]Examples[/bold]
      telepatch quarantine list
      telepatch quarantine show 01a2...
      telepatch quarantine show 01a2... --document > graph.json
      telepatch quarantine release 01a2...
      telepatch quarantine drop 01a2...
    """


@app.command("list")
def list_jobs(redis_url: RedisUrl = None, blobs: Blobs = None) -> None:
    """Print the jobs there, the newest first: since when, id, person, model."""
    found = _ask(redis_url, blobs, lambda quarantine: quarantine.all())
    typer.echo(
        "\n".join(f"{_time(job.at)}  {job.id}  {job.person}  {job.model}" for job in found) or "nothing is there"
    )


@app.command("show")
def show_job(
    job: Job,
    document: Annotated[bool, typer.Option("--document", help="Print the document instead, as JSON.")] = False,
    redis_url: RedisUrl = None,
    blobs: Blobs = None,
) -> None:
    """Print what is known of a job: whose it is, what it uses, which workers died and when; or its document."""
    if document:
        text = _ask(redis_url, blobs, lambda quarantine: quarantine.document(job))
        typer.echo(json.dumps(json.loads(text), indent=1))
        return
    typer.echo("\n".join(_lines(_ask(redis_url, blobs, lambda quarantine: quarantine.get(job)))))


@app.command("release")
def release_job(job: Job, redis_url: RedisUrl = None, blobs: Blobs = None) -> None:
    """Queue it again for its owner, under a new id, which is printed."""
    typer.echo(_ask(redis_url, blobs, lambda quarantine: quarantine.release(job)))


@app.command("drop")
def drop_job(job: Job, redis_url: RedisUrl = None, blobs: Blobs = None) -> None:
    """Forget it."""
    _ask(redis_url, blobs, lambda quarantine: quarantine.drop(job))
    typer.echo(f"dropped {job}")


def _lines(job: Held) -> Iterator[str]:
    yield f"job        {job.id}"
    yield f"person     {job.person}"
    yield f"model      {job.model}, lane {job.lane}"
    yield f"submitted  {_time(job.submitted)}"
    yield f"here since {_time(job.at)}"
    yield f"document   {job.document_bytes:,} bytes; show --document prints it"
    yield f"tensors    {job.attachment if isinstance(job.attachment, str) else f'{job.attachment:,} bytes'}"
    if job.parents:
        yield f"uses       {', '.join(job.parents)}"
    for loss in job.losses:
        what = "died" if loss.dead else "lost it, and was alive"
        yield f"worker     {loss.worker} {what}, seen {_time(loss.at)}; the end of its log tells of what"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _ask(redis_url: str | None, blobs: str | None, ask: Callable[[Quarantine], Awaitable[T]]) -> T:
    with _usage():
        return asyncio.run(_asked(redis_url, blobs, ask))


async def _asked(redis_url: str | None, blobs: str | None, ask: Callable[[Quarantine], Awaitable[T]]) -> T:
    from telepatch_broker.connection import check, connect
    from telepatch_broker.places import open_blobs
    from telepatch_broker.quarantine import Quarantine
    from telepatch_server.settings import Settings

    given: dict[str, Any] = {"redis_url": redis_url, "blobs": blobs}
    settings = Settings.from_environment(**{name: value for name, value in given.items() if value is not None})
    client = connect(settings.queue)
    try:
        await check(client)
        return await ask(Quarantine(client, open_blobs(settings.blobs)))
    finally:
        await client.aclose()


@contextmanager
def _usage() -> Iterator[None]:
    try:
        yield
    except TelepatchError as error:
        typer.echo(f"telepatch: {error}", err=True)
        raise typer.Exit(2) from None
