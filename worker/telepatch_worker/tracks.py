"""Tensors of whole batches of which gradients are asked, and what part of each belongs to a value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from telepatch_worker.layout import Rows, own_part
from telepatch_worker.moments import Moment
from telepatch_worker.views import seen


@dataclass(frozen=True, eq=False)
class Track:
    """A tensor in PyTorch's graph.

    Attributes:
        tensor: the tensor, of the whole batch where it was met in a forward.
        part: of a gradient of `tensor`, the part that belongs to the value; for a place that is one of several, the
            piece of that place.
        piece: which of several places.
        owner: tells values of different scopes apart.
    """

    tensor: torch.Tensor
    part: Callable[[torch.Tensor], torch.Tensor]
    piece: int
    owner: tuple[int, str]

    def zeros(self) -> torch.Tensor:
        """The part where there is no gradient."""
        return self.part(torch.zeros_like(self.tensor))


def place_track(moment: Moment, tensor: torch.Tensor, rows: Rows, owner: tuple[int, str]) -> Track:
    """The track of an invoke's own part of a place."""

    def part(gradient: torch.Tensor) -> torch.Tensor:
        return own_part(seen(gradient, moment.view, rows), moment.axes, rows)

    return Track(tensor, part, moment.part, owner)


def value_track(tensor: torch.Tensor, owner: tuple[int, str]) -> Track:
    """The track of a value that was computed or given."""
    return Track(tensor, lambda gradient: gradient, 0, owner)
