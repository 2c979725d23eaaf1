"""Views of standard names: parts of a tensor that share its memory, whatever its strides, and let gradients through."""

from __future__ import annotations

import pytest
import torch

from telepatch_protocol.card import View
from telepatch_protocol.errors import ExecutionError
from telepatch_worker.layout import Rows
from telepatch_worker.views import seen

ROWS = Rows(0, 2, 3, 2, 3)
THIRDS = View(split=(3, 2, 4), pick=(0, 1))
BY_HEAD = View(split=(2, 3, 4), pick=(1, 2))


@pytest.mark.parametrize(
    ("view", "axes", "expected"),
    [
        (View(split=(6, 4)), ("row", "pos", 6, 4), lambda x: x.reshape(2, 3, 6, 4)),
        (THIRDS, ("row", "pos", 2, 4), lambda x: x[..., 8:16].reshape(2, 3, 2, 4)),
        (BY_HEAD, ("row", "pos", 2, 4), lambda x: torch.stack([x[..., 8:12], x[..., 20:24]], 2)),
    ],
)
def test_a_view_is_the_part_that_it_says_with_the_axes_that_it_says(view, axes, expected):
    x = torch.randn(2, 3, 24)
    assert torch.equal(seen(x, view, ROWS), expected(x))
    assert view.axes(("row", "pos", 24)) == axes


@pytest.mark.parametrize("view", [View(split=(6, 4)), THIRDS, BY_HEAD])
@pytest.mark.parametrize("make", [lambda: torch.zeros(2, 3, 24), lambda: torch.zeros(24, 3, 2).permute(2, 1, 0)])
def test_what_is_written_to_a_view_is_in_the_tensor_and_nothing_else_is(view, make):
    x = make()
    seen(x, view, ROWS)[:, 1] = 1.0
    assert int(x.sum()) == seen(x, view, ROWS)[:, 1].numel()
    assert torch.equal(seen(x, view, ROWS)[:, 1], torch.ones_like(seen(x, view, ROWS)[:, 1]))


def test_tokens_of_all_rows_in_one_axis_become_rows_and_positions():
    x = torch.arange(24.0).reshape(6, 4)
    assert torch.equal(seen(x, View(tokens=True), ROWS), x.reshape(2, 3, 4))
    assert View(tokens=True).axes(("row*pos", 4)) == ("row", "pos", 4)
    seen(x, View(tokens=True), ROWS)[1, 2] = -1.0
    assert x[5].tolist() == [-1.0] * 4


def test_gradients_flow_through_a_view_and_through_what_is_written_to_it():
    x = torch.randn(2, 3, 24, requires_grad=True)
    value = torch.randn(2, 2, 4, requires_grad=True)
    written = x.clone()
    seen(written, THIRDS, ROWS)[:, 0] = value
    (seen(written, THIRDS, ROWS) * 3).sum().backward()
    assert torch.equal(value.grad, torch.full_like(value, 3.0))
    assert torch.equal(x.grad[:, 0], torch.zeros(2, 24))
    assert x.grad[:, 1:].sum() == 3.0 * 2 * 2 * 8


def test_a_tensor_of_other_sizes_than_the_card_promises_is_refused():
    with pytest.raises(ExecutionError, match=r"\(2, 3, 25\)"):
        seen(torch.zeros(2, 3, 25), THIRDS, ROWS)
