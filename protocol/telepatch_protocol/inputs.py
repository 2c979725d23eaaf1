"""Inputs of invokes: how many rows and positions each has, as far as it is known, and what a model takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pydantic import JsonValue

from telepatch_protocol.card import ModelCard
from telepatch_protocol.dtypes import is_float
from telepatch_protocol.errors import BadArgument, NotYetSupported, ShapeError, TooLarge
from telepatch_protocol.graph import Invoke
from telepatch_protocol.literals import list_meta
from telepatch_protocol.messages import conversations_of
from telepatch_protocol.meta import Meta, shown
from telepatch_protocol.sizes import Dim, Size


@dataclass(frozen=True, slots=True)
class Input:
    """The size of one invoke's input: rows, and positions of each; symbols where not known yet."""

    rows: Dim
    length: Dim


def input_of(invoke: Invoke, given: object) -> Input:
    """The size of an invoke's input from what its text, messages or ids stand for.

    Raises:
        BadArgument, ShapeError: neither text nor messages nor ids.
    """
    if invoke.form == "messages":
        conversations = conversations_of(given, invoke.chat)
        return Input(len(conversations), Size.symbol(f"len({invoke.id})"))
    if invoke.form != "text":
        return _ids_input(invoke, given)
    if isinstance(given, list) and not (given and all(isinstance(one, str) for one in given)):
        raise BadArgument(f"invoke '{invoke.id}': text is a string or a list of strings; found {shown(given)}")
    if not isinstance(given, str | list):
        raise BadArgument(f"invoke '{invoke.id}': text is a string or a list of strings; found {shown(given)}")
    return Input(len(given) if isinstance(given, list) else 1, Size.symbol(f"len({invoke.id})"))


def given_of(invoke: Invoke, argument: Callable[[JsonValue], object]) -> object:
    """What an invoke's input stands for; chat messages hold no references, but may be one."""
    if invoke.form == "messages":
        return argument(invoke.messages) if isinstance(invoke.messages, str) else invoke.messages
    return argument(invoke.text if invoke.form == "text" else invoke.ids)


def check_form(invoke: Invoke) -> None:
    """Refuse forms of input that are not executed yet."""
    if invoke.form == "inputs":
        raise NotYetSupported(
            f"invoke '{invoke.id}': inputs of the form '{invoke.form}' are not executed by this service yet; "
            "use text, messages or ids"
        )


def check_limits(invoke: Invoke, size: Input, card: ModelCard) -> None:
    """Refuse an input that the model cannot take."""
    limits = card.limits
    if isinstance(size.length, int) and not 0 < size.length <= limits.max_positions:
        raise ShapeError(
            f"the input of invoke '{invoke.id}' has {size.length} tokens; "
            f"model '{card.id}' takes 1 to {limits.max_positions}"
        )
    if isinstance(size.rows, int) and size.rows > limits.max_rows:
        raise TooLarge(f"invoke '{invoke.id}' has {size.rows} rows; the limit is {limits.max_rows}")


def _ids_input(invoke: Invoke, given: object) -> Input:
    found = given if isinstance(given, Meta) else list_meta(given) if isinstance(given, list) else None
    if found is None or (found.dtype is not None and is_float(found.dtype)) or found.dtype == "bool":
        raise BadArgument(
            f"invoke '{invoke.id}': ids are integers, one list or several of equal length; found {shown(given)}"
        )
    if found.shape is None:
        return Input(Size.unknown(), Size.unknown())
    if len(found.shape) not in (1, 2):
        raise ShapeError(f"invoke '{invoke.id}': ids have shape (positions,) or (rows, positions); found {found.shape}")
    return Input(1, found.shape[0]) if len(found.shape) == 1 else Input(found.shape[0], found.shape[1])
