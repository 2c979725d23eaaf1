"""Modules that fire several times in one forward: which call, for the module and for those below it."""

from __future__ import annotations

import pytest

from telepatch.model import Model
from telepatch_protocol.card import Leaf, Limits, ModelCard, ModuleCard, PortCard
from telepatch_protocol.errors import UnknownSite
from telepatch_protocol.graph import Get


def module(path: str, *orders: int) -> ModuleCard:
    leaf = Leaf(path="", axes=("row", "pos", 8), dtype="float32")
    sides = [PortCard(order=tuple(at + shift for at in orders), leaves=(leaf,)) for shift in (0, 1)]
    return (
        ModuleCard(path=path, kind="Part", input=sides[0], output=sides[1])
        if orders
        else ModuleCard(path=path, kind="ModuleList")
    )


@pytest.fixture
def albert() -> Model:
    """A group that fires three times, with a layer that fires as often and a norm that fires twice as often."""
    modules = (
        module("", 0),
        module("group", 10, 20, 30),
        module("group.layers"),
        module("group.layers.0", 12, 22, 32),
        module("group.layers.0.norm", 14, 16, 24, 26, 34, 36),
        module("head", 90),
    )
    return Model(ModelCard(id="albert", revision="1", limits=Limits(max_positions=64), modules=modules))


def test_modules_below_that_fire_as_often_are_taken_at_the_same_call(albert: Model) -> None:
    with albert.trace(ids=[1, 2]) as t:
        albert.group.calls[1].output.save()
        albert.group.calls[2].layers[0].output.save()
        albert.group.calls[2].layers[0].norm.calls[5].output.save()
        albert.group.calls[0].layers[:].output.save()
    assert [node.call for node in t.graph.nodes if isinstance(node, Get)] == [1, 2, 5, 0]
    assert len(albert.group.calls) == 3


def test_a_module_below_that_fires_more_often_is_not(albert: Model) -> None:
    with pytest.raises(UnknownSite, match="fires 6 times in one forward; say which call"):
        albert.group.calls[2].layers[0].norm.output  # noqa: B018


def test_a_call_left_out_is_refused_with_how_many_there_are(albert: Model) -> None:
    with pytest.raises(UnknownSite, match="fires 3 times in one forward; say which call, from 0"):
        albert.group.output  # noqa: B018
