"""The commands that serve: ``gateway``, ``host`` and ``up``. What they run is imported when they run."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from telepatch_protocol.errors import BadArgument, TelepatchError

PANEL = "Serve others"
_USAGE = 2

gateway = typer.Typer(rich_markup_mode="rich")
up = typer.Typer(rich_markup_mode="rich")
host = typer.Typer(rich_markup_mode="rich")

Host = Annotated[
    str | None, typer.Option(help="Address to listen on. Every address but loopback needs a key in the queue.")
]
Port = Annotated[int | None, typer.Option(help="Port to listen on.", min=0, max=65535)]
RedisUrl = Annotated[
    str | None,
    typer.Option(help="Redis or Valkey: redis://HOST:6379/0, rediss:// or unix:///PATH.", show_default=False),
]
Blobs = Annotated[
    str | None, typer.Option(help="Folder for results, shared with the workers of this host.", show_default=False)
]


@gateway.command(rich_help_panel=PANEL)
def run_gateway(host: Host = None, port: Port = None, redis_url: RedisUrl = None, blobs: Blobs = None) -> None:
    """Run the HTTP service: keys, checks, queue, results.

    What is not given here comes from the environment (TELEPATCH_HOST, TELEPATCH_PORT, ...); see deploy/env.example.

    \b
    [bold]Examples[/bold]
      telepatch gateway --redis-url redis://localhost:6379/0
      telepatch keys add alice && telepatch gateway --host 0.0.0.0
    """
    from telepatch_broker.places import refuse_password
    from telepatch_server import serve
    from telepatch_server.settings import Settings

    given: dict[str, Any] = {"host": host, "port": port, "redis_url": redis_url, "blobs": blobs}
    with _usage(BadArgument):
        refuse_password(redis_url)
        settings = Settings.from_environment(**{name: value for name, value in given.items() if value is not None})
        _end_with_0_when_asked()
        serve.main(settings)


@host.command(rich_help_panel=PANEL)
def run_host(
    name: Annotated[
        str | None, typer.Option(help="By which models are placed here; else that of the machine.", show_default=False)
    ] = None,
    logs: Annotated[Path | None, typer.Option(help="Folder for what its workers say.", show_default=False)] = None,
    redis_url: RedisUrl = None,
    blobs: Blobs = None,
) -> None:
    """Load and unload models on this machine as is wanted, without a stop of the others.

    Holds no model itself: starts a worker for each that `telepatch models load` asks for, one after the other, starts
    those again that break, and ends those that `telepatch models unload` names once they have finished what they have.
    SIGTERM or Ctrl-C ends all of them so; a second one at once. Workers get this environment (TELEPATCH_MODELS, ...).

    \b
    [bold]Examples[/bold]
      telepatch host --redis-url redis://queue:6379/0
      telepatch host --name gpu-3 --logs /var/log/telepatch
      TELEPATCH_WORKER_DEVICE=cuda telepatch host
    """
    import asyncio

    from telepatch_broker import logs as records
    from telepatch_broker.places import refuse_password
    from telepatch_server.host import run
    from telepatch_server.settings import HostSettings, environment

    given: dict[str, Any] = {"host_name": name, "host_logs": logs, "redis_url": redis_url, "blobs": blobs}
    with _usage(BadArgument):
        refuse_password(redis_url)
        settings = HostSettings.from_environment(**{key: value for key, value in given.items() if value is not None})
        records.configure(settings.log_level, settings.log_format)
        pairs = (("--redis-url", redis_url), ("--blobs", blobs))
        options = [word for option, value in pairs if value for word in (option, value)]
        asyncio.run(run(settings, options, environment()))


@up.command(rich_help_panel="Try it here")
def run_up(
    model: Annotated[
        list[str] | None, typer.Option(help="Model card to serve: an id, or a path; may be repeated.")
    ] = None,
    demo: Annotated[bool, typer.Option("--demo", help="Serve both demo models: smollm2-135m and minilm.")] = False,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 picks a free one.", min=0, max=65535)] = 8000,
    home: Annotated[Path, typer.Option(help="Folder for the queue, results and logs.")] = Path(
        "~/.local/share/telepatch"
    ),
    redis_url: RedisUrl = None,
    announce: Annotated[
        Path | None, typer.Option(help="Write a JSON file with the URL once ready.", show_default=False)
    ] = None,
    with_parent: Annotated[bool, typer.Option("--with-parent", hidden=True)] = False,
) -> None:
    """Start everything on this machine: queue, gateway, workers.

    Needs no service installed. Waits until the models are loaded, prints the URL, and runs until Ctrl-C, which ends
    all of it in order. If one part ends by itself the others are ended too, and the exit code is 1, or 2 where
    that part could not use what it was told.

    \b
    [bold]Examples[/bold]
      telepatch up
      telepatch up --model smollm2-135m --model minilm --port 0
      telepatch up --model ./my-card.toml --home ./state
    """
    from telepatch_server import terminal
    from telepatch_server.up import ChildEnded, Plan, run

    models = tuple(dict.fromkeys([*(model or []), *(("smollm2-135m", "minilm") if demo else ())])) or ("smollm2-135m",)
    with _usage(BadArgument):
        queue = _queue(redis_url) if redis_url else None
    place = home.expanduser().resolve()
    plan = Plan(models, host, port, place, redis_url, queue, announce, with_parent)
    with terminal.progress() as progress:
        try:
            with _usage(BadArgument):
                run(plan, progress.say, progress.show)
        except ChildEnded as ended:
            typer.echo(f"telepatch: {ended}", err=True)
            raise typer.Exit(_USAGE if ended.exit_code == _USAGE else 1) from None


def _queue(redis_url: str) -> str:
    """The address of a command line with all that it takes to be let in."""
    from telepatch_broker.places import refuse_password
    from telepatch_server.settings import Settings

    refuse_password(redis_url)
    return Settings.from_environment(redis_url=redis_url).queue


def _end_with_0_when_asked() -> None:
    """Being ended by Ctrl-C or SIGTERM is no failure; the server passes the signal on once it has ended its work."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(0)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)


@contextmanager
def _usage(kind: type[TelepatchError] = TelepatchError) -> Iterator[None]:
    """What cannot be done as asked is a usage error: one line, exit code 2."""
    try:
        yield
    except kind as error:
        typer.echo(f"telepatch: {error}", err=True)
        raise typer.Exit(_USAGE) from None
