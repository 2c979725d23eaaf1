"""How long each value is needed, and through which gradients flow."""

from __future__ import annotations

import pytest
import torch

GPT2 = "gpt2-random"
A, B = [5, 6, 7, 8, 9], [20, 21, 22, 23, 24]


def grad(of, *wrt, **more):
    return {"kind": "grad", "id": more.pop("id", "g"), "of": of, "wrt": list(wrt), **more}


def halved(build):
    """The same value four ways: by an operation, by a repeat, by a map and by a choice."""
    half = build.call("half", "mul", "$y", 0.5)
    again = {
        "kind": "repeat",
        "id": "v",
        "n": 1,
        "carry": {"y": "$h"},
        "body": {"nodes": [half], "out": {"y": "$half"}},
    }
    of_each = {"nodes": [build.call("part", "mul", "$h", "$k")], "out": {"y": "$part"}}
    branch = {"nodes": [build.call("half", "mul", "$h", 0.5)], "out": {"value": "$half"}}
    return {
        "call": (build.call("v", "mul", "$h", 0.5), "$v"),
        "repeat": (again, "$v.y"),
        "map": ({"kind": "map", "id": "v", "over": {"k": [0.2, 0.3]}, "body": of_each, "reduce": {"y": "sum"}}, "$v.y"),
        "cond": ({"kind": "cond", "id": "v", "if": True, "then": branch, "else": "$h"}, "$v"),
    }


def through_a_write(build, how):
    node, value = halved(build)[how]
    return build.task(
        GPT2,
        {"clean": A, "x": B},
        build.get("h", "blocks.0:resid_post", invoke="clean"),
        node,
        build.set("blocks.1:resid_post", value, invoke="x"),
        build.get("z", "lm_head:output", [0, -1, 11], invoke="x"),
        grad("$z", "$h"),
        saves={"g": "$g.0"},
    )


@pytest.mark.parametrize("how", ["repeat", "map", "cond"])
def test_gradients_flow_through_a_sub_graph_whose_output_is_written_into_a_forward(gpt2, build, saved, how):
    wanted = saved(gpt2, through_a_write(build, "call"))["g"]
    assert wanted.abs().sum() > 0
    torch.testing.assert_close(saved(gpt2, through_a_write(build, how))["g"], wanted, rtol=1e-4, atol=1e-6)


def in_a_map(build, how):
    node, value = halved(build)[how]
    nodes = [
        node,
        build.set("blocks.1:resid_post", value, invoke="x"),
        build.get("z", "lm_head:output", [0, -1, 11], invoke="x"),
    ]
    body = {"runs": [{"id": "rr", "invokes": [{"id": "x", "ids": "$ids"}]}], "nodes": nodes, "out": {"z": "$z"}}
    each = {"kind": "map", "id": "m", "over": {"ids": [A, B]}, "body": body, "reduce": {"z": "sum"}}
    read = build.get("h", "blocks.0:resid_post", invoke="clean")
    return build.task(GPT2, {"clean": A}, read, each, grad("$m.z", "$h"), saves={"g": "$g.0"})


def test_gradients_flow_through_a_repeat_and_a_write_inside_a_map(gpt2, build, saved):
    wanted = saved(gpt2, in_a_map(build, "call"))["g"]
    assert wanted.abs().sum() > 0
    torch.testing.assert_close(saved(gpt2, in_a_map(build, "repeat"))["g"], wanted, rtol=1e-4, atol=1e-6)
