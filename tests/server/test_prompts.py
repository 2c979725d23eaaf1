"""Integers of inputs held against what the model has, before anything is queued."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from telepatch_protocol.card import InputCard, Limits, ModelCard, ModuleCard
from telepatch_protocol.errors import IndexOutOfRange
from telepatch_protocol.graph import Graph
from telepatch_protocol.tensors import Tensor
from telepatch_server.catalogue import Model
from telepatch_server.prompts import check_ids, tokens_of

CARD = ModelCard(
    id="own",
    revision="r",
    kind="module",
    limits=Limits(max_positions=8),
    inputs={"codes": InputCard(axes=("row", 2), dtype="int64", below=6)},
    modules=(ModuleCard(path="", kind="Own"),),
)


def graph(**invoke: Any) -> Graph:
    invokes = [{"id": "a", **invoke}]
    return Graph.model_validate(
        {"model": {"id": "own"}, "runs": [{"id": "r", "invokes": invokes}], "saves": {}, "constants": {"c": [[0, 6]]}}
    )


@pytest.mark.parametrize("codes", ["$c", [[0, 6]], {"tensor": "t"}, {"range": [5, 7]}])
def test_integers_that_the_model_does_not_have_are_refused_at_the_door(codes: Any):
    attached = {"t": Tensor.of(np.array([[6, 1]]))}
    with pytest.raises(IndexOutOfRange, match="'codes' holds 6; 'own' takes 0 to 5"):
        check_ids(graph(inputs={"codes": codes}), CARD, attached)


@pytest.mark.parametrize(
    "inputs", [{"codes": [[0, 5]]}, {"other": [[9]]}, {"codes": "$nowhere"}, {"codes": [[1], [2, 3]]}]
)
def test_what_is_not_for_here_to_refuse_passes(inputs: dict[str, Any]):
    check_ids(graph(inputs=inputs), CARD, {})


def test_a_text_for_a_model_of_named_tensors_is_left_to_the_checker():
    assert tokens_of(graph(text="hello"), Model(b"", CARD, None)) == {}
