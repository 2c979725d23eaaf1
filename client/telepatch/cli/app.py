"""The frame of the command line: one lazy group, one place where errors become words and exit codes."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from telepatch.cli import discovery, exits
from telepatch_protocol.errors import TelepatchError

# Rich markup: a line of \b alone keeps the breaks of the paragraph that follows.
INTRODUCTION = """
Read and change what happens inside a neural network that runs somewhere else.

\b
[bold]Try it here[/bold], with telepatch\\[all] installed
  telepatch demo                       two studies on a real model
  telepatch up --model smollm2-135m    a service of your own; Ctrl-C ends it

\b
[bold]Use a service[/bold] (TELEPATCH_URL and TELEPATCH_API_KEY, or --url and --key)
  telepatch status                     is it there, and what runs
  telepatch top                        what it does, each second
  telepatch run graph.json             send an exported graph, print its saves

\b
[bold]Serve others[/bold], each command on the host where it belongs
  telepatch keys add alice             a key for a person, shown once
  telepatch gateway --host 0.0.0.0     the HTTP service
  telepatch worker --model gpt2        a model, ready to be read and changed
  telepatch host                       models, loaded and unloaded as you ask for it
  telepatch check                      would it work, as this machine is set up
"""


class RoomCommands(TyperGroup):
    """A group whose commands come from the rooms that are installed."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of the commands, without importing any of them."""
        return list(discovery.commands())

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name, imported now; a usage error names what is near if there is none."""
        known = list(discovery.commands())
        if cmd_name not in known:
            near = difflib.get_close_matches(cmd_name, known, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(known) or 'none installed'}."
            ctx.fail(f"No such command {cmd_name!r}. {hint}")
        command = typer.main.get_command(discovery.load(cmd_name))
        command.name = cmd_name
        if isinstance(command, TyperGroup):
            for name, app in discovery.added(cmd_name).items():
                command.add_command(typer.main.get_command(app), name)
        return command


def application() -> typer.Typer:
    """The whole command line as one typer application."""
    codes = "\n".join(f"  {code:<4} {text}" for code, text in exits.MEANINGS.items())
    epilog = f"\b\n[bold]Exit codes[/bold]\n{codes}"
    app = typer.Typer(
        name="telepatch",
        cls=RoomCommands,
        help=INTRODUCTION,
        epilog=epilog,
        rich_markup_mode="rich",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_frame)
    return app


def _frame() -> None:
    """Hold the commands together; does nothing itself."""


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return the exit code that it ends with."""
    try:
        typer.main.get_command(application()).main(args=list(arguments), prog_name="telepatch")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else exits.OK if end.code is None else exits.FAILED
    except TelepatchError as error:
        return _complain(str(error), exits.code_for(error))
    except ModuleNotFoundError as error:
        return _missing(error, arguments)
    except KeyboardInterrupt:
        return exits.INTERRUPTED
    return exits.OK


def _complain(text: str, code: int) -> int:
    print(f"telepatch: {text}", file=sys.stderr)
    return code


def _missing(error: ModuleNotFoundError, arguments: Sequence[str]) -> int:
    """Name the extra that brings a missing package; a missing module of our own is our fault and shown whole."""
    command = next((word for word in arguments if word in discovery.commands()), None)
    if command is None or (error.name or "").startswith("telepatch"):
        raise error
    extra = discovery.extra_of(command)
    return _complain(
        f"{command} needs {error.name}, which is not installed: pip install 'telepatch[{extra}]'", exits.MISSING
    )
