"""``telepatch backup`` and ``restore``. What they run is imported when they run."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from telepatch_broker.blobs import Blobs

PANEL = "Serve others"

backup = typer.Typer(rich_markup_mode="rich")
restore = typer.Typer(rich_markup_mode="rich")

File = Annotated[Path, typer.Argument(help="The backup, a tar file.")]
Home = Annotated[
    Path | None,
    typer.Option(help="That of a `telepatch up` that does not run; else the queue and blobs of the environment."),
]


@backup.command(rich_help_panel=PANEL)
def run_backup(file: File, home: Home = None) -> None:
    """Write queue and blob store into one file, while the service runs on.

    Everything as it is at one moment: jobs, results, uploads, edits, people. Not in it: cards and weights.
    The file holds what everybody sent and got; keep it as you keep the keys.

    \b
    [bold]Examples[/bold]
      telepatch backup /backups/monday.tar
      TELEPATCH_REDIS_URL=redis://queue:6379/0 telepatch backup monday.tar
      telepatch backup monday.tar --home ~/.local/share/telepatch
    """
    from telepatch_server import backup as work

    with _places(home) as (url, blobs):
        asyncio.run(work.backup(url, blobs, file, lambda text: typer.echo(text, err=True)))
    typer.echo(file)


@restore.command(rich_help_panel=PANEL)
def run_restore(file: File, home: Home = None) -> None:
    """Put a backup into an empty queue and an empty blob store, before anything else is started there.

    Jobs that were queued go on; those that were running are tried again. The file is compared with its checksums first.

    \b
    [bold]Examples[/bold]
      telepatch restore /backups/monday.tar
      TELEPATCH_BLOBS=s3://results/telepatch telepatch restore monday.tar
      telepatch restore monday.tar --home ./new-home
    """
    from telepatch_server import backup as work

    with _places(home) as (url, blobs):
        asyncio.run(work.restore(file, url, blobs, lambda text: typer.echo(text, err=True)))


@contextmanager
def _places(home: Path | None) -> Iterator[tuple[str, Blobs]]:
    """The queue and the blob store."""
    from telepatch_broker.launcher import embedded_valkey
    from telepatch_broker.places import open_blobs
    from telepatch_server.settings import Settings

    if home is None:
        settings: Any = Settings.from_environment()
        yield settings.queue, open_blobs(settings.blobs)
        return
    place = home.expanduser().resolve()
    with embedded_valkey(place / "valkey") as url:
        yield url, open_blobs(place / "blobs")
