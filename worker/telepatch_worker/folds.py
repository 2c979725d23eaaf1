"""The outputs of a map, made of its elements' outputs as these come, so that no more is held than is asked for."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from telepatch_protocol.errors import ShapeError
from telepatch_protocol.graph import Map
from telepatch_protocol.reductions import LENGTHS, WEIGHT
from telepatch_worker.values import Value


class Fold:
    """Outputs in the making.

    Args:
        node: the map.
        lead: the axes that stacked outputs get in front.
        keep: whether gradients flow through the outputs.
        hold: told how many bytes more, or fewer, are held; raises where these are too many.
    """

    def __init__(self, node: Map, lead: tuple[int, ...], *, keep: bool, hold: Callable[[int], None]) -> None:
        self._node = node
        self._lead = lead
        self._keep = keep
        self._hold = hold
        self._held = 0
        self._rows: dict[str, list[torch.Tensor | None]] = {}
        self._sums: dict[str, torch.Tensor] = {}
        self._weight: torch.Tensor | None = None

    def add(self, at: int, out: dict[str, torch.Tensor]) -> None:
        """Take in the outputs of one element."""
        if not self._keep:
            out = {name: value.detach() for name, value in out.items()}
        for name, value in out.items():
            how = self._node.reduce.get(name, "stack")
            if how in ("stack", "cat"):
                rows = self._rows.setdefault(name, [None] * math.prod(self._lead))
                rows[at] = value
                self._held += value.nbytes
                self._hold(value.nbytes)
            else:
                self._fold(name, how, value, out)
        if WEIGHT in out:
            weight = _wide(out[WEIGHT])
            self._weight = weight if self._weight is None else self._weight + weight

    def values(self) -> dict[str, Value]:
        """The outputs, once all elements are in."""
        found: dict[str, Value] = {}
        for name in self._node.body.out:
            how = self._node.reduce.get(name, "stack")
            if how == "stack":
                found[name] = stacked(self._taken(name), self._lead)
            elif how == "cat":
                rows = self._taken(name)
                found[name] = torch.cat(rows)
                found[f"{name}.{LENGTHS}"] = torch.tensor([row.shape[0] for row in rows], device=rows[0].device)
            elif how == "mean":
                found[name] = self._sums[name] / math.prod(self._lead)
            elif how == "weighted":
                assert self._weight is not None
                found[name] = self._sums[name] / self._weight.reshape(())
            else:
                found[name] = self._sums[name]
        self._hold(-self._held)  # from here on they are the map's value, which its scope holds
        return found

    def _taken(self, name: str) -> list[torch.Tensor]:
        return [row for row in self._rows.pop(name) if row is not None]

    def _fold(self, name: str, how: str, value: torch.Tensor, out: dict[str, torch.Tensor]) -> None:
        if how == "weighted":
            value = _wide(value) * _wide(out[WEIGHT]).reshape(())
        elif how == "mean":
            value = value if value.dtype == torch.float64 else value.float()
        elif how == "sum":
            value = _wide(value)
        before = self._sums.get(name)
        if before is not None and before.shape != value.shape:
            raise ShapeError(
                f"map '{self._node.id}': '{name}' is {tuple(value.shape)} here and {tuple(before.shape)} before; "
                f"'{how}' takes elements of one shape"
            )
        if before is None:
            self._sums[name] = value
        elif how in ("max", "min"):
            self._sums[name] = (torch.maximum if how == "max" else torch.minimum)(before, value)
        else:
            self._sums[name] = before + value


def _wide(value: torch.Tensor) -> torch.Tensor:
    """A dtype in which sums keep their digits."""
    if value.is_floating_point():
        return value if value.dtype == torch.float64 else value.float()
    return value.long()


def stacked(rows: list[torch.Tensor], lead: tuple[int, ...]) -> torch.Tensor:
    """Values of one shape on new leading axes.

    Raises:
        ShapeError: they differ in shape.
    """
    shapes = {tuple(row.shape) for row in rows}
    if len(shapes) > 1:
        listed = ", ".join(map(str, sorted(shapes)[:3]))
        raise ShapeError(f"values of shapes {listed} cannot be stacked; index them alike, or reduce with 'cat'")
    return torch.stack(rows).reshape(*lead, *rows[0].shape)
