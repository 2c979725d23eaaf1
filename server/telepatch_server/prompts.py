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
from telepatch_protocol.given import given, named
from telepatch_protocol.graph import Graph, Invoke, SubGraph
from telepatch_protocol.messages import chat_key, conversations_of
from telepatch_protocol.structural import structural
from telepatch_protocol.subgraphs import all_runs
from telepatch_protocol.tensors import Tensor
from telepatch_server.catalogue import Model

_CHARACTERS_PER_TOKEN: Final = 1000
"""More than any token has; a text with more per position of the model is refused without reading it."""


def tokens_of(graph: Graph, model: Model) -> dict[str, list[int]]:
    """The token ids of all words that the graph gives to an invoke: by text, and by `chat_key` of each conversation.

    Raises:
        ShapeError: a text far too long.
        BadArgument: a model without tokenizer or chat template, or messages that its template cannot render.
    """
    found: dict[str, list[int]] = {}
    if model.card.inputs:
        return found  # the checker says that it takes no words
    for invoke, value in given(graph):
        try:
            if invoke.form == "messages":
                found |= _chats(invoke, value, model)
            elif invoke.form == "text":
                texts = [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str)]
                found |= {text: _ids(text, model) for text in texts[: model.card.limits.max_rows] if text not in found}
        except TelepatchError as error:
            raise graph.blame(error, invoke.id) from None
    return found


@structural
def has_messages(graph: Graph | SubGraph) -> bool:
    """Whether a chat template has to be rendered for it."""
    return any(invoke.form == "messages" for run in all_runs(graph) for invoke in run.invokes)


def _chats(invoke: Invoke, value: JsonValue, model: Model) -> dict[str, list[int]]:
    """Token ids of conversations, whose special tokens the chat template has written already."""
    settings = invoke.chat or {}
    conversations = conversations_of(value, settings)
    if len(conversations) > model.card.limits.max_rows:
        return {}  # the checker says better that there are too many
    model.tokenizer()
    texts = model.chat.texts(conversations, settings)
    return {
        chat_key(one, settings): _ids(text, model, special=False)
        for one, text in zip(conversations, texts, strict=True)
    }


def _ids(text: str, model: Model, *, special: bool = True) -> list[int]:
    most = model.card.limits.max_positions
    if len(text) > most * _CHARACTERS_PER_TOKEN:
        raise ShapeError(f"a text of {len(text):,} characters; model '{model.card.id}' takes {most} tokens")
    return model.tokenizer().encode(text, special=special).ids


def check_ids(graph: Graph, card: ModelCard, attachment: Mapping[str, Tensor]) -> None:
    """Hold token ids, and integers of named tensors, against what the model has: on a GPU a wrong one takes the worker
    down.

    Raises:
        IndexOutOfRange: an id that is no token, or an integer that the input does not have.
    """
    for invoke, value in given(graph):
        wrong = _beyond(ids_in(value, attachment), card.vocabulary) if invoke.form == "ids" else None
        if wrong is not None:
            detail = f"invoke '{invoke.id}' has the token id {wrong}; '{card.id}' has ids 0 to {card.vocabulary - 1}"
            raise graph.blame(IndexOutOfRange(detail), invoke.id)
    for invoke, name, value in named(graph):
        below = card.inputs[name].below if name in card.inputs else None
        wrong = _beyond(ids_in(value, attachment), below)
        if wrong is not None:
            detail = f"invoke '{invoke.id}': '{name}' holds {wrong}; '{card.id}' takes 0 to {(below or 1) - 1}"
            raise graph.blame(IndexOutOfRange(detail), invoke.id)


def _beyond(found: npt.NDArray[Any] | None, below: int | None) -> int | None:
    """An integer that is not from 0 to below a number, if there is one."""
    if found is None or found.size == 0 or not below or found.dtype.kind not in "iu":
        return None
    low, high = int(found.min()), int(found.max())
    return low if low < 0 else high if high >= below else None


def ids_in(ids: object, attachment: Mapping[str, Tensor]) -> npt.NDArray[Any] | None:
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
