"""Edits put in place: names, arguments, order, sub-graphs, generations, limits, and errors that name the edit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from telepatch_protocol import wire
from telepatch_protocol.card import ModelCard
from telepatch_protocol.check import check
from telepatch_protocol.errors import BadArgument, CausalLoop, GraphError, NotFound, ShapeError, TooLarge, UnknownName
from telepatch_protocol.expanding import applies_edits, expand, names_of
from telepatch_protocol.graph import Graph, Map, Repeat
from telepatch_protocol.meta import Meta
from telepatch_protocol.subgraphs import all_nodes

GOLDEN = Path(__file__).parents[1] / "wire" / "1.1"
STEER = wire.decode_edit((GOLDEN / "edit.json").read_text())
SITE = "blocks.2:resid_post"


def edit(*nodes: dict[str, Any], **changes: Any) -> Any:
    return wire.edit_from_dict({"protocol": [1, 1], "model": {"id": "tiny"}, "nodes": list(nodes), **changes})


def write(value: Any, id: str = "w") -> dict[str, Any]:
    return {"kind": "set", "id": id, "site": SITE, "value": value}


def graph(*edits: dict[str, Any], nodes: Any = (), **changes: Any) -> Graph:
    read = {"kind": "get", "id": "o", "site": "unembed:output", "invoke": "a"}
    return wire.from_dict(
        {
            "protocol": [1, 1],
            "model": {"id": "tiny"},
            "runs": [{"id": "r", "invokes": [{"id": "a", "ids": [1, 2, 3], "edits": list(edits)}]}],
            "nodes": [*nodes, read],
            "saves": {"o": "$o"},
            "lines": {"a": "study.py:3"},
            **changes,
        }
    )


def test_a_graph_without_edits_stays_as_it_is():
    plain = graph()
    assert not applies_edits(plain)
    assert expand(plain, {}, most=10).graph is plain


def test_the_nodes_of_an_edit_stand_in_front_under_names_of_their_own(card: ModelCard):
    found = expand(
        graph({"name": "steer", "arguments": {"direction": [1] * 8}}, nodes=[write(0)]), {"steer": STEER}, most=20
    ).graph
    assert [node.id for node in found.nodes][:4] == ["steer_0_h", "steer_0_push", "steer_0_moved", "steer_0_w"]
    assert found.nodes[0].invoke == "a"
    assert found.nodes[0].site == "blocks.{steer_layer}:resid_post"
    assert found.constants == {"steer_last": -1, "steer_layer": 2, "steer_scale": 0.5, "steer_0_direction": [1] * 8}
    assert found.protocol == (1, 0)
    assert wire.decode(found.to_json()) == found
    check(found, card)


def test_arguments_are_constants_values_and_what_earlier_jobs_saved(card: ModelCard):
    arguments = {"direction": {"result": "j", "name": "v"}, "scale": "$s"}
    scale = {"kind": "call", "id": "s", "op": "mean", "args": ["$other"]}
    other = {"kind": "get", "id": "other", "site": "blocks.0:resid_post"}
    applied = graph({"name": "steer", "arguments": arguments}, nodes=[other, scale])
    found = expand(applied, {"steer": STEER}, most=20).graph
    (push,) = [node for node in found.nodes if node.id == "steer_0_push"]
    assert push.args == ("$steer_0_direction", "$s")
    check(found, card, results=lambda job, name: Meta((8,), "float32"))
    with pytest.raises(ShapeError) as caught:
        check(found, card, results=lambda job, name: Meta((7,), "float32"))
    error = expand(applied, {"steer": STEER}, most=20).explain(caught.value)
    assert error.detail.startswith("edit 'steer', node 'moved'")
    assert (error.node, error.file, error.line) == ("a", "study.py", 3)


def test_the_line_of_the_edit_is_told_beside_that_of_the_input(card: ModelCard):
    expanded = expand(graph({"name": "steer", "arguments": {"direction": [[1] * 8] * 9}}), {"steer": STEER}, most=20)
    with pytest.raises(ShapeError) as caught:
        check(expanded.graph, card)
    assert expanded.explain(caught.value).detail.startswith("edit 'steer', node 'w' (steering.py:4): a value of shape")


def test_an_edit_applied_twice_shares_its_constants_and_nothing_else():
    one = {"name": "steer", "arguments": {"direction": [1] * 8}}
    two = {"name": "steer", "arguments": {"direction": [2] * 8, "scale": 2}}
    found = expand(graph(one, two), {"steer": STEER}, most=20).graph
    assert len({node.id for node in found.nodes}) == len(found.nodes) == 9
    assert [name for name in found.constants if name.endswith("last")] == ["steer_last"]
    sets = [node for node in found.nodes if node.kind == "set"]
    assert [node.value for node in sets] == ["$steer_0_moved", "$steer_1_moved"]


def test_names_that_are_taken_are_evaded():
    taken = graph({"name": "e", "arguments": {}}, constants={"e_0_w": 1, "e_0_w_1": 2})
    found = expand(taken, {"e": edit(write(0))}, most=20).graph
    ids = [node.id for node in found.nodes]
    assert len({*ids, *found.constants}) == len(ids) + len(found.constants)
    long = expand(graph({"name": "x" * 64}), {"x" * 64: edit(write(0, id="y" * 64))}, most=20).graph
    assert all(len(node.id) <= 64 for node in long.nodes)


def test_what_loops_bind_and_carry_is_renamed_with_all_that_names_it(card: ModelCard):
    body = {
        "nodes": [
            {"kind": "call", "id": "z", "op": "mul", "args": ["$y", "$step"]},
            {"kind": "call", "id": "n", "op": "sum", "args": ["$z"]},
        ],
        "out": {"y": "$z", "k": "$n"},
    }
    read = {"kind": "get", "id": "h", "site": SITE}
    loop = {"kind": "repeat", "id": "rep", "n": 3, "carry": {"y": "$h"}, "body": body, "while": "$k"}
    part = {"nodes": [{"kind": "call", "id": "q", "op": "add", "args": ["$row", "$k"]}], "out": {"q": "$q"}}
    mapped = {"kind": "map", "id": "m", "over": {"row": "$rep.y"}, "body": part}
    made = edit(read, loop, mapped, write("$m.q"), arguments={"k": {"default": 1}})
    expanded = expand(graph({"name": "e"}, {"name": "e"}), {"e": made}, most=30)
    first = next(node for node in expanded.graph.nodes if isinstance(node, Repeat))
    assert first.carry == {"e_0_y": "$e_0_h"}
    assert first.body.out == {"e_0_y": "$e_0_z", "k": "$e_0_n"}
    assert first.while_ == "$k"
    second = next(node for node in expanded.graph.nodes if isinstance(node, Map))
    assert second.over == {"e_0_row": "$e_0_rep.e_0_y"}
    assert second.body.nodes[0].args == ("$e_0_row", "$e_k")
    check(expanded.graph, card)


def test_references_are_renamed_in_slices_and_literals_are_left_alone():
    made = edit(
        {"kind": "get", "id": "h", "site": SITE, "index": [":", "$at:$at"]},
        {"kind": "call", "id": "e", "op": "einsum", "args": ["$$at,$h:x", ["$h", "$h"]]},
        write("$e"),
        arguments={"at": {"default": 1}},
    )
    found = expand(graph({"name": "e", "arguments": {"at": "$o.length"}}), {"e": made}, most=9).graph
    assert found.nodes[0].index == [":", "$o.length:$o.length"]
    assert found.nodes[1].args == ("$$at,$h:x", ["$e_0_h", "$e_0_h"])


def test_an_edit_of_an_input_inside_a_map_is_put_inside_it(card: ModelCard):
    inner = [{"id": "x", "ids": [1, 2], "edits": [{"name": "steer", "arguments": {"direction": "$d", "scale": "$k"}}]}]
    body = {
        "runs": [{"id": "r2", "invokes": inner}],
        "nodes": [{"kind": "get", "id": "l", "site": "unembed:output", "invoke": "x"}],
        "out": {"l": "$l"},
    }
    direction = {"kind": "call", "id": "d", "op": "ones", "args": [[8]]}
    sweep = {"kind": "map", "id": "m", "over": {"k": [0.0, 1.0]}, "body": body}
    found = expand(graph(nodes=[direction, sweep], saves={"l": "$m.l"}), {"steer": STEER}, most=20).graph
    (node,) = [node for node in found.nodes if isinstance(node, Map)]
    assert [one.id for one in node.body.nodes][:4] == ["steer_0_h", "steer_0_push", "steer_0_moved", "steer_0_w"]
    assert not applies_edits(found)
    assert check(found, card).saves["l"].shape == (2, 1, 2, 100)


def test_the_edits_of_a_generation_are_evaluated_at_every_step():
    run = {"id": "r", "invokes": [{"id": "a", "ids": [1], "edits": [{"name": "e"}]}], "generate": {"max_new_tokens": 3}}
    found = expand(graph(runs=[run]), {"e": edit(write(0))}, most=9).graph
    assert found.runs[0].each is not None
    assert [node.id for node in found.runs[0].each.nodes] == ["e_0_w"]
    assert [node.id for node in found.nodes] == ["o"]


@pytest.mark.parametrize(
    ("applied", "kind", "says"),
    [
        ({"name": "other"}, NotFound, "no edit 'other' among yours"),
        ({"name": "steer"}, BadArgument, "'steer' needs a value for its argument 'direction'"),
        ({"name": "steer", "arguments": {"direktion": 1}}, UnknownName, "did you mean 'direction'"),
        ({"name": "steer", "arguments": {"direction": ["$o"]}}, BadArgument, "holds values in a list"),
        ({"name": "steer", "arguments": {"direction": 1, "layer": "$o.x"}}, BadArgument, "takes a number"),
        ({"name": "elsewhere"}, BadArgument, "is of model 'large', and is applied to 'tiny'"),
        ({"name": "old"}, BadArgument, "made for revision r0"),
        ({"name": "gone"}, GraphError, "gone for good"),
    ],
)
def test_what_cannot_be_applied_is_refused_at_the_line_of_the_input(applied: Any, kind: type[Exception], says: str):
    known = {
        "steer": STEER,
        "elsewhere": edit(write(0), model={"id": "large"}),
        "old": edit(write(0), model={"id": "tiny", "revision": "r0"}),
        "gone": BadArgument("gone for good"),
    }
    with pytest.raises(kind, match=says) as caught:
        expand(graph(applied, model={"id": "tiny", "revision": "r1"}), known, most=20)
    assert (caught.value.node, caught.value.file, caught.value.line) == ("a", "study.py", 3)


def test_edits_count_against_the_limits_of_the_graph():
    many = [{"id": f"x{at}", "ids": [1], "edits": [{"name": "e"}] * 16} for at in range(50)]
    with pytest.raises(TooLarge, match="more than 100 nodes"):
        expand(graph(runs=[{"id": "r", "invokes": many}]), {"e": edit(write(0))}, most=100)
    big = edit(write([0.125] * 30_000))
    with pytest.raises(TooLarge, match="bytes"):
        expand(graph(runs=[{"id": "r", "invokes": many}]), {"e": big}, most=1000)
    with pytest.raises(GraphError, match="16"):
        graph(*[{"name": "e"}] * 17)


def test_a_graph_whose_edits_are_not_in_place_does_not_pass_the_check(card: ModelCard):
    with pytest.raises(BadArgument, match="puts in place"):
        check(graph({"name": "e"}), card)


def test_the_edits_that_a_graph_brings_along_are_not_looked_up(card: ModelCard):
    document = wire.decode((GOLDEN / "edits.json").read_text())
    assert names_of(document) == {"steer"}
    expanded = expand(document, wire.edits_of(document) | {"steer": STEER}, most=20)
    assert len(list(all_nodes(expanded.graph))) == 8
    assert json.loads(expanded.graph.to_json())["protocol"] == [1, 0]
    check(expanded.graph, card, attachment={"d": Meta((8,), "float32")})


def test_a_loop_through_an_edit_names_it_at_the_line_of_the_input(card: ModelCard):
    late = {"kind": "get", "id": "late", "site": "blocks.3:resid_post", "invoke": "a"}
    expanded = expand(
        graph({"name": "e", "arguments": {"v": "$late"}}, nodes=[late]),
        {"e": edit(write("$v"), arguments={"v": {}})},
        most=20,
    )
    with pytest.raises(CausalLoop) as caught:
        check(expanded.graph, card)
    error = expanded.explain(caught.value)
    assert (error.node, error.file, error.line) == ("a", "study.py", 3)
    assert error.detail.startswith("edit 'e', node 'w'")
    assert "e_0_w" not in error.detail
