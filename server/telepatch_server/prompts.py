"""Inputs of a graph before it is checked: texts become token ids, and ids are held against the vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import JsonValue

from telepatch_protocol import refs
from telepatch_protocol.card import ModelCard
from telepatch_protocol.constants import numbers
from telepatch_protocol.errors import BadArgument, IndexOutOfRange, ShapeError, TelepatchError, UnknownName
from telepatch_protocol.graph import Graph, Invoke
from telepatch_protocol.inputs import Input
from telepatch_protocol.messages import conversations_of
from telepatch_protocol.tensors import Tensor
from telepatch_server.catalogue import Model

Rows = list[list[int]]

_CHARACTERS_PER_TOKEN: Final = 1000
"""More than any token has; a text with more per position of the model is refused without reading it."""


def tokens_of(graph: Graph, model: Model) -> dict[str, Rows]:
    """The token ids of every invoke that is text or messages, one list per row, by invoke id.

    Raises:
        ShapeError: texts of one invoke with different numbers of tokens, or one far too long.
        BadArgument: a model without tokenizer or chat template, or messages that its template cannot render.
    """
    found: dict[str, Rows] = {}
    for invoke in _invokes(graph):
        try:
            if invoke.form == "messages":
                texts = _chats(invoke, graph.constants, model)
            else:
                texts = _texts(invoke, graph.constants)
            # Too many rows: the checker says so better.
            if texts is not None and len(texts) <= model.card.limits.max_rows:
                found[invoke.id] = _rows(invoke, texts, model)
        except TelepatchError as error:
            raise graph.blame(error, invoke.id) from None
    return found


def has_messages(graph: Graph) -> bool:
    """Whether a chat template has to be rendered for it."""
    return any(invoke.form == "messages" for invoke in _invokes(graph))


def sizes_of(tokens: Mapping[str, Rows]) -> dict[str, Input]:
    """Sizes of the invokes whose tokens are known."""
    return {invoke: Input(len(rows), len(rows[0])) for invoke, rows in tokens.items()}


def check_ids(graph: Graph, card: ModelCard, attachment: Mapping[str, Tensor]) -> None:
    """Hold token ids that are given as such against the vocabulary: on a GPU a wrong one takes the worker down.

    Raises:
        IndexOutOfRange: an id that is no token.
    """
    for invoke in _invokes(graph):
        ids = ids_of(invoke, graph, attachment)
        if ids is None or ids.size == 0 or not card.vocabulary or ids.dtype.kind not in "iu":
            continue
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= card.vocabulary:
            wrong = low if low < 0 else high
            detail = f"invoke '{invoke.id}' has the token id {wrong}; '{card.id}' has ids 0 to {card.vocabulary - 1}"
            raise graph.blame(IndexOutOfRange(detail), invoke.id)


def ids_of(invoke: Invoke, graph: Graph, attachment: Mapping[str, Tensor]) -> npt.NDArray[Any] | None:
    """Token ids that are given as such, where they are known here; None for what is malformed too."""
    return _array(_resolved(invoke.ids, graph.constants), attachment)


def _invokes(graph: Graph) -> Iterator[Invoke]:
    return (invoke for run in graph.runs for invoke in run.invokes)


def _resolved(value: JsonValue, constants: Mapping[str, JsonValue]) -> object:
    """A value with constants filled in, or None where it refers to something else, which the checker refuses."""

    def lookup(ref: refs.Ref) -> object:
        if ref.id not in constants or ref.output is not None:
            raise UnknownName(f"'{ref}' is no constant")
        return constants[ref.id]

    try:
        return refs.resolve(value, lookup)
    except UnknownName:
        return None


def _texts(invoke: Invoke, constants: Mapping[str, JsonValue]) -> list[str] | None:
    found = _resolved(invoke.text, constants)
    rows = [found] if isinstance(found, str) else found
    if not isinstance(rows, list) or not rows:
        return None
    texts = [one for one in rows if isinstance(one, str)]
    return texts if len(texts) == len(rows) else None


def _chats(invoke: Invoke, constants: Mapping[str, JsonValue], model: Model) -> list[str] | None:
    """Conversations as text, one per row."""
    given = _resolved(invoke.messages, constants) if isinstance(invoke.messages, str) else invoke.messages
    settings = invoke.chat or {}
    conversations = conversations_of(given, settings)
    if len(conversations) > model.card.limits.max_rows:
        return None
    model.tokenizer()
    return model.chat.texts(conversations, settings)


def _rows(invoke: Invoke, texts: list[str], model: Model) -> Rows:
    most = model.card.limits.max_positions
    for text in texts:
        if len(text) > most * _CHARACTERS_PER_TOKEN:
            raise ShapeError(f"a text of {len(text):,} characters; model '{model.card.id}' takes {most} tokens")
    # What a chat template writes has its special tokens already.
    special = invoke.form != "messages"
    rows = [model.tokenizer().encode(text, special=special).ids for text in texts]
    lengths = sorted({len(row) for row in rows})
    if len(lengths) > 1:
        raise ShapeError(
            f"the texts of invoke '{invoke.id}' have {', '.join(map(str, lengths))} tokens; the rows of one invoke are "
            "equally long, so give texts of different lengths an invoke each"
        )
    return rows


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
