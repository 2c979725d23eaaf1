"""Tensors of which each rank holds a piece: whole where somebody looks at them, pieces again where the model goes on.

On a model that is sharded by transformers' tensor parallelism, what lies between a layer split by columns and the next
one split by rows is this rank's piece. Which tensors are pieces, and along which axis, is found by comparing what each
place of the sharded model has with what it has in the whole model (`wholes`). nnsight asks for the pieces of a place to
be put together only when somebody waits there, on every rank alike, so the collectives match.

The wrapper by which transformers sends inputs and outputs of a sharded layer through collectives becomes the body of
nnsight's controller, so places see what the rest of the model sees: never a partial sum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from nnsight.intervention.envoy import Envoy
from nnsight.intervention.fragments import Fragments
from nnsight.intervention.source import BODY_FORWARD
from torch import nn
from torch.distributed.tensor import DTensor

from telepatch_protocol.errors import ExecutionError
from telepatch_protocol.sites import Place
from telepatch_worker.leaves import leaf_of, replace_leaf
from telepatch_worker.moments import location_of

Pieces = Mapping[Place, int]
"""The places whose tensors are pieces, and the axis along which each is cut."""

_WRAPPED = ".install_forward.<locals>."


def is_wrapped(module: nn.Module) -> bool:
    """Whether transformers runs collectives around this module's forward."""
    return _WRAPPED in getattr(module.__dict__.get("forward"), "__qualname__", "")


def whole_parameter(tensor: torch.Tensor) -> torch.Tensor:
    """A parameter as it is in the whole model; every rank has to ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


class _Gather(torch.autograd.Function):
    """The pieces of all ranks, one after the other. What comes after is the same on every rank, and so is its gradient:
    each piece's is a piece of it."""

    @staticmethod
    def forward(ctx: Any, piece: torch.Tensor, axis: int) -> torch.Tensor:
        ctx.axis = axis
        pieces = [torch.empty_like(piece, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
        dist.all_gather(pieces, piece.contiguous())
        return torch.cat(pieces, axis)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return cut(gradient, ctx.axis), None


class _Cut(torch.autograd.Function):
    """This rank's piece. The gradient of the whole is that of all pieces."""

    @staticmethod
    def forward(ctx: Any, whole: torch.Tensor, axis: int) -> torch.Tensor:
        ctx.axis = axis
        return whole.chunk(dist.get_world_size(), axis)[dist.get_rank()].contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gather(gradient, ctx.axis), None


def gather(piece: torch.Tensor, axis: int) -> torch.Tensor:
    """The whole of which every rank has a piece; gradients go through."""
    found: torch.Tensor = _Gather.apply(piece, axis)  # type: ignore[no-untyped-call]
    return found


def cut(whole: torch.Tensor, axis: int) -> torch.Tensor:
    """This rank's piece of a whole that every rank has; gradients go through."""
    found: torch.Tensor = _Cut.apply(whole, axis)  # type: ignore[no-untyped-call]
    return found


class Shards(Fragments):
    """What nnsight asks about pieces.

    Args:
        pieces: of the model.
    """

    def __init__(self, pieces: Pieces) -> None:
        self._pieces: dict[str, list[tuple[Place, int]]] = {}
        for place, axis in pieces.items():
            self._pieces.setdefault(location_of(place), []).append((place, axis))
        self.enabled = True

    def instrument(self, envoy: Envoy) -> None:
        """Leave the collectives around a module where they are, inside of what nnsight puts around it."""
        if is_wrapped(envoy._module):
            envoy._module.__dict__[BODY_FORWARD] = True

    def fragmented(self, location: str) -> bool:
        """Whether there are pieces at a place."""
        return location in self._pieces

    def whole(self, location: str, value: Any) -> tuple[Any, Callable[[Any], Any] | None]:
        """The value at a place with its pieces put together, and what takes them apart again."""
        had: dict[Place, tuple[torch.Tensor, torch.Tensor]] = {}
        for place, axis in self._pieces[location]:
            piece = leaf_of(value, place)
            if piece is not None:
                had[place] = piece, gather(piece, axis)
                value = replace_leaf(value, place, had[place][1])

        def undo(changed: Any) -> Any:
            for place, axis in self._pieces[location]:
                found = leaf_of(changed, place)
                if found is None:
                    continue
                piece, whole = had.get(place, (None, None))
                untouched = piece is not None and found is whole and not found.requires_grad
                changed = replace_leaf(changed, place, piece if untouched and piece is not None else cut(found, axis))
            return changed

        return value, undo if had else None

    def split(self, location: str, whole: Any) -> Any:
        """The pieces of a value that was never put together, such as what a job calls a module with."""
        for place, axis in self._pieces.get(location, ()):
            found = leaf_of(whole, place)
            if found is not None:
                if found.shape[axis] % dist.get_world_size():
                    raise ExecutionError(
                        f"'{place}' takes a tensor that is cut along axis {axis} over {dist.get_world_size()} ranks; "
                        f"found {tuple(found.shape)}"
                    )
                whole = replace_leaf(whole, place, cut(found, axis))
        return whole

    def joined(self, location: str, value: Any) -> Any:
        """What a module that a job called gives, whole."""
        return self.whole(location, value)[0] if self.fragmented(location) else value
