"""Checks of numbers that a GPU would not refuse but die of: PyTorch asserts them there, which ends the whole process.

They cost one pass over the index, and on a GPU one wait. What they raise has the numbers in it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from telepatch_protocol.errors import BadArgument, IndexOutOfRange
from telepatch_protocol.indexing import Element
from telepatch_worker.tensor_values import torch_index


def within(index: Tensor, size: int, what: str = "the axis", *, negative: bool = False) -> Tensor:
    """The index as int64, all of whose numbers lie below `size`.

    Args:
        index: integers of any dtype.
        size: how many there are of what it picks.
        what: has that size, for the message.
        negative: whether it may count from the end.

    Raises:
        IndexOutOfRange: a number that picks nothing.
    """
    if index.numel():
        low, high = (int(end) for end in torch.aminmax(index))
        if high >= size or low < (-size if negative else 0):
            raise IndexOutOfRange(
                f"integers from {low} to {high} are not all among {-size if negative else 0} to {size - 1}: "
                f"{what} has size {size}"
            )
    return index.long()


def along(input: Tensor, dim: int, index: Tensor, *, negative: bool = False) -> Tensor:
    """The index as int64, all of whose numbers lie within an axis of the value.

    Raises:
        IndexOutOfRange: a number that picks nothing.
    """
    size = input.shape[dim] if input.ndim else 1
    return within(index, size, f"axis {dim} of the value", negative=negative)


def classes(target: Any, count: int, ignored: int, device: torch.device) -> Tensor:
    """Targets of a loss: numbers of classes, apart from those to ignore; probabilities pass as they are.

    Raises:
        IndexOutOfRange: a class that there is not.
    """
    found = torch.as_tensor(target, device=device)
    if not found.is_floating_point():
        within(found[found != ignored], count, "the axis of classes")
    return found


def index_into(input: Tensor, index: tuple[Element, ...]) -> tuple[Any, ...]:
    """An index as PyTorch takes it, whose tensors of integers all lie within the axes that they pick from.

    Args:
        input: the value that it will pick from, or write to.
        index: elements as `telepatch_protocol.indexing.parse` gives them, tensors in place of values.

    Raises:
        IndexOutOfRange: a number past the end of its axis.
        BadArgument: a tensor that is no index.
    """
    found = torch_index(index, input.device)
    _check(input, found)
    return found


def probabilities(*values: Tensor) -> None:
    """Refuse what is not between 0 and 1.

    Raises:
        BadArgument: a number outside, or nan.
    """
    for value in values:
        if value.numel() and not bool(((value >= 0) & (value <= 1)).all()):
            low, high = (float(end) for end in torch.aminmax(value.detach()))
            raise BadArgument(f"probabilities lie between 0 and 1; found numbers from {low:g} to {high:g}")


def _check(input: Tensor, index: tuple[Any, ...]) -> None:
    used = sum(one.ndim if _is_mask(one) else 1 for one in index if one is not None and one is not Ellipsis)
    place = 0
    for one in index:
        if one is Ellipsis:
            place += max(0, input.ndim - used)
        elif one is not None:
            if isinstance(one, Tensor) and not _is_mask(one) and place < input.ndim:
                along(input, place, one, negative=True)
            place += one.ndim if _is_mask(one) else 1


def _is_mask(one: object) -> bool:
    return isinstance(one, Tensor) and one.dtype == torch.bool
