"""What jobs want of one forward, as planned: reads and writes of invokes, in their order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from telepatch_protocol.card import Axis, View
from telepatch_protocol.sites import Place
from telepatch_worker.layout import Rows, Seat

ROOT = "model"
"""nnsight's name of the whole model."""


def location_of(place: Place) -> str:
    """nnsight's name of a place."""
    path = f"{ROOT}.{place.path}" if place.path else ROOT
    return f"{path}.{place.port}"


@dataclass(frozen=True, slots=True)
class Moment:
    """One read or write of one invoke, as planned.

    Attributes:
        node: id of the node.
        invoke: id of the invoke.
        writes: whether it is a write.
        place: of the tensor.
        axes: what the axes count of what the job sees.
        part: which of several places of a starred site.
        view: how the job sees the tensor, where it does not see it as it is.
        tracked: whether gradients are asked of the tensor, so that it has to be part of PyTorch's graph.
        again: whether the value was taken in an earlier forward already, and is only tracked in this one.
        replaces: dtype of what the module returns, where a write replaces all of it.
    """

    node: str
    invoke: str
    writes: bool
    place: Place
    axes: tuple[Axis, ...]
    part: int = 0
    view: View | None = None
    tracked: bool = False
    again: bool = False
    replaces: torch.dtype | None = None

    @property
    def location(self) -> str:
        """nnsight's name of the place."""
        return location_of(self.place)


class Job(Protocol):
    """What a forward needs of a job that takes part in it."""

    def read(self, moment: Moment, value: torch.Tensor) -> None:
        """Take the value at a place: a view that is good only until this returns."""

    def write(self, moment: Moment, region: torch.Tensor) -> None:
        """Change the value at a place: `region` is the invoke's own part, to be written in place."""

    def track(self, moment: Moment, tensor: torch.Tensor, rows: Rows) -> None:
        """Keep the tensor of the whole batch at a place: gradients are asked of the invoke's part of it."""

    def fail(self, error: Exception) -> None:
        """The job raised; it takes no further part."""


@dataclass(frozen=True, slots=True)
class Part:
    """A job's part in one forward.

    Attributes:
        job: what reads and writes.
        moments: its reads and writes, in order.
        seats: where its invokes lie in the batch.
        owner: whose part it is, where several parts fail and are dropped together; the job itself if left out.
    """

    job: Job
    moments: tuple[Moment, ...]
    seats: dict[str, Seat]
    owner: object = None
