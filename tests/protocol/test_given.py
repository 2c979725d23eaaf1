"""What a graph gives to its invokes, at any depth, as far as it stands in the document."""

from __future__ import annotations

from typing import Any

from telepatch_protocol.given import given, named, texts
from telepatch_protocol.graph import Graph


def run(id: str, form: str, value: Any) -> dict[str, Any]:
    return {"id": f"run_{id}", "invokes": [{"id": id, form: value}]}


def over(id: str, *runs: dict[str, Any], nodes: tuple[Any, ...] = (), **names: Any) -> dict[str, Any]:
    return {"kind": "map", "id": id, "over": names, "body": {"runs": list(runs), "nodes": list(nodes)}}


def graph(*nodes: dict[str, Any], runs: tuple[Any, ...] = (), **constants: Any) -> Graph:
    document = {"model": {"id": "m"}, "runs": runs, "nodes": nodes, "saves": {"v": "$v"}, "constants": constants}
    return Graph.model_validate(document)


def pairs(of: Graph) -> list[tuple[str, Any]]:
    return [(invoke.id, value) for invoke, value in given(of)]


def test_literals_and_constants_are_given():
    found = graph(runs=(run("a", "text", "one"), run("b", "text", "$p"), run("c", "ids", [1, 2])), p="two")
    assert pairs(found) == [("a", "one"), ("b", "two"), ("c", [1, 2])]


def test_a_map_gives_every_element_of_its_list():
    found = graph(
        over("m", run("x", "text", "$p"), p="$all"), over("n", run("y", "ids", "$q"), q=[[1], [2]]), all=["a", "b"]
    )
    assert pairs(found) == [("x", "a"), ("x", "b"), ("y", [1]), ("y", [2])]


def test_maps_side_by_side_may_call_their_elements_alike():
    found = graph(over("m", run("x", "text", "$p"), p=["a", "b"]), over("n", run("y", "text", "$p"), p=["c"]))
    assert list(texts(found)) == [("x", "a"), ("x", "b"), ("y", "c")]


def test_the_elements_of_a_map_around_are_given_inside():
    inner = over("n", run("x", "text", "$p"), k=[1, 2])
    assert list(texts(graph(over("m", nodes=(inner,), p=["a", "b"])))) == [("x", "a"), ("x", "b")]


def test_lists_in_a_list_are_taken_apart_by_maps_inside_each_other():
    inner = over("n", run("x", "text", "$p"), p="$group")
    assert [text for _, text in texts(graph(over("m", nodes=(inner,), group=[["a", "b"], ["c"]])))] == ["a", "b", "c"]


def test_runs_in_a_repeat_are_found():
    body = {"runs": [run("x", "text", "again"), run("y", "ids", "$carried")]}
    node = {"kind": "repeat", "id": "r", "n": 2, "carry": {"carried": "$start"}, "body": body}
    assert pairs(graph(node, start=[1, 2])) == [("x", "again")]


def test_what_is_computed_or_comes_from_elsewhere_is_left_out():
    found = graph(
        {"kind": "call", "id": "ids", "op": "zeros", "args": [[3]], "kwargs": {"dtype": "int64"}},
        over("m", run("x", "text", "$p"), p="$column"),
        runs=(run("a", "ids", "$ids"),),
        column={"data": "0" * 64},
    )
    assert pairs(found) == []


def test_an_escaped_dollar_is_text():
    assert list(texts(graph(runs=(run("a", "text", "$$5"),)))) == [("a", "$5")]


def test_several_texts_of_one_invoke_are_told_one_by_one():
    assert list(texts(graph(runs=(run("a", "text", ["one", "two"]),)))) == [("a", "one"), ("a", "two")]


def test_named_tensors_are_found_by_name():
    invoke = {"id": "x", "inputs": {"pixels": "$image", "mask": [1, 0], "made": "$computed"}}
    found = graph(over("m", {"id": "r", "invokes": [invoke]}, k=[1]), image={"tensor": "t"})
    assert [(one.id, name, value) for one, name, value in named(found)] == [
        ("x", "pixels", {"tensor": "t"}),
        ("x", "mask", [1, 0]),
    ]
