"""Where one invoke lies in a batch: its own rows, its own positions, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

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
        keys: in a step of a generation, positions that its queries can attend to; None in a forward over whole inputs.
        columns: in a step, positions of the whole cache with the new one; an invoke's own are the last `keys` of them.
        target: positions of what a decoder is given, equally many in the whole batch.
    """

    start: int
    count: int
    length: int
    total: int
    padded: int
    keys: int | None = None
    columns: int | None = None
    target: int = 0

    @property
    def whole(self) -> bool:
        """Whether the batch holds nothing else."""
        return self.count == self.total and self.length == self.padded and self.keys == self.columns


@dataclass(slots=True)
class Seat:
    """Where an invoke lies in a batch now; others may come in on the way.

    Attributes:
        rows: its part.
    """

    rows: Rows


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
    if rows.keys is not None:
        return _own_step(tensor, axes, rows)
    _check_shape(tensor, axes, rows)
    for dim, axis in enumerate(axes):
        if axis == "row":
            tensor = tensor.narrow(dim, rows.start, rows.count)
        elif axis == "pos":
            tensor = tensor.narrow(dim, 0, rows.length)
    return tensor


def _own_step(tensor: torch.Tensor, axes: tuple[Axis, ...], rows: Rows) -> torch.Tensor:
    """A view of the invoke's own part in a step: one position, and where there are two axes of positions, its keys.

    What rows of equal length share (learned positions, rotary tables) has a row for each where lengths differ; then an
    invoke's is any of its rows.
    """
    keys = max((dim for dim, axis in enumerate(axes) if axis == "pos"), default=-1) if axes.count("pos") > 1 else -1
    spread = 0 if axes and axes[0] == 1 and tensor.ndim and tensor.shape[0] == rows.total else -1
    _check_shape(tensor, axes, rows, {keys: rows.columns, spread: rows.total})
    for dim, axis in enumerate(axes):
        if dim == spread:
            tensor = tensor.narrow(dim, rows.start, 1)
        elif axis == "row":
            tensor = tensor.narrow(dim, rows.start, rows.count)
        elif dim == keys:
            assert rows.keys is not None
            tensor = tensor.narrow(dim, tensor.shape[dim] - rows.keys, rows.keys)
    return tensor


def shareable(axes: tuple[Axis, ...], *, writes: bool) -> bool:
    """Whether an invoke's part of such a tensor can be told from others': not where an axis is unknown or mixes rows
    and positions, and no write where all rows share one value."""
    mixed = any(axis is None or axis == "row*pos" for axis in axes)
    return not mixed and (not writes or "row" in axes)


def _check_shape(
    tensor: torch.Tensor, axes: tuple[Axis, ...], rows: Rows, special: Mapping[int, int | None] = MappingProxyType({})
) -> None:
    sizes = {"row": rows.total, "pos": rows.padded, "target": rows.target}
    usual = [sizes.get(axis, -1) if isinstance(axis, str) else axis for axis in axes]
    wanted = [special.get(dim, size) for dim, size in enumerate(usual)]
    if list(tensor.shape) != wanted:
        raise ExecutionError(f"a site has shape {tuple(tensor.shape)} in this forward; the model's card says {wanted}")
