"""The commands of this room: ``telepatch worker`` and ``models``. What they run is imported when they run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from telepatch_protocol.errors import BadArgument

if TYPE_CHECKING:
    from telepatch_worker.cards import CardFile
    from telepatch_worker.settings import Settings

PANEL = "Serve others"
Model = Annotated[str, typer.Argument(help="Id of a card in the models folder, or the path of a card file.")]

worker = typer.Typer(rich_markup_mode="rich")
models = typer.Typer(rich_markup_mode="rich", no_args_is_help=True)


@worker.command(rich_help_panel=PANEL)
def run_worker(
    model: Annotated[
        str | None, typer.Option(help="Model card to serve: an id, or the path of a card file.", show_default=False)
    ] = None,
    redis_url: Annotated[
        str | None,
        typer.Option(help="Redis or Valkey: redis://HOST:6379/0, rediss:// or unix:///PATH.", show_default=False),
    ] = None,
    blobs: Annotated[
        str | None, typer.Option(help="Folder for results, shared with the gateway of this host.", show_default=False)
    ] = None,
    gateway_url: Annotated[
        str | None, typer.Option(help="The gateway, where results go through it.", show_default=False)
    ] = None,
) -> None:
    """Hold one model and run what people ask of it.

    Fetches and converts the weights the first time, then takes jobs until SIGTERM or Ctrl-C; jobs that were taken are
    finished or given back. What is not given here comes from the environment (TELEPATCH_MODEL, ...).

    \b
    [bold]Examples[/bold]
      telepatch worker --model smollm2-135m --redis-url redis://localhost:6379/0
      telepatch worker --model ./my-card.toml
    """
    from telepatch_worker.settings import Settings, let_threads_sleep

    let_threads_sleep()
    from telepatch_broker.places import refuse_password
    from telepatch_worker import service

    given: dict[str, Any] = {"model": model, "redis_url": redis_url, "blobs": blobs, "gateway_url": gateway_url}
    with _usage():
        refuse_password(redis_url)
        service.main(_settings(Settings, given))


@models.callback(rich_help_panel=PANEL)
def about_models() -> None:
    """List, fetch and show the models that a worker here can serve.

    A model is a card: a small TOML file in the models folder that says where the weights come from and how they are
    held (dtype, device, attention).

    \b
    [bold]Examples[/bold]
      telepatch models list
      telepatch models fetch smollm2-135m
      telepatch models show smollm2-135m
      telepatch models path smollm2-135m
      telepatch models ranks llama-tp2-random
    """


@models.command("list")
def list_models() -> None:
    """Print every card: id, source, title."""
    cards = _cards()
    width = max((len(name) for name in cards), default=0)
    for name, card in cards.items():
        typer.echo(f"{name:<{width}}  {card.source:<32}  {card.title}".rstrip())


@models.command("fetch")
def fetch_model(model: Model) -> None:
    """Fetch a model's weights, check their hash, convert them, and keep them for every later start."""
    from telepatch_worker import sources

    settings, card = _environment(), _card(model)
    with _told() as tell:
        prepared = sources.prepare(card, settings.cache, progress=tell, token_file=settings.token_file)
    typer.echo(prepared.folder or f"{card.id} is made from its configuration; there is nothing to fetch")


@models.command("path")
def path_of_model(model: Model) -> None:
    """Print the folder of a model's weights, fetching them first if they are not here yet."""
    fetch_model(model)


@models.command("ranks")
def ranks_of_model(model: Model) -> None:
    """Print how many processes hold a model together: 1, or what torchrun is to start (--nproc-per-node)."""
    typer.echo(_card(model).tp_size)


@models.command("show")
def show_model(model: Model) -> None:
    """Print the module tree that a served model publishes, with the shape of each place that can be read or written."""
    from telepatch_worker.load import load

    settings = _environment()
    with _told() as tell:
        published = load(_card(model), cache=settings.cache, progress=tell, token_file=settings.token_file).card
    typer.echo(f"{published.id}  revision {published.revision}")
    for module in published.modules:
        leaves = module.output.leaves if module.output else ()
        shapes = ", ".join("(" + ", ".join(str(axis) for axis in leaf.axes or ("?",)) + ")" for leaf in leaves)
        typer.echo(f"  {module.path or '(root)':<48} {module.kind:<28} {shapes}".rstrip())


@contextmanager
def _told() -> Iterator[Callable[[str, float | None], None]]:
    """Progress on stderr, one line per stage, so that what is printed can be used by another command."""
    shown = ""

    def tell(stage: str, part: float | None) -> None:
        nonlocal shown
        text = f"{stage:<8}" + ("" if part is None else f"{part:4.0%}")
        if text != shown:
            lead = "" if not shown else "\r" if shown.startswith(stage) else "\n"
            typer.echo(lead + text, err=True, nl=False)
            shown = text

    try:
        yield tell
    finally:
        if shown:
            typer.echo(err=True)


def _environment() -> Settings:
    from telepatch_worker.settings import Settings

    return _settings(Settings, {})


def _cards() -> dict[str, CardFile]:
    from telepatch_worker.cards import read_cards

    return read_cards(_environment().models)


def _card(model: str) -> CardFile:
    """The card of that id, or in that file."""
    from telepatch_worker.cards import read_card

    if model.endswith(".toml"):
        return read_card(Path(model))
    cards = _cards()
    if model not in cards:
        typer.echo(f"telepatch: no model card {model!r}; there are: {', '.join(cards)}", err=True)
        raise typer.Exit(2)
    return cards[model]


def _settings(kind: type[Settings], given: dict[str, Any]) -> Settings:
    """Settings of the environment with what the command line says on top."""
    with _usage():
        return kind.from_environment(**{name: value for name, value in given.items() if value is not None})


@contextmanager
def _usage() -> Iterator[None]:
    """A setting that cannot be is a usage error: one line, exit code 2."""
    try:
        yield
    except BadArgument as error:
        typer.echo(f"telepatch: {error}", err=True)
        raise typer.Exit(2) from None
