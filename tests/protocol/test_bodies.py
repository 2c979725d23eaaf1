"""Nodes that carry sub-graphs, checked: what each sees, what comes out, and how much is looked at."""

from __future__ import annotations

import time
from typing import Any

import pytest

from telepatch_protocol.card import ModelCard
from telepatch_protocol.check import check
from telepatch_protocol.checked import Checked
from telepatch_protocol.errors import (
    BadArgument,
    DtypeError,
    GraphError,
    IndexOutOfRange,
    ShapeError,
    TooLarge,
    UnknownName,
    UnknownSite,
)
from telepatch_protocol.graph import Graph
from telepatch_protocol.meta import Meta


def get(id: str, site: str, invoke: str = "x", **more: Any) -> dict[str, Any]:
    return {"kind": "get", "id": id, "site": site, "invoke": invoke, **more}


def call(id: str, op: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
    return {"kind": "call", "id": id, "op": op, "args": list(args), "kwargs": kwargs}


def body(nodes: list[Any], ids: Any = None, **out: Any) -> dict[str, Any]:
    runs = [] if ids is None else [{"id": "rr", "invokes": [{"id": "x", "ids": ids}]}]
    return {"runs": runs, "nodes": nodes, "out": out}


def over(graph: dict[str, Any], id: str = "m", grid: bool = False, **names: Any) -> dict[str, Any]:
    return {"kind": "map", "id": id, "over": names, "grid": grid, "body": graph}


def repeat(n: Any, carry: dict[str, Any], graph: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"kind": "repeat", "id": "r", "n": n, "carry": carry, "body": graph, **more}


def checked(card: ModelCard, *nodes: dict[str, Any], saves: dict[str, str] | None = None, **constants: Any) -> Checked:
    document = {"model": {"id": "tiny"}, "nodes": nodes, "saves": saves or {"v": "$m.v"}, "constants": constants}
    return check(Graph.model_validate(document), card, attachment={"t": Meta((3, 4), "float32")})


def test_a_body_sees_what_is_outside_and_outside_does_not_see_into_it(card: ModelCard):
    inner = over(body([call("d", "mul", "$c", "$k")], v="$d"), k=[1, 2])
    assert checked(card, call("c", "add", 1.0, 2.0), inner).saves["v"] == Meta((2,), "float32")
    with pytest.raises(UnknownName, match=r"'\$d' refers to nothing"):
        checked(card, call("c", "add", 1.0, 2.0), inner, call("e", "neg", "$d"))
    with pytest.raises(UnknownName, match=r"'\$k' refers to nothing"):
        checked(card, call("c", "add", 1.0, 2.0), inner, call("e", "neg", "$k"))


def test_sibling_bodies_may_bind_the_same_name(card: ModelCard):
    first = over(body([call("d", "neg", "$k")], v="$d"), k=[1, 2])
    second = over(body([call("e", "neg", "$k")], v="$e"), id="m2", k=[1, 2, 3])
    assert checked(card, first, second, saves={"v": "$m2.v"}).saves["v"].shape == (3,)


@pytest.mark.parametrize("name", ["c", "m"])
def test_a_bound_name_hides_nothing(card: ModelCard, name: str):
    inner = over(body([call("d", "neg", f"${name}")], v="$d"), **{name: [1, 2]})
    with pytest.raises(BadArgument, match="are unique in a document"):
        checked(card, call("c", "add", 1.0, 2.0), inner)


def test_the_step_of_an_inner_repeat_is_its_own(card: ModelCard):
    inner = {**repeat(5, {}, body([call("i", "index", "$t", [":", "$step"])], w="$i")), "id": "inner"}
    outer = repeat(3, {}, body([inner, call("o", "index", "$t", ["$step"])], v="$o"))
    with pytest.raises(IndexOutOfRange, match="index 4 is past the end"):
        checked(card, outer, saves={"v": "$r.v"}, t={"tensor": "t"})
    fine = repeat(3, {}, body([{**inner, "n": 4}, call("o", "index", "$t", ["$step"])], v="$o"))
    assert checked(card, fine, saves={"v": "$r.v"}, t={"tensor": "t"}).saves["v"].shape == (3, 4)


def test_the_last_step_of_a_repeat_is_looked_at_too(card: ModelCard):
    node = repeat(4, {}, body([call("o", "index", "$t", ["$step"])], v="$o"))
    with pytest.raises(IndexOutOfRange, match="index 3"):
        checked(card, node, saves={"v": "$r.v"}, t={"tensor": "t"})


def test_an_index_past_the_end_of_the_shortest_element_is_refused_with_the_element(card: ModelCard):
    read = body([get("z", "head:output", index=[0, 3])], ids="$p", v="$z")
    with pytest.raises(
        IndexOutOfRange, match=r"index 3 is past the end.*in element 1 of map 'm' \(p=\[9, 9\]\)"
    ) as caught:
        checked(card, over(read, p=[[1, 2, 3, 4], [9, 9], [1, 2, 3, 4, 5]]))
    assert caught.value.node == "z"


def test_numbers_in_sites_are_looked_at_one_by_one(card: ModelCard):
    read = body([get("z", "blocks.{layer}:resid_post", index=[0, -1])], ids=[1, 2], v="$z")
    assert checked(card, over(read, layer=[0, 3])).saves["v"] == Meta((2, 8), "float32")
    with pytest.raises(UnknownSite, match="layer=4"):
        checked(card, over(read, layer=[0, 4, 1]))
    with pytest.raises(BadArgument, match=r"must be a number of a module.*layer=\[1\]"):
        checked(card, over(read, layer=[[1], [2]]))


def test_ids_of_each_element_have_to_be_integers(card: ModelCard):
    read = body([get("z", "head:output", index=[0, -1])], ids="$p", v="$z")
    with pytest.raises(BadArgument, match=r"ids are integers.*1\.5"):
        checked(card, over(read, p=[[1, 2], [1.5, 2.5]]))


def test_a_map_may_go_over_lists_that_the_map_around_it_goes_over(card: ModelCard):
    read = body([get("z", "blocks.{layer}:resid_post", index=[0, -1])], ids=[1, 2], w="$z")
    found = checked(card, over(body([over(read, id="inner", layer="$layers")], v="$inner.w"), layers=[[0, 1], [2, 3]]))
    assert found.saves["v"].shape == (2, 2, 8)
    assert set(found.scope.bodies["m"]) == {(("list", "[0, 1]"),), (("list", "[2, 3]"),)}
    with pytest.raises(
        UnknownSite, match=r"in element 1 of map 'm' \(layers=\[2, 9\]\), in element 1 of map 'inner' \(layer=9\)"
    ):
        checked(card, over(body([over(read, id="inner", layer="$layers")], v="$inner.w"), layers=[[0, 1], [2, 9]]))


def test_a_value_of_unknown_length_goes_together_with_a_list(card: ModelCard):
    nodes = [call("mask", "gt", "$t", 0.0), call("rows", "index", "$t", ["$mask"])]
    each = over(body([call("w", "mul", "$e", "$k")], v="$w"), e="$rows", k=[1, 2, 3])
    assert checked(card, *nodes, each, t={"tensor": "t"}).saves["v"] == Meta((3,), "float32")


def test_maps_of_too_many_kinds_of_elements_are_refused_in_bounded_time(card: ModelCard):
    """Each list has 60 lengths: 216,000 kinds of elements of the innermost map."""
    lists = [[1] * length for length in range(1, 61)]
    graph = body([get("z", "head:output", index=[0, -1])], ids="$a", v="$z")
    for depth, name in enumerate("abc"):
        graph = body(
            [call(f"n{name}", "neg", f"${name}"), over(graph, id=f"m{depth}", **{name: lists})], v=f"$m{depth}.v"
        )
        graph["nodes"] = graph["nodes"][1:]
    few = card.model_copy(update={"limits": card.limits.model_copy(update={"max_nodes": 2000})})
    began = time.perf_counter()
    with pytest.raises(TooLarge, match="differ in too many ways: more than 2,000 nodes"):
        checked(few, *graph["nodes"], saves={"v": "$m2.v"})
    assert time.perf_counter() - began < 20  # all of them take minutes


def test_sub_graphs_nest_only_so_deep(card: ModelCard):
    graph = body([], v=1)
    for depth in range(10):
        graph = body([over(graph, id=f"m{depth}", **{f"k{depth}": [1]})], v=f"$m{depth}.v")
    with pytest.raises(TooLarge, match="nest deeper than 8"):
        checked(card, *graph["nodes"], saves={"v": "$m9.v"})


@pytest.mark.parametrize(
    ("node", "error", "match"),
    [
        (repeat(-1, {}, body([], v=1)), BadArgument, "integer from 0"),
        (repeat(True, {}, body([], v=1)), BadArgument, "integer from 0"),
        (repeat(1.5, {}, body([], v=1)), BadArgument, "integer from 0"),
        (repeat("$t", {}, body([], v=1)), BadArgument, "n is one integer"),
        (repeat(3, {}, body([], v=1), most=2), BadArgument, "runs 3 times, and its 'most' is 2"),
        (repeat(1, {}, body([], v=1), most="$t"), BadArgument, "most is an integer from 0"),
        (repeat(2, {"y": 1.0}, body([], v=1)), BadArgument, "no output 'y' that renews it"),
        (repeat(2, {"y": 1.0}, body([], y=1)), DtypeError, "begins as float32"),
        (repeat(2, {"y": 1.0}, body([], y=[1.0])), ShapeError, "shapes must stay"),
        (repeat(2, {}, body([], v=1), **{"while": "$t"}), ShapeError, "while one value holds"),
        (repeat(2, {"step": 1.0}, body([], step="$step")), BadArgument, "counts by the name 'step'"),
    ],
)
def test_a_repeat_that_cannot_be_is_refused(card: ModelCard, node: dict[str, Any], error: type[GraphError], match: str):
    with pytest.raises(error, match=match):
        checked(card, node, saves={"v": "$r.v"}, t={"tensor": "t"})


def test_what_a_repeat_stacks_is_as_long_as_it_ran_where_that_is_known(card: ModelCard):
    graph = body([call("h", "mul", "$y", 0.5), call("go", "gt", "$h", 0.1)], y="$h", v="$h", go="$go")
    assert checked(card, repeat(4, {"y": 1.0}, graph), saves={"v": "$r.v", "y": "$r.y"}).saves == {
        "v": Meta((4,), "float32"),
        "y": Meta((), "float32"),
    }
    open_ended = checked(card, repeat(4, {"y": 1.0}, graph, **{"while": "$go"}), saves={"v": "$r.v"})
    assert not isinstance(open_ended.saves["v"].shape[0], int)  # type: ignore[index]


def cond(then: Any, other: Any, holds: Any = True) -> dict[str, Any]:
    return {"kind": "cond", "id": "c", "if": holds, "then": then, "else": other}


def test_a_choice_is_known_as_far_as_its_branches_agree(card: ModelCard):
    read = call("row", "index", "$t", [0])
    saves = {"v": "$c"}
    assert checked(card, read, cond("$row", 0.0), saves=saves, t={"tensor": "t"}).saves["v"] == Meta(None, "float32")
    other = body([call("n", "neg", "$row")], value="$n")
    assert checked(card, read, cond("$row", other), saves=saves, t={"tensor": "t"}).saves["v"] == Meta((4,), "float32")


@pytest.mark.parametrize(
    ("node", "error", "match"),
    [
        (cond(1, 2, "$t"), ShapeError, r"where\(\)"),
        (cond(1, 2, "text"), BadArgument, "chooses by a value"),
        (cond(body([], a=1), body([], b=1)), BadArgument, "both give the same outputs"),
        (cond(body([get("z", "head:output")], ids=[1], value="$z"), 1), BadArgument, "a branch runs no forward"),
    ],
)
def test_a_choice_that_cannot_be_is_refused(card: ModelCard, node: dict[str, Any], error: type[GraphError], match: str):
    with pytest.raises(error, match=match):
        checked(card, node, saves={"v": "$c"}, t={"tensor": "t"})


def test_a_weight_has_no_gradient_of_the_model(card: ModelCard):
    """The model's own use of it does not count, so that an answer would be wrong."""
    run = {"id": "r", "invokes": [{"id": "x", "ids": [1, 2]}]}
    nodes = [
        {"kind": "get", "id": "w", "site": "layers.0.mlp.up:param.weight"},
        get("z", "head:output", index=[0, -1, 3]),
        {"kind": "grad", "id": "g", "of": "$z", "wrt": ["$w"]},
    ]
    document = {"model": {"id": "tiny"}, "runs": [run], "nodes": nodes, "saves": {"g": "$g.0"}}
    with pytest.raises(BadArgument, match="'w' is a weight of the model"):
        check(Graph.model_validate(document), card)
