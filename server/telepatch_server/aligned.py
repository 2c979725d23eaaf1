"""``options.aligned`` at the door: inputs of a run that differ in length are refused with their tokens side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from telepatch_protocol.aligned import check_aligned
from telepatch_protocol.errors import ShapeError
from telepatch_protocol.graph import Graph
from telepatch_protocol.tensors import Tensor
from telepatch_server.catalogue import Model
from telepatch_server.prompts import Rows, ids_of

_SHOWN: Final = 24


def refuse_unaligned(graph: Graph, model: Model, tokens: Mapping[str, Rows], attachment: Mapping[str, Tensor]) -> None:
    """Compare the lengths of all inputs that are known here, run by run.

    Raises:
        ShapeError: two of one run differ, and the graph asks that they do not.
    """
    if not graph.options.aligned:
        return
    for run in graph.runs:
        first_rows: dict[str, list[int]] = {}
        for invoke in run.invokes:
            if invoke.id in tokens:
                first_rows[invoke.id] = tokens[invoke.id][0]
            elif (ids := ids_of(invoke, graph, attachment)) is not None and ids.size:
                first_rows[invoke.id] = [int(one) for one in ids.reshape(-1, ids.shape[-1])[0]]
        lengths = {invoke: len(ids) for invoke, ids in first_rows.items()}
        if len(set(lengths.values())) > 1:
            shown = {invoke: _shown(ids, model) for invoke, ids in first_rows.items()}
            try:
                check_aligned(run.id, lengths, shown)
            except ShapeError as error:
                raise graph.blame(error, error.node) from None


def _shown(ids: list[int], model: Model) -> str:
    pieces = model.words.pieces(ids[:_SHOWN]) if model.words is not None else map(str, ids[:_SHOWN])
    return "|".join(pieces) + ("|..." if len(ids) > _SHOWN else "")
