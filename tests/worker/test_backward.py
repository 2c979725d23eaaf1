"""Gradients of many numbers in few backward passes, none of which gets what belongs to another."""

from __future__ import annotations

import pytest
import torch

from telepatch_worker.backward import fulfil
from telepatch_worker.requests import Backward
from telepatch_worker.tracks import value_track

GPT2 = "gpt2-random"
A, B = [5, 6, 7, 8, 9], [20, 21, 22]


@pytest.fixture
def passes(monkeypatch):
    """How many tensors each backward pass was asked about."""
    found: list[int] = []
    plain = torch.autograd.grad

    def counted(of, tensors, **more):
        found.append(len(tensors))
        return plain(of, tensors, **more)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    return found


def leaf(*numbers):
    return torch.tensor(numbers, requires_grad=True)


def asked(of, tensor, scope, *around):
    return Backward(of, [[value_track(tensor, (scope, "x"))]], sees=frozenset({*around, scope}))


def test_numbers_of_scopes_that_do_not_see_each_other_share_a_pass(passes):
    one, two = leaf(1.0, 2.0), leaf(3.0)
    requests = [asked((one**2).sum(), one, 1, 0), asked((two**3).sum(), two, 2, 0)]
    fulfil(requests)
    assert passes == [2]
    assert requests[0].found[0][0].tolist() == [2.0, 4.0]
    assert requests[1].found[0][0].tolist() == [27.0]


def test_a_number_that_may_depend_on_a_value_of_which_another_is_asked_takes_a_pass_of_its_own(passes):
    """Two elements of a map: one asks about a value around the map, on which the number of the other depends too."""
    around, own = leaf(2.0), leaf(5.0)
    first = Backward((around * 3).sum(), [[value_track(around, (0, "h"))]], sees=frozenset({0, 1}))
    second = Backward((around * own).sum(), [[value_track(own, (2, "e"))]], sees=frozenset({0, 2}))
    fulfil([first, second])
    assert first.found[0][0].tolist() == [3.0]
    assert second.found[0][0].tolist() == [2.0]
    assert len(passes) == 2


def test_a_number_without_a_graph_has_no_gradients_and_takes_no_pass(passes):
    request = asked(torch.tensor(1.0), leaf(1.0), 1)
    fulfil([request])
    assert request.found == [[None]]
    assert passes == []


def test_nothing_accumulates_and_a_graph_serves_twice():
    x = leaf(2.0)
    of = (x**2).sum()
    for _ in range(2):
        request = asked(of, x, 1)
        fulfil([request])
        assert request.found[0][0].tolist() == [4.0]
    assert x.grad is None


def test_elements_that_ask_at_different_times_get_their_own_gradients(gpt2, build, saved):
    """Elements repeat a different number of times before they ask, so that each asks when another asks elsewhere."""
    grad_of = {"kind": "grad", "of": "$z", "id": "g1", "wrt": ["$h"]}
    grad_own = {"kind": "grad", "of": "$w", "id": "g2", "wrt": ["$z"]}
    wait = {
        "kind": "repeat",
        "id": "wait",
        "n": "$k",
        "carry": {"c": 1.0},
        "body": {
            "runs": [{"id": "ri", "invokes": [{"id": "y", "ids": A}]}],
            "nodes": [
                build.get("seen", "lm_head:output", [0, -1, 3], invoke="y"),
                build.call("s", "mul", "$seen", 0.0),
                build.call("same", "add", "$c", "$s"),
            ],
            "out": {"c": "$same"},
        },
    }
    nodes = [
        wait,
        build.call("scaled", "mul", "$h", "$wait.c"),
        build.call("p", "mul", "$scaled", "$k"),
        build.call("q", "pow", "$p", 2),
        build.call("z", "sum", "$q"),
        grad_of,
        build.call("w", "mul", "$z", "$z"),
        grad_own,
    ]
    body = {"nodes": nodes, "out": {"g1": "$g1.0", "g2": "$g2.0", "z": "$z"}}
    each = {"kind": "map", "id": "m", "over": {"k": [1, 2, 3]}, "body": body}
    task = build.task(
        GPT2,
        {"a": A},
        build.get("h", "blocks.0:resid_post"),
        each,
        saves={n: f"$m.{n}" for n in ("g1", "g2", "z")} | {"h": "$h"},
    )
    found = saved(gpt2, task)
    for row, k in enumerate((1, 2, 3)):
        torch.testing.assert_close(found["g1"][row], 2 * k**2 * found["h"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found["g2"][row], 2 * found["z"][row], rtol=1e-4, atol=1e-5)
