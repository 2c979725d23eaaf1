"""``telepatch version``: what is installed here."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import typer

import telepatch_protocol

app = typer.Typer(rich_markup_mode="rich")

_PARTS = {"server": "fastapi", "worker": "torch"}


@app.command(rich_help_panel="Use a service")
def show() -> None:
    """Print the version, the protocol it speaks and which parts are installed."""
    major, minor = telepatch_protocol.PROTOCOL
    parts = [f"{part} ({library} {found})" for part, library in _PARTS.items() if (found := _installed(library))]
    typer.echo(f"telepatch {version('telepatch')}")
    typer.echo(f"protocol  {major}.{minor}")
    typer.echo(f"python    {platform.python_version()}")
    typer.echo(f"parts     {', '.join(['client', *parts])}")


def _installed(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None
