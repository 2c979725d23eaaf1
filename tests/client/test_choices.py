"""`telepatch.cond`: one of two computations."""

from __future__ import annotations

from typing import Any

import pytest

import telepatch
from telepatch.model import Model
from telepatch_protocol.card import ModelCard
from telepatch_protocol.check import check
from telepatch_protocol.errors import BadArgument, ShapeError, TraceError
from telepatch_protocol.graph import Cond, SubGraph


def saved(t: Any, card: ModelCard) -> dict[str, str]:
    return {name: str(meta) for name, meta in check(t.graph, card).saves.items()}


def test_one_of_two_computations_is_chosen_by_a_value(model: Model, card: ModelCard) -> None:
    with model.trace("Hello") as t:
        h = model.blocks[2].output[0, -1]
        telepatch.cond(h.norm() > 10, lambda: h / h.norm(), h).save("one")
        twice, total = telepatch.cond(h.sum() > 0, lambda: (h * 2, h.sum()), lambda: (h, h.mean()))
        twice.save("twice")
        total.save("total")
        telepatch.cond(h.sum() > 0, {"a": 1}["a"], 0.5).save("number")
    assert saved(t, card) == {
        "one": "float32 (8)",
        "twice": "float32 (8)",
        "total": "float32 ()",
        "number": "unknown dtype ()",
    }
    first = next(node for node in t.graph.nodes if isinstance(node, Cond))
    assert isinstance(first.then, SubGraph)
    assert isinstance(first.else_, str)  # a value needs no sub-graph


def test_a_branch_reads_the_sites_around_it(model: Model, card: ModelCard) -> None:
    with model.trace("Hello") as t:
        test = model.blocks[0].output.sum() > 0
        telepatch.cond(test, lambda: model.blocks[1].output[:, -1] * 2, lambda: model.blocks[2].output[:, -1]).save("h")
    assert saved(t, card) == {"h": "float32 (1, 8)"}


def test_a_conditional_write_is_a_where(model: Model) -> None:
    def write() -> Any:
        model.blocks[3].output[:, -1] = 0

    with pytest.raises(TraceError, match="where"), model.trace("x"):
        telepatch.cond(model.blocks[0].output.sum() > 0, write, 0)


def test_a_value_of_one_branch_stays_there(model: Model) -> None:
    kept = []

    def branch() -> Any:
        kept.append(model.blocks[0].output * 2)
        return kept[0].sum()

    with pytest.raises(TraceError, match="both branches"), model.trace("x"):
        telepatch.cond(model.blocks[0].output.sum() > 0, branch, 0.0)
        kept[0].save()


def test_branches_give_the_same_and_conditions_are_one_value(model: Model) -> None:
    with pytest.raises(BadArgument, match="give the same"), model.trace("x"):
        h = model.blocks[0].output[0, -1]
        telepatch.cond(h.sum() > 0, lambda: (h, h), lambda: h * 2)
    with pytest.raises(BadArgument, match="returned nothing"), model.trace("x"):
        telepatch.cond(model.blocks[0].output.sum() > 0, lambda: None, 0)
    with pytest.raises(ShapeError, match="where"), model.trace("x"):
        h = model.blocks[0].output[0, -1]
        telepatch.cond(h > 0, h, h * 2)
    with pytest.raises(TraceError, match="runs no forward"), model.session():
        telepatch.cond(telepatch.tensor(1.0), lambda: model.trace("x").__enter__(), 0)
