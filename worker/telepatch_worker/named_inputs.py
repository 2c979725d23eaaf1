"""Inputs of named tensors on their way into a forward: what they stand for, as the model takes it.

Nothing is ever padded: a model without a mask could see it. So jobs whose inputs differ in length do not share a
forward, nor do those of which only some give an optional tensor.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from telepatch_protocol.card import InputCard, ModelCard, Pixels
from telepatch_protocol.errors import IndexOutOfRange
from telepatch_protocol.named import ONE_POSITION, check_holds
from telepatch_worker.tensor_values import DTYPES
from telepatch_worker.values import as_tensor


@dataclass(frozen=True, eq=False)
class NamedInput:
    """The input of one invoke.

    Attributes:
        tensors: by name, their rows first, on the CPU.
        length: positions of its rows; one where the model's inputs have none.
        target: positions of what a decoder is given beside it; none where there is no such.
    """

    tensors: Mapping[str, torch.Tensor]
    length: int
    target: int = 0

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(next(iter(self.tensors.values())))

    @property
    def kin(self) -> tuple[int, int, tuple[str, ...]]:
        """What must be equal for one input to share a forward with another."""
        return self.length, self.target, tuple(sorted(self.tensors))

    @property
    def content(self) -> Hashable:
        """What is equal for inputs that are the same."""
        parts = ((name, str(one.dtype), tuple(one.shape), _digest(one)) for name, one in sorted(self.tensors.items()))
        return tuple(parts)


def _digest(tensor: torch.Tensor) -> bytes:
    return hashlib.sha256(tensor.contiguous().view(-1).view(torch.uint8).numpy().data).digest()


def prepared(invoke: str, given: Mapping[str, object], card: ModelCard) -> NamedInput:
    """The input of one invoke as the model takes it.

    Args:
        invoke: its id.
        given: tensors, or lists of numbers, which the checker has found to be of the right kind and size.
        card: of the model.

    Raises:
        IndexOutOfRange: integers that the model does not have.
        BadArgument: rows without the places of another input.
    """
    tensors = {
        name: _prepared(f"invoke '{invoke}': '{name}'", value, card.inputs[name]) for name, value in given.items()
    }
    return NamedInput(tensors, _size(tensors, card, "pos") or ONE_POSITION, _size(tensors, card, "target"))


def _size(tensors: Mapping[str, torch.Tensor], card: ModelCard, axis: Literal["pos", "target"]) -> int:
    """The size of an axis that all tensors have alike which have it; zero where none has."""
    axes = {name: card.inputs[name].axes for name in tensors}
    return next((tensor.shape[axes[name].index(axis)] for name, tensor in tensors.items() if axis in axes[name]), 0)


def _prepared(what: str, value: object, takes: InputCard) -> torch.Tensor:
    found = as_tensor(value, torch.device("cpu")).cpu()
    found = found[None] if found.ndim == len(takes.axes) - 1 else found
    if takes.below is not None and not (int(found.min()) >= 0 and int(found.max()) < takes.below):
        raise IndexOutOfRange(
            f"{what} holds integers from {int(found.min())} to {int(found.max())}; the model takes 0 to "
            f"{takes.below - 1}"
        )
    if takes.holds is not None:
        check_holds(what, (found == takes.holds.number).sum(-1).tolist(), takes)
    if takes.pixels is not None and found.dtype == torch.uint8:
        found = _normalised(found, takes.pixels)
    return found.to(DTYPES[takes.dtype])


def _normalised(images: torch.Tensor, pixels: Pixels) -> torch.Tensor:
    """As transformers' image processors do it without torchvision: rescaled in double precision, the rest in single."""
    found = (images.double() * pixels.rescale).float()
    if not pixels.mean:
        return found
    shape = (1, -1, *(1,) * (images.ndim - 2))
    return (found - torch.tensor(pixels.mean).reshape(shape)) / torch.tensor(pixels.std).reshape(shape)
