"""Modules that need not run: everyone who still waits in the forward replaces the whole of what they return."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import torch

from telepatch_protocol.card import Axis
from telepatch_protocol.sites import Found, Place
from telepatch_worker.layout import Rows
from telepatch_worker.tensor_values import DTYPES


class Planned(Protocol):
    """What is to be known of a read or write, before its forward."""

    @property
    def place(self) -> Place:
        """Where."""

    @property
    def axes(self) -> tuple[Axis, ...]:
        """What the axes of the tensor there count."""

    @property
    def replaces(self) -> torch.dtype | None:
        """dtype of what the module returns, where this writes all of it."""


def replaced(found: Found, *, whole: bool) -> torch.dtype | None:
    """The dtype of what a module returns, where a write to this place replaces all of it; else None.

    Args:
        found: the place.
        whole: whether the write has no index.
    """
    tensor = found.place.port == "output" and not found.place.leaf and found.view is None
    sized = all(isinstance(axis, int) or axis in ("row", "pos", "target") for axis in found.leaf.axes)
    return DTYPES[found.leaf.dtype] if whole and tensor and sized else None


class Skips:
    """Which modules one forward can do without.

    Args:
        moments: all that anyone reads and writes in the forward.
        device: of the model.
    """

    def __init__(self, moments: Iterable[Planned], device: torch.device) -> None:
        self._device = device
        self._needed = {path for moment in moments for path in _around(moment.place)}

    def stand_in(self, waiting: Sequence[tuple[Planned, Rows]]) -> torch.Tensor | None:
        """What stands for the output of a module until it is written, if the module need not run.

        It is zeros, not memory as it comes: padding stays in it, and attention gives padding no weight, but no weight
        times a NaN would still be a NaN.

        Args:
            waiting: what everyone waits for who still waits: all at the output of this module, at this call of it.
        """
        first, rows = waiting[0]
        if first.place.path in self._needed or any(moment.replaces is None for moment, _ in waiting):
            return None
        sizes = {"row": rows.total, "pos": rows.padded, "target": rows.target}
        shape = [axis if isinstance(axis, int) else sizes[str(axis)] for axis in first.axes]
        return torch.zeros(shape, dtype=first.replaces, device=self._device)


def _around(place: Place) -> Iterator[str]:
    """Paths of the modules that have to run for a place inside them to come by."""
    if place.port.startswith("source."):
        yield place.path
    path = place.path
    while path:
        path = path.rpartition(".")[0]
        yield path
