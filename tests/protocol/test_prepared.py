"""Documents that are alike are checked once, and what is found is what checking each of them would have found."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
from tests.wire.golden import file_of, read

from telepatch_protocol import prepared, wire
from telepatch_protocol.card import ModelCard
from telepatch_protocol.check import check
from telepatch_protocol.errors import GraphError, IndexOutOfRange
from telepatch_protocol.graph import Graph
from telepatch_protocol.meta import Meta
from telepatch_protocol.ops import GROUPS
from telepatch_protocol.prepared import Preparation
from telepatch_protocol.price import price

ALONE = Meta((8,), "float32")


def patch(**constants: Any) -> Graph:
    """A patch at a layer and a position, times a number, of a value from another job."""
    found = {"ids": [1, 2, 3, 4], "layer": 0, "at": 0, "by": 2.0, "clean": {"result": "job", "name": "h"}}
    return wire.from_dict(
        {
            "protocol": [1, 0],
            "model": {"id": "tiny"},
            "runs": [{"id": "r", "invokes": [{"id": "x", "ids": "$ids"}]}],
            "nodes": [
                {"kind": "call", "id": "scaled", "op": "mul", "args": ["$clean", "$by"]},
                {
                    "kind": "set",
                    "id": "w",
                    "site": "blocks.{layer}:resid_post",
                    "index": [":", "$at"],
                    "value": "$scaled",
                },
                {"kind": "get", "id": "h", "site": "blocks.1:resid_post", "index": [":", "$at"]},
            ],
            "saves": {"out": "$h"},
            "constants": found | constants,
            "lines": {"w": "a.py:1"},
        }
    )


class Counting:
    """Counts how often a document is really checked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.checks = 0
        monkeypatch.setattr(prepared, "check", self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.checks += 1
        return check(*args, **kwargs)


def test_variants_of_a_loop_are_checked_once_for_each_layer(card: ModelCard, monkeypatch: pytest.MonkeyPatch):
    counting, preparation = Counting(monkeypatch), Preparation(card)
    for layer in range(2):
        for at in range(-4, 4):
            graph = patch(layer=layer, at=at, by=0.5 * at, ids=[at + 5] * 4)
            found = preparation.prepare(graph, results=lambda job, name: ALONE)
            assert found.checked.graph is graph
    assert counting.checks == 2


@pytest.mark.parametrize(
    "change", [{"ids": [1, 2, 3]}, {"by": 2}, {"layer": 1}, {"clean": 3.0}, {"clean": {"result": "wide", "name": "h"}}]
)
def test_what_makes_a_difference_is_checked_again(card: ModelCard, monkeypatch: pytest.MonkeyPatch, change: dict):
    counting, preparation = Counting(monkeypatch), Preparation(card)

    def results(job: str, name: str) -> Meta:
        return Meta((1, 8), "float32") if job == "wide" else ALONE

    preparation.prepare(patch(), results=results)
    try:
        preparation.prepare(patch(**change), results=results)
    except GraphError:
        assert "clean" in change  # a number and a number: nothing to multiply
    assert counting.checks == 2


def test_a_list_in_the_place_of_a_number_is_told_from_one_in_another_place(card: ModelCard):
    def shape(**constants: Any) -> Any:
        document = patch().to_dict()
        document["nodes"] = [{"kind": "get", "id": "h", "site": "blocks.1:resid_post", "index": [0, "$a", "$b"]}]
        document["constants"] = {"ids": [1, 2, 3, 4], "a": 0, "b": 0} | constants
        return preparation.prepare(wire.from_dict(document)).checked.saves["out"].shape

    preparation = Preparation(card)
    assert shape() == ()
    assert shape(b=[5, 6]) == (2,)
    with pytest.raises(IndexOutOfRange):
        shape(a=[5, 6])  # four positions, and a width of eight


def test_an_index_past_the_end_is_refused_though_its_like_was_found_well(card: ModelCard):
    preparation = Preparation(card)
    preparation.prepare(patch(at=3), results=lambda job, name: ALONE)
    for at in (4, -5):
        with pytest.raises(IndexOutOfRange, match=f"index {at} is past the end of axis 1") as refused:
            preparation.prepare(patch(at=at), results=lambda job, name: ALONE)
        assert (refused.value.file, refused.value.line) == ("a.py", 1)
    preparation.prepare(patch(at=-4), results=lambda job, name: ALONE)


def test_what_is_kept_is_bounded_and_the_oldest_goes_first(card: ModelCard, monkeypatch: pytest.MonkeyPatch):
    counting, preparation = Counting(monkeypatch), Preparation(card, nodes=9)
    for length in (2, 3, 4, 3, 4, 2):
        preparation.prepare(patch(ids=[1] * length, at=0), results=lambda job, name: ALONE)
    assert counting.checks == 4


def test_warnings_name_the_lines_of_their_own_document(card: ModelCard):
    preparation = Preparation(card)
    for line in ("mine.py:1", "yours.py:2"):
        document = patch().to_dict() | {"lines": {"w": line}, "saves": {"out": "$scaled"}}
        del document["nodes"][-1]  # type: ignore[union-attr]
        warnings = preparation.prepare(wire.from_dict(document), results=lambda job, name: ALONE).checked.warnings
        assert any(line in warning for warning in warnings)


@pytest.mark.parametrize("group", GROUPS)
def test_whatever_number_changes_the_same_is_found_as_by_checking(group: str, card: ModelCard):
    for entry in read(file_of(group)):
        attachment = {name: Meta(tuple(one["shape"]), one["dtype"]) for name, one in entry["attachment"].items()}
        document, numbers = lifted(entry["document"])
        preparation = Preparation(card)
        assert outcome_of(preparation, document, attachment) == plain(document, card, attachment)
        for name in numbers:
            for other in others(document["constants"][name]):
                variant = document | {"constants": document["constants"] | {name: other}}
                told = (entry["op"], name, other)
                assert (told, outcome_of(preparation, variant, attachment)) == (told, plain(variant, card, attachment))


def lifted(document: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The document with the numbers among its arguments made constants, and their names."""
    found = deepcopy(document)
    constants = found.setdefault("constants", {})
    names: list[str] = []

    def lift(value: Any) -> Any:
        if isinstance(value, list):
            return [lift(one) for one in value]
        if isinstance(value, bool) or not isinstance(value, int | float):
            return value
        name = f"number{len(names)}"
        names.append(name)
        constants[name] = value
        return f"${name}"

    for node in found["nodes"]:
        node["args"] = [lift(one) for one in node.get("args", [])]
        node["kwargs"] = {name: lift(one) for name, one in node.get("kwargs", {}).items()}
    return found, names


def others(value: float) -> Iterator[float]:
    yield from (value + 1, -value - 1, 0) if isinstance(value, int) else (2.5 * value, -value, 0.0)


def outcome_of(preparation: Preparation, document: dict[str, Any], attachment: dict[str, Meta]) -> Any:
    try:
        found = preparation.prepare(wire.from_dict(document), attachment=attachment)
    except GraphError as error:
        return str(error)
    return {name: str(meta) for name, meta in found.checked.saves.items()}, found.price


def plain(document: dict[str, Any], card: ModelCard, attachment: dict[str, Meta]) -> Any:
    try:
        found = check(wire.from_dict(document), card, attachment=attachment)
        return {name: str(meta) for name, meta in found.saves.items()}, price(found, card)
    except GraphError as error:
        return str(error)
