"""Outputs of a map made of those of its elements, whatever the order in which these come."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from telepatch_protocol.errors import ShapeError, TooLarge
from telepatch_protocol.graph import Map, SubGraph
from telepatch_worker.engine import BatchLimits
from telepatch_worker.folds import Fold, stacked


class Held:
    """Bytes that a fold says it holds."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def __call__(self, count: int) -> None:
        self.now += count
        self.most = max(self.most, self.now)


def folded(how: str, rows: list[Any], *, order: list[int] | None = None, lead=None, weights=None, keep=False) -> Any:
    reduce: Any = {"v": how}
    out = {"v": "$v"} | ({"weight": "$w"} if weights else {})
    fold = Fold(
        Map(id="m", over={"k": [1]}, body=SubGraph(out=out), reduce=reduce),
        lead or (len(rows),),
        keep=keep,
        hold=Held(),
    )
    for at in order or range(len(rows)):
        value = rows[at] if isinstance(rows[at], torch.Tensor) else torch.tensor(rows[at])
        fold.add(at, {"v": value} | ({"weight": torch.tensor(weights[at])} if weights else {}))
    return fold.values()


ROWS = [[1.0, 5.0], [4.0, 2.0], [3.0, 3.0]]


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1]])
@pytest.mark.parametrize(
    ("how", "wanted"),
    [
        ("stack", ROWS),
        ("cat", [1.0, 5.0, 4.0, 2.0, 3.0, 3.0]),
        ("sum", [8.0, 10.0]),
        ("mean", [8 / 3, 10 / 3]),
        ("max", [4.0, 5.0]),
        ("min", [1.0, 2.0]),
    ],
)
def test_the_order_in_which_elements_come_makes_no_difference(how, wanted, order):
    torch.testing.assert_close(folded(how, ROWS, order=order)["v"], torch.tensor(wanted))


def test_a_grid_is_stacked_on_an_axis_for_each_list():
    assert folded("stack", ROWS * 2, lead=(2, 3))["v"].shape == (2, 3, 2)


def test_parts_of_different_lengths_are_told_with_their_lengths():
    found = folded("cat", [[1.0], [2.0, 3.0]], order=[1, 0])
    assert found["v"].tolist() == [1.0, 2.0, 3.0]
    assert found["v.lengths"].tolist() == [1, 2]


def test_a_weighted_mean_divides_by_all_weights():
    assert folded("weighted", ROWS, weights=[1, 0, 3])["v"].tolist() == [10 / 4, 14 / 4]


@pytest.mark.parametrize(
    ("how", "given", "becomes"),
    [
        ("sum", torch.bfloat16, torch.float32),
        ("sum", torch.int32, torch.int64),
        ("sum", torch.float64, torch.float64),
        ("mean", torch.int64, torch.float32),
        ("max", torch.bfloat16, torch.bfloat16),
    ],
)
def test_dtypes_are_those_that_checking_promised(how, given, becomes):
    assert folded(how, [torch.ones(2, dtype=given)] * 3)["v"].dtype == becomes


def test_a_sum_of_small_floats_does_not_stop_growing():
    """In bfloat16 one more than 256 is 256."""
    assert folded("sum", [torch.ones((), dtype=torch.bfloat16)] * 1000)["v"].item() == 1000


def test_graphs_go_on_only_where_gradients_flow():
    x = torch.ones(2, requires_grad=True)
    assert not folded("sum", [x * 1, x * 2])["v"].requires_grad
    (found,) = torch.autograd.grad(folded("sum", [x * 1, x * 2], keep=True)["v"].sum(), [x])
    assert found.tolist() == [3.0, 3.0]


@pytest.mark.parametrize("how", ["sum", "max", "stack"])
def test_elements_of_different_shapes_are_told_apart(how):
    with pytest.raises(ShapeError, match=r"\(2,\)"):
        folded(how, [[1.0], [1.0, 2.0]])


def test_stacked_values_of_different_shapes_are_refused_with_them():
    with pytest.raises(ShapeError, match=r"\(1,\), \(2,\)"):
        stacked([torch.ones(1), torch.ones(2)], (2,))


def test_what_is_gathered_counts_while_it_is_gathered_and_no_longer():
    held = Held()
    fold = Fold(Map(id="m", over={"k": [1]}, body=SubGraph(out={"v": "$v"})), (3,), keep=False, hold=held)
    for at in range(3):
        fold.add(at, {"v": torch.zeros(4)})
    assert (held.now, held.most) == (48, 48)
    fold.values()
    assert held.now == 0


def growing(build, kind):
    """A hundred values of 4,000 bytes at most, each of as many numbers as a mask says."""
    mask, kept = build.call("mask", "gt", "$t", 0.0), build.call("kept", "index", "$t", ["$mask"])
    body = {"nodes": [mask, kept], "out": {"v": "$kept"}}
    over = {"over": {"k": {"range": [0, 100]}}} if kind == "map" else {"n": 100}
    return build.task(
        "gpt2-random",
        {},
        {"kind": kind, "id": "m", "body": body, **over},
        saves={"v": "$m.v"},
        constants={"t": {"tensor": "t"}},
        attachment={"t": torch.ones(1000)},
    )


@pytest.mark.parametrize("kind", ["map", "repeat"])
def test_values_that_only_running_shows_to_be_too_many_are_refused_on_the_way(limited, build, kind, monkeypatch):
    engine = limited(max_bytes=30_000)
    monkeypatch.setattr(engine, "limits", BatchLimits(rows=4))
    monkeypatch.setattr("telepatch_protocol.prepared.price", lambda checked, card: None)
    looks: list[int] = []
    [outcome] = engine.run([growing(build, kind)], cancelled=lambda: looks.append(1) or set())
    assert isinstance(outcome.error, TooLarge)
    assert "values take" in str(outcome.error)
    assert len(looks) < 60  # several for each element
