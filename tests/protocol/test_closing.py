"""The end of a scope: what happens only between forwards, and the order of gradients on their way back."""

from __future__ import annotations

from typing import Any

import pytest

from telepatch_protocol.card import ModelCard
from telepatch_protocol.check import check
from telepatch_protocol.checked import Checked
from telepatch_protocol.errors import CausalLoop, TooLarge, UnknownName
from telepatch_protocol.graph import Graph

GRAD = {"kind": "grad", "id": "g", "of": "$s", "wrt": ["$h"]}
RUN = {"id": "rr", "invokes": [{"id": "y", "ids": [1, 2]}]}


def get(id: str, site: str, invoke: str = "a", **more: Any) -> dict[str, Any]:
    return {"kind": "get", "id": id, "site": site, "invoke": invoke, **more}


def put(id: str, site: str, value: Any, invoke: str = "a", **more: Any) -> dict[str, Any]:
    return {"kind": "set", "id": id, "site": site, "invoke": invoke, "value": value, **more}


def call(id: str, op: str, *args: Any) -> dict[str, Any]:
    return {"kind": "call", "id": id, "op": op, "args": list(args)}


def checked(card: ModelCard, *nodes: dict[str, Any], saves: dict[str, str] | None = None) -> Checked:
    runs = [{"id": "r", "invokes": [{"id": "a", "ids": [1, 2, 3]}, {"id": "b", "ids": [1, 2, 3]}]}]
    first = [get("h", "blocks.0:resid_post"), call("s", "sum", "$h")]
    document = {"model": {"id": "tiny"}, "runs": runs, "nodes": [*first, *nodes], "saves": saves or {"s": "$s"}}
    return check(Graph.model_validate(document), card)


def over(nodes: list[Any], out: str, *, runs: tuple[Any, ...] = (), **kind: Any) -> dict[str, Any]:
    return {"id": "n", "body": {"runs": list(runs), "nodes": nodes, "out": {"v": out}}, **kind}


MAP = {"kind": "map", "over": {"k": [1, 2]}}
REPEAT = {"kind": "repeat", "n": 2}


@pytest.mark.parametrize(
    ("node", "waits"),
    [
        (GRAD, True),
        (over([call("c", "mul", "$s", "$k")], "$c", **MAP), False),
        (over([get("z", "head:output", "y")], "$z", runs=(RUN,), **MAP), True),
        (over([GRAD], "$g.0", **MAP), True),
        (over([call("c", "mul", "$s", 2)], "$c", **REPEAT), False),
        (over([GRAD], "$g.0", **REPEAT), True),
        ({"kind": "cond", "id": "n", "if": True, "then": "$s", "else": 0}, False),
        (
            {"kind": "cond", "id": "n", "if": True, "then": {"nodes": [GRAD], "out": {"value": "$g.0"}}, "else": "$h"},
            True,
        ),
        (over([over([GRAD], "$g.0", **MAP)], "$n2.v", **REPEAT), True),
    ],
)
def test_only_what_runs_forwards_or_asks_for_gradients_waits_for_a_forward_to_be_over(
    card: ModelCard, node: dict[str, Any], waits: bool
):
    if node.get("kind") == "repeat" and node["body"]["nodes"][0]["kind"] == "map":
        node = {**node, "body": {**node["body"], "nodes": [{**node["body"]["nodes"][0], "id": "n2"}]}}
    assert checked(card, node).scope.between == ({node["id"]} if waits else frozenset())


def test_reads_of_which_a_gradient_is_asked_anywhere_are_tracked(card: ModelCard):
    inside = over([GRAD], "$g.0", **MAP)
    assert checked(card, get("other", "blocks.1:resid_post"), inside).scope.tracked == {"h"}


def test_what_an_input_is_computed_from_comes_in_an_earlier_forward(card: ModelCard):
    nodes = [
        get("z", "head:output", index=[0, -1]),
        call("best", "argmax", "$z", -1),
        call("ids", "reshape", "$best", [1]),
    ]
    late = get("y", "head:output", "c")
    document = {
        "model": {"id": "tiny"},
        "runs": [
            {"id": "r2", "invokes": [{"id": "c", "ids": "$ids"}]},
            {"id": "r", "invokes": [{"id": "a", "ids": [1]}]},
        ],
        "nodes": [late, *nodes],
        "saves": {"y": "$y"},
    }
    found = check(Graph.model_validate(document), card)
    assert [one.invokes for one in found.schedule.passes] == [("a",), ("c",)]


def body(*nodes: dict[str, Any], **out: str) -> dict[str, Any]:
    return {**GRAD, "body": {"nodes": list(nodes), "out": out}}


def test_a_gradient_written_from_one_that_came_by_earlier_is_in_order(card: ModelCard):
    late, early = get("q", "blocks.2:resid_post.grad"), put("w", "blocks.1:resid_post.grad", "$twice")
    checked(card, body(early, late, call("twice", "mul", "$q", 2)))


def test_a_gradient_written_from_one_that_comes_by_later_is_a_causal_loop(card: ModelCard):
    late, early = get("q", "blocks.1:resid_post.grad"), put("w", "blocks.2:resid_post.grad", "$twice")
    with pytest.raises(CausalLoop, match="'w' needs that of 'q'") as caught:
        checked(card, body(early, late, call("twice", "mul", "$q", 2)))
    assert (caught.value.node, caught.value.parent) == ("w", "q")


def test_at_one_place_gradients_are_read_and_written_as_they_stand(card: ModelCard):
    read, write = get("q", "blocks.1:resid_post.grad"), put("w", "blocks.1:resid_post.grad", "$q")
    checked(card, body(read, write))
    with pytest.raises(CausalLoop):
        checked(card, body(write, read))


def test_what_came_by_on_the_way_back_is_known_in_the_body_alone(card: ModelCard):
    reading = body(get("q", "blocks.1:resid_post.grad"), q="$q")
    checked(card, reading, call("after", "neg", "$g.q"), saves={"q": "$after"})
    with pytest.raises(UnknownName, match=r"'\$q' refers to nothing"):
        checked(card, reading, call("after", "neg", "$q"), saves={"q": "$after"})


def test_a_scope_that_needs_too_many_forwards_is_refused(card: ModelCard):
    """Each input gets, early, what the one before it has late."""
    names = [f"i{at}" for at in range(40)]
    nodes: list[dict[str, Any]] = []
    for at, name in enumerate(names):
        nodes += [put(f"w{at}", "blocks.0:resid_post", f"$v{at - 1}", name)] if at else []
        nodes += [get(f"v{at}", "blocks.3:resid_post", name)]
    runs = [{"id": "r", "invokes": [{"id": name, "ids": [1, 2]} for name in names]}]
    document = {"model": {"id": "tiny"}, "runs": runs, "nodes": nodes, "saves": {"v": "$v39"}}
    with pytest.raises(TooLarge, match=r"40 forwards; the limit is 32"):
        check(Graph.model_validate(document), card)
