"""``options.aligned`` at the door: inputs of a run that differ in length are refused with their tokens side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pydantic import JsonValue

from telepatch_protocol.aligned import check_aligned
from telepatch_protocol.errors import ShapeError
from telepatch_protocol.given import given
from telepatch_protocol.graph import Graph, Invoke
from telepatch_protocol.messages import chat_key, conversations_of
from telepatch_protocol.tensors import Tensor
from telepatch_server.catalogue import Model
from telepatch_server.prompts import ids_in

_SHOWN: Final = 24


def refuse_unaligned(
    graph: Graph, model: Model, tokens: Mapping[str, list[int]], attachment: Mapping[str, Tensor]
) -> None:
    """Compare the lengths of all inputs of the top level that are known here, run by run.

    Raises:
        ShapeError: two of one run differ, and the graph asks that they do not.
    """
    if not graph.options.aligned:
        return
    values = {invoke.id: value for invoke, value in given(graph)}
    for run in graph.runs:
        rows = {one.id: _first_row(one, values.get(one.id), tokens, attachment) for one in run.invokes}
        known = {invoke: ids for invoke, ids in rows.items() if ids is not None}
        lengths = {invoke: len(ids) for invoke, ids in known.items()}
        if len(set(lengths.values())) > 1:
            shown = {invoke: _shown(ids, model) for invoke, ids in known.items()}
            try:
                check_aligned(run.id, lengths, shown)
            except ShapeError as error:
                raise graph.blame(error, error.node) from None


def _first_row(
    invoke: Invoke, value: JsonValue, tokens: Mapping[str, list[int]], attachment: Mapping[str, Tensor]
) -> list[int] | None:
    """Token ids of an input's first row, where they are known."""
    if invoke.form == "ids":
        ids = ids_in(value, attachment)
        return None if ids is None or not ids.size else [int(one) for one in ids.reshape(-1, ids.shape[-1])[0]]
    if invoke.form == "messages" and value is not None:
        return tokens.get(chat_key(conversations_of(value, invoke.chat)[0], invoke.chat))
    first = value[0] if isinstance(value, list) and value else value
    return tokens.get(first) if isinstance(first, str) else None


def _shown(ids: list[int], model: Model) -> str:
    pieces = model.words.pieces(ids[:_SHOWN]) if model.words is not None else map(str, ids[:_SHOWN])
    return "|".join(pieces) + ("|..." if len(ids) > _SHOWN else "")
