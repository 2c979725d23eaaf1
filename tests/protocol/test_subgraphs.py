"""Which nodes carry sub-graphs, which names these bind, and what lies at any depth."""

from __future__ import annotations

from typing import Any

import pytest

from telepatch_protocol.graph import Graph, Node
from telepatch_protocol.subgraphs import all_nodes, all_runs, arguments_of, bodies_of, has_bodies, has_runs, inputs_of


def call(id: str, *args: Any) -> dict[str, Any]:
    return {"kind": "call", "id": id, "op": "neg", "args": list(args)}


def body(*nodes: dict[str, Any], runs: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"runs": [{"id": run, "invokes": [{"id": f"x_{run}", "ids": [1]}]} for run in runs], "nodes": list(nodes)}


def graph(*nodes: dict[str, Any]) -> Graph:
    return Graph.model_validate({"model": {"id": "m"}, "nodes": nodes, "saves": {"v": "$v"}})


def only(node: dict[str, Any]) -> Node:
    return graph(node).nodes[0]


MAP = {"kind": "map", "id": "m", "over": {"k": "$list", "j": [1]}, "body": body(call("a")), "emit": {"e": "$a"}}
REPEAT = {"kind": "repeat", "id": "r", "n": "$n", "carry": {"y": "$x"}, "body": body(call("b")), "while": "$go"}
COND = {"kind": "cond", "id": "c", "if": "$i", "then": body(call("t")), "else": body(call("o"))}
GRAD = {"kind": "grad", "id": "g", "of": "$s", "wrt": ["$h"], "body": body(call("q"))}


@pytest.mark.parametrize(
    ("node", "names", "binds", "tail"),
    [
        (MAP, ["m"], {"k", "j"}, ("$a",)),
        (REPEAT, ["r"], {"y", "step"}, ("$go",)),
        (COND, ["c.then", "c.else"], set(), ()),
        (COND | {"then": "$x"}, ["c.else"], set(), ()),
        (GRAD, ["g"], set(), ()),
        ({"kind": "grad", "id": "g", "of": "$s", "wrt": ["$h"]}, [], set(), ()),
        (call("n"), [], set(), ()),
    ],
)
def test_sub_graphs_are_known_by_name_with_what_they_bind(node: Any, names: list[str], binds: set[str], tail: Any):
    found = bodies_of(only(node))
    assert [one.name for one in found] == names
    assert all(one.binds == binds and one.tail == tail for one in found)


@pytest.mark.parametrize(
    ("node", "takes"),
    [
        (MAP, ("$list", [1])),
        (REPEAT, ("$n", "$x")),
        (COND, ("$i",)),
        (COND | {"else": "$x"}, ("$i", "$x")),
        (GRAD, ("$s", "$h")),
        (call("n", "$x"), ()),
    ],
)
def test_what_a_node_takes_from_where_it_stands_is_apart_from_its_sub_graphs(node: Any, takes: tuple[Any, ...]):
    assert arguments_of(only(node)) == takes


def test_nodes_at_any_depth_come_after_the_node_that_carries_them():
    deep = MAP | {"body": body(COND, call("after"))}
    assert [node.id for node in all_nodes(graph(deep, call("last")))] == ["m", "c", "t", "o", "after", "last"]


def test_runs_at_any_depth_are_found():
    deep = MAP | {"body": body(REPEAT | {"body": body(runs=("inner",))}, runs=("outer",))}
    found = graph(deep)
    assert {run.id for run in all_runs(found)} == {"outer", "inner"}
    assert has_runs(bodies_of(found.nodes[0])[0].graph)
    assert not has_runs(bodies_of(only(MAP))[0].graph)


def test_a_graph_has_sub_graphs_or_not():
    assert has_bodies(graph(call("n"), COND))
    assert not has_bodies(graph(call("n"), COND | {"then": 1, "else": 2}))


def test_a_deep_graph_is_walked_without_recursion():
    node: dict[str, Any] = call("n0")
    for depth in range(1, 40):
        node = MAP | {"id": f"n{depth}", "body": body(node)}
    assert len(list(all_nodes(graph(node)))) == 40


@pytest.mark.parametrize(
    ("invoke", "takes"),
    [
        ({"text": "$t"}, ["$t"]),
        ({"ids": [1, "$i"]}, [[1, "$i"]]),
        ({"messages": "$m"}, ["$m"]),
        ({"messages": [{"role": "user", "content": "$no reference"}]}, []),
        ({"inputs": {"pixels": "$p"}}, ["$p"]),
    ],
)
def test_inputs_of_every_form_are_found_and_messages_hold_no_references(invoke: dict[str, Any], takes: list[Any]):
    made = Graph.model_validate(
        {"model": {"id": "m"}, "runs": [{"id": "r", "invokes": [{"id": "x", **invoke}]}], "saves": {"v": "$v"}}
    )
    assert [one for one in inputs_of(made.runs[0].invokes[0]) if one is not None] == takes
