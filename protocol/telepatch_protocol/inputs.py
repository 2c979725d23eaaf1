"""Inputs of invokes: how many rows and positions each has, as far as it is known, and what a model takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pydantic import JsonValue

from telepatch_protocol.card import ModelCard
from telepatch_protocol.dtypes import is_float
from telepatch_protocol.errors import BadArgument, ShapeError, TooLarge
from telepatch_protocol.graph import Invoke
from telepatch_protocol.literals import list_meta
from telepatch_protocol.messages import chat_key, conversations_of
from telepatch_protocol.meta import Meta, shown
from telepatch_protocol.named import named_size, takes
from telepatch_protocol.sizes import Dim, Size


@dataclass(frozen=True, slots=True)
class Input:
    """The size of one invoke's input: rows, and positions of each; symbols where not known yet.

    Where a model's inputs have no positions (an image of a fixed size), `length` is 1 (`named.ONE_POSITION`).
    `target` are positions of what a decoder is given beside it, and `beside` those that only prices count, of images.
    """

    rows: Dim
    length: Dim
    target: Dim = 0
    beside: int = 0


def size_of(
    invoke: Invoke, argument: Callable[[JsonValue], object], lengths: Mapping[str, int], card: ModelCard
) -> Input:
    """The size of an invoke's input, which the model can take.

    Args:
        invoke: the invoke.
        argument: gives what is known of an argument: a `Meta`, or the number, text or list that it is.
        lengths: numbers of tokens of texts, where known.
        card: of the model.

    Raises:
        GraphError: the model does not take it.
    """
    check_form(invoke, card)
    if invoke.inputs is not None:
        given = {name: argument(value) for name, value in invoke.inputs.items()}
        size = Input(*named_size(invoke.id, given, card))
    else:
        size = input_of(invoke, given_of(invoke, argument), lengths)
    check_limits(invoke, size, card)
    return size


def input_of(invoke: Invoke, given: object, lengths: Mapping[str, int]) -> Input:
    """The size of an invoke's input from what its text, messages or ids stand for.

    Args:
        invoke: the invoke.
        given: its text, messages or ids, as far as they are known.
        lengths: numbers of tokens of texts, where known.

    Raises:
        BadArgument, ShapeError: neither text nor messages nor ids, or texts of different numbers of tokens.
    """
    if invoke.form == "messages":
        keys = words_of(invoke, given)
        return Input(len(keys), _tokens(invoke, keys, lengths))
    if invoke.form != "text":
        return _ids_input(invoke, given)
    if isinstance(given, list) and not (given and all(isinstance(one, str) for one in given)):
        raise BadArgument(f"invoke '{invoke.id}': text is a string or a list of strings; found {shown(given)}")
    if not isinstance(given, str | list):
        raise BadArgument(f"invoke '{invoke.id}': text is a string or a list of strings; found {shown(given)}")
    texts = words_of(invoke, given)
    return Input(len(texts), _tokens(invoke, texts, lengths))


def _tokens(invoke: Invoke, texts: list[str], lengths: Mapping[str, int]) -> Dim:
    """How many tokens each of an invoke's texts has."""
    known = sorted({lengths[text] for text in texts if text in lengths})
    if len(known) > 1:
        raise ShapeError(
            f"the texts of invoke '{invoke.id}' have {', '.join(map(str, known))} tokens; the rows of one invoke are "
            "equally long, so give texts of different lengths an invoke each"
        )
    return known[0] if known and all(text in lengths for text in texts) else Size.symbol(f"len({invoke.id})")


def words_of(invoke: Invoke, given: object) -> list[str]:
    """What the token ids of each row of an input of words are known by: its text, or the key of its conversation."""
    if invoke.form == "messages":
        return [chat_key(one, invoke.chat) for one in conversations_of(given, invoke.chat)]
    return [str(one) for one in given] if isinstance(given, list) else [str(given)]


def given_of(invoke: Invoke, argument: Callable[[JsonValue], object]) -> object:
    """What an invoke's input stands for; chat messages hold no references, but may be one."""
    if invoke.form == "messages":
        return argument(invoke.messages) if isinstance(invoke.messages, str) else invoke.messages
    return argument(invoke.text if invoke.form == "text" else invoke.ids)


def check_form(invoke: Invoke, card: ModelCard) -> None:
    """Refuse forms of input that the model does not take."""
    if (invoke.form == "inputs") != bool(card.inputs):
        found = "named tensors" if invoke.form == "inputs" else invoke.form
        raise BadArgument(f"invoke '{invoke.id}' gives {found}; model '{card.id}' takes {takes(card)}")


def check_limits(invoke: Invoke, size: Input, card: ModelCard) -> None:
    """Refuse an input that the model cannot take."""
    limits = card.limits
    if isinstance(size.length, int) and not 0 < size.length <= limits.max_positions:
        raise ShapeError(
            f"the input of invoke '{invoke.id}' has {size.length} {'positions' if card.inputs else 'tokens'}; "
            f"model '{card.id}' takes 1 to {limits.max_positions}"
        )
    if isinstance(size.target, int) and size.target > limits.max_positions:
        raise ShapeError(
            f"what invoke '{invoke.id}' gives the decoder has {size.target} positions; model '{card.id}' takes 1 to "
            f"{limits.max_positions}"
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
