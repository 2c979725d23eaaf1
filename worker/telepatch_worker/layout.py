"""Where one invoke lies in a batch: its own rows, its own positions, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from telepatch_protocol.card import Axis
from telepatch_protocol.errors import ExecutionError


@dataclass(frozen=True, slots=True)
class Rows:
    """The part of a batch that belongs to one invoke.

    Attributes:
        start: its first row.
        count: its rows.
        length: its positions; those after them are padding.
        total: rows of the whole batch.
        padded: positions of the whole batch.
    """

    start: int
    count: int
    length: int
    total: int
    padded: int

    @property
    def whole(self) -> bool:
        """Whether the batch holds nothing else."""
        return self.count == self.total and self.length == self.padded


def own_part(tensor: torch.Tensor, axes: tuple[Axis, ...], rows: Rows) -> torch.Tensor:
    """A view of the invoke's own rows and positions.

    Args:
        tensor: of the whole batch.
        axes: what each of its axes counts.
        rows: the invoke's part.

    Raises:
        ExecutionError: the tensor is not of the shape that the card promises.
    """
    if rows.whole:
        return tensor
    _check_shape(tensor, axes, rows)
    for dim, axis in enumerate(axes):
        if axis == "row":
            tensor = tensor.narrow(dim, rows.start, rows.count)
        elif axis == "pos":
            tensor = tensor.narrow(dim, 0, rows.length)
    return tensor


def shareable(axes: tuple[Axis, ...], *, writes: bool) -> bool:
    """Whether an invoke's part of such a tensor can be told from others': not where an axis is unknown or mixes rows
    and positions, and no write where all rows share one value."""
    mixed = any(axis is None or axis == "row*pos" for axis in axes)
    return not mixed and (not writes or "row" in axes)


def _check_shape(tensor: torch.Tensor, axes: tuple[Axis, ...], rows: Rows) -> None:
    sizes = {"row": rows.total, "pos": rows.padded}
    wanted = [sizes.get(axis, -1) if isinstance(axis, str) else axis for axis in axes]
    if list(tensor.shape) != wanted:
        raise ExecutionError(f"a site has shape {tuple(tensor.shape)} in this forward; the model's card says {wanted}")
