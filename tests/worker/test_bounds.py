"""Numbers that pick nothing are refused with the numbers, before a GPU could die of them."""

from __future__ import annotations

import pytest
import torch
from tests.worker.operation_inputs import CLASSES, COUNTS, WEIGHT, X, Y

from telepatch_protocol.errors import BadArgument, IndexOutOfRange
from telepatch_protocol.indexing import Slice
from telepatch_worker.kernels import bounds, index_into, run_op

FAR = torch.tensor([0, 7])
NEAR = torch.tensor([0, -5])
ROWS = torch.tensor([[0, 1, 2, 0], [2, 1, 3, 0]])


@pytest.mark.parametrize(
    ("name", "args", "match"),
    [
        (
            "index",
            (X, [Slice(), FAR]),
            "integers from 0 to 7 are not all among -3 to 2: axis 1 of the value has size 3",
        ),
        ("index", (X, [..., NEAR]), "integers from -5 to 0 are not all among -4 to 3: axis 2"),
        ("index", (X, [torch.tensor([True, False]), None, FAR]), "axis 1 of the value has size 3"),
        ("index", (X, [[0, 1], FAR, [0, 1]]), "axis 1 of the value has size 3"),
        ("index_select", (X, 1, FAR), "integers from 0 to 7 are not all among 0 to 2"),
        ("index_select", (X, 1, torch.tensor([-1])), "integers from -1 to -1"),
        ("index_add", (Y, 0, FAR, Y[:2]), "axis 0 of the value has size 3"),
        ("index_copy", (Y, 0, FAR, Y[:2]), "axis 0 of the value has size 3"),
        ("index_fill", (Y, 1, FAR, 0.0), "axis 1 of the value has size 4"),
        ("gather", (Y, 0, ROWS), "integers from 0 to 3 are not all among 0 to 2"),
        ("take_along_dim", (Y, ROWS - 9, 0), "integers from -9 to -6"),
        ("take_along_dim", (Y, ROWS + 10), "integers from 10 to 13 are not all among -12 to 11: the value has size 12"),
        ("take", (Y, ROWS + 10), "the value has size 12"),
        ("scatter", (Y, 0, ROWS, 1.0), "axis 0 of the value has size 3"),
        ("scatter_add", (Y, 0, ROWS, Y), "axis 0 of the value has size 3"),
        ("scatter_reduce", (Y, 0, ROWS, Y, "amax"), "axis 0 of the value has size 3"),
        ("one_hot", (COUNTS, 3), "integers from 0 to 3 are not all among 0 to 2: the axis of classes has size 3"),
        ("embedding", (FAR, WEIGHT), "the axis of rows of 'weight' has size 5"),
        ("bincount", (FAR, None, 5), r"the count \('minlength'\) has size 5"),
        ("cross_entropy", (Y, CLASSES + 2), "integers from 2 to 5 are not all among 0 to 3: the axis of classes"),
        ("nll_loss", (Y, CLASSES - 1), "integers from -1 to 2"),
        ("multi_margin_loss", (Y, CLASSES + 2), "the axis of classes has size 4"),
    ],
)
def test_an_index_past_the_end_is_refused_with_its_numbers(name: str, args: tuple[object, ...], match: str) -> None:
    with pytest.raises(IndexOutOfRange, match=f"^{name}: .*{match}"):
        run_op(name, args)


@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
def test_a_class_to_ignore_is_no_index(name: str) -> None:
    found = run_op(name, (Y, torch.tensor([3, -100, 1])))
    assert isinstance(found, torch.Tensor)
    assert bool(found.isfinite())


def test_a_loss_of_probabilities_refuses_what_is_none() -> None:
    with pytest.raises(
        BadArgument, match="binary_cross_entropy: probabilities lie between 0 and 1; found numbers from"
    ):
        run_op("binary_cross_entropy", (Y, Y.sigmoid()))
    with pytest.raises(BadArgument, match="probabilities lie between 0 and 1"):
        run_op("binary_cross_entropy", (torch.tensor([0.5, float("nan")]), torch.tensor([0.0, 1.0])))


def test_what_lies_within_passes_as_int64() -> None:
    assert bounds.within(torch.tensor([0, 2], dtype=torch.int8), 3).dtype == torch.int64
    assert bounds.within(torch.zeros(0, dtype=torch.int32), 0).shape == (0,)
    assert bounds.within(torch.tensor([-3, 2]), 3, negative=True).tolist() == [-3, 2]


def test_an_index_is_checked_axis_by_axis() -> None:
    found = index_into(X, (torch.tensor([[True, False, True], [False, False, True]]), torch.tensor([3, -4, 0])))
    assert torch.equal(X[found], X[[0, 0, 1], [0, 2, 2], [3, 0, 0]])
    with pytest.raises(IndexOutOfRange, match="axis 2"):
        index_into(X, (torch.tensor([[True, False, True], [False, False, True]]), torch.tensor([4, 0, 0])))


def test_the_least_integer_divided_by_minus_one_ends_nothing() -> None:
    least = torch.tensor([-(2**63), 7, -7])
    for other in (torch.tensor([-1, -1, 2]), torch.tensor([-1])):
        found = run_op("div", (least, other, "trunc"))
        assert isinstance(found, torch.Tensor)
        assert found[0] == -(2**63)
    assert isinstance(found, torch.Tensor)
    assert found.tolist()[1:] == [-7, 7]
    for name in ("floor_divide", "remainder", "fmod"):
        assert isinstance(run_op(name, (least, -1)), torch.Tensor)
    assert isinstance(run_op("div", (least, -1, "trunc")), torch.Tensor)
