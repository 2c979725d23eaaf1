"""Inputs of a graph before it is checked: texts become token ids, and ids are held against the vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import JsonValue

from telepatch_protocol.card import ModelCard
from telepatch_protocol.constants import numbers
from telepatch_protocol.errors import BadArgument, IndexOutOfRange, ShapeError, TelepatchError
from telepatch_protocol.given import given, named, texts
from telepatch_protocol.graph import Graph
from telepatch_protocol.tensors import Tensor
from telepatch_server.catalogue import Model

_CHARACTERS_PER_TOKEN: Final = 1000
"""More than any token has; a text with more per position of the model is refused without reading it."""


def tokens_of(graph: Graph, model: Model) -> dict[str, list[int]]:
    """The token ids of every text that the graph gives to an invoke, by text.

    Raises:
        ShapeError: a text far too long.
        BadArgument: a model without tokenizer.
    """
    found: dict[str, list[int]] = {}
    limits = model.card.limits
    for invoke, text in texts(graph) if not model.card.inputs else ():  # the checker says that it takes no text
        if len(found) > limits.max_elements:
            break  # the checker says better that there are too many
        if text in found:
            continue
        try:
            if len(text) > limits.max_positions * _CHARACTERS_PER_TOKEN:
                raise ShapeError(
                    f"a text of {len(text):,} characters; model '{model.card.id}' takes {limits.max_positions} tokens"
                )
            found[text] = model.tokenizer().ids(text)
        except TelepatchError as error:
            raise graph.blame(error, invoke) from None
    return found


def check_ids(graph: Graph, card: ModelCard, attachment: Mapping[str, Tensor]) -> None:
    """Hold token ids, and integers of named tensors, against what the model has: on a GPU a wrong one takes the worker
    down.

    Raises:
        IndexOutOfRange: an id that is no token, or an integer that the input does not have.
    """
    for invoke, value in given(graph):
        wrong = _beyond(_array(value, attachment), card.vocabulary) if invoke.form == "ids" else None
        if wrong is not None:
            detail = f"invoke '{invoke.id}' has the token id {wrong}; '{card.id}' has ids 0 to {card.vocabulary - 1}"
            raise graph.blame(IndexOutOfRange(detail), invoke.id)
    for invoke, name, value in named(graph):
        below = card.inputs[name].below if name in card.inputs else None
        wrong = _beyond(_array(value, attachment), below)
        if wrong is not None:
            detail = f"invoke '{invoke.id}': '{name}' holds {wrong}; '{card.id}' takes 0 to {(below or 1) - 1}"
            raise graph.blame(IndexOutOfRange(detail), invoke.id)


def _beyond(found: npt.NDArray[Any] | None, below: int | None) -> int | None:
    """An integer that is not from 0 to below a number, if there is one."""
    if found is None or found.size == 0 or not below or found.dtype.kind not in "iu":
        return None
    low, high = int(found.min()), int(found.max())
    return low if low < 0 else high if high >= below else None


def _array(ids: object, attachment: Mapping[str, Tensor]) -> npt.NDArray[Any] | None:
    """Ids that are known here, as an array; None for those that another job gives, and for what is malformed."""
    if isinstance(ids, dict) and set(ids) == {"range"}:
        return _range(ids["range"])
    if isinstance(ids, dict):
        found = attachment.get(str(ids.get("tensor")))
        return None if found is None else np.asarray(found.array)
    if not isinstance(ids, list):
        return None
    try:
        return np.asarray(ids)
    except ValueError:
        return None


def _range(bounds: JsonValue) -> npt.NDArray[Any] | None:
    try:
        return np.asarray(numbers(bounds), dtype=np.int64)
    except BadArgument:
        return None
