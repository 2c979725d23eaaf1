"""Commands are found by name in the installed distributions, and imported only when used."""

from __future__ import annotations

import importlib
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Final

import typer

GROUP: Final = "telepatch.commands"


@cache
def commands() -> dict[str, EntryPoint]:
    """Every command that an installed distribution declares, by name."""
    return {point.name: point for point in sorted(entry_points(group=GROUP), key=lambda point: point.name)}


def load(name: str) -> typer.Typer:
    """Import the room that brings the command and return its application."""
    return _application(commands()[name])


def added(name: str) -> dict[str, typer.Typer]:
    """Commands below that one which another room brings, by name."""
    return {point.name: _application(point) for point in entry_points(group=f"{GROUP}.{name}")}


def _application(point: EntryPoint) -> typer.Typer:
    app = vars(importlib.import_module(point.module)).get(point.attr)
    if not isinstance(app, typer.Typer):
        raise TypeError(
            f"{point.value}, declared as command {point.name!r}, is {type(app).__name__}, not a typer.Typer"
        )
    return app


def extra_of(name: str) -> str:
    """The extra of the distribution that brings what the command needs."""
    rooms = {"telepatch_server": "server", "telepatch_worker": "worker"}
    return rooms.get(commands()[name].module.partition(".")[0], "cli")
