"""The loss of a batch of examples, and its gradient gathered over several forwards."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from telepatch_protocol.errors import ShapeError
from telepatch_protocol.fitting import LOSS
from telepatch_protocol.graph import Fit
from telepatch_protocol.reductions import WEIGHT

Found = Sequence[torch.Tensor | None]


def one_number(fit: str, name: str, value: torch.Tensor) -> torch.Tensor:
    """A value of one element, without axes.

    Raises:
        ShapeError: it has more.
    """
    if value.numel() != 1:
        raise ShapeError(f"fit '{fit}': '{name}' is one number; found {tuple(value.shape)}. Say .sum() or .mean()")
    return value.reshape(())


class Gradients:
    """Gradients of a sum, and of the mean that it becomes; weights count as given numbers.

    Args:
        node: the fit.
        count: examples of the batch.
    """

    def __init__(self, node: Fit, count: int) -> None:
        self._id, self._how, self._count = node.id, node.reduce.get(LOSS, "mean"), count
        self._weight = 0.0
        self._sums: list[torch.Tensor | None] | None = None

    def total(self, outs: Sequence[dict[str, torch.Tensor]]) -> torch.Tensor:
        """The loss of some examples, not divided yet."""
        losses = [one_number(self._id, LOSS, out[LOSS]) for out in outs]
        if self._how == "weighted":
            weights = [one_number(self._id, WEIGHT, out[WEIGHT]).detach().to(losses[0].dtype) for out in outs]
            self._weight += float(sum(float(one) for one in weights))
            losses = [one * weight for one, weight in zip(losses, weights, strict=True)]
        return torch.stack(losses).sum()

    def add(self, found: Found) -> None:
        """Gradients of a part."""
        if self._sums is None:
            self._sums = list(found)
            return
        self._sums = [_plus(one, other) for one, other in zip(self._sums, found, strict=True)]

    def values(self) -> list[torch.Tensor | None]:
        """The gradients of the whole."""
        by = {"sum": 1.0, "mean": float(self._count)}.get(self._how, self._weight)
        return [None if one is None else one / by for one in self._sums or ()]


def _plus(one: torch.Tensor | None, other: torch.Tensor | None) -> torch.Tensor | None:
    if one is None or other is None:
        return one if other is None else other
    return one + other
