"""What a fit trains: tensors with their constraints, under one of PyTorch's optimisers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from telepatch_protocol.errors import BadArgument
from telepatch_protocol.fitting import copies_of
from telepatch_protocol.graph import Optimiser, Parameter
from telepatch_worker import constraints

Tensors = dict[str, torch.Tensor]

_KINDS: Mapping[str, type[torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}


class Parameters:
    """Tensors that are trained.

    Args:
        given: what is said of each.
        values: their initial values.
        optimiser: what steps them.
        numbers: of the optimiser, before the first step.
    """

    def __init__(
        self, given: Mapping[str, Parameter], values: Tensors, optimiser: Optimiser, numbers: Mapping[str, Any]
    ) -> None:
        self._given = given
        self.leaves: Tensors = {}
        for name, value in values.items():
            own = value.detach().clone(memory_format=torch.contiguous_format)
            self.leaves[name] = self._held(name, own).requires_grad_()
        own_numbers = {name: value for name, value in numbers.items() if name != "clip_norm"}
        self._optimiser = _KINDS[optimiser.name](list(self.leaves.values()), **own_numbers)
        self._copies = copies_of(optimiser)
        self._clip: float | None = numbers.get("clip_norm")

    @property
    def values(self) -> Tensors:
        """As they are, apart from any gradient."""
        return {name: leaf.detach() for name, leaf in self.leaves.items()}

    def set_numbers(self, numbers: Mapping[str, Any]) -> None:
        """Change the optimiser's numbers."""
        for name, value in numbers.items():
            if name == "clip_norm":
                self._clip = value
            else:
                self._optimiser.param_groups[0][name] = value

    def step(self, gradients: Sequence[torch.Tensor | None]) -> None:
        """One step of the optimiser; constraints hold afterwards."""
        given = self._given
        for (name, leaf), gradient in zip(self.leaves.items(), gradients, strict=True):
            if gradient is not None:
                kind, dim = given[name].constraint, given[name].dim
                gradient = constraints.projected(kind, dim, leaf.detach(), gradient)
            leaf.grad = gradient
        if self._clip is not None:
            torch.nn.utils.clip_grad_norm_(list(self.leaves.values()), self._clip)
        self._optimiser.step()
        for name, leaf in self.leaves.items():
            leaf.grad = None
            if given[name].constraint is not None:
                self.assign(name, leaf.detach())

    def assign(self, name: str, value: torch.Tensor) -> None:
        """Give a parameter another value."""
        leaf = self.leaves[name]
        with torch.no_grad():
            leaf.copy_(self._held(name, value.detach().to(leaf.dtype)))

    def reset_moments(self, name: str, where: torch.Tensor) -> None:
        """Forget what the optimiser knows of a parameter where a mask holds."""
        leaf = self.leaves[name]
        mask = where.detach().to(device=leaf.device, dtype=torch.bool)
        for value in self._optimiser.state.get(leaf, {}).values():
            if isinstance(value, torch.Tensor) and value.shape == leaf.shape and value.ndim:
                value.masked_fill_(mask, 0)

    def kept(self) -> Tensors:
        """Copies of everything, as a checkpoint holds it."""
        found = {f"param.{name}": leaf.detach().clone() for name, leaf in self.leaves.items()}
        for name, leaf in self.leaves.items():
            for moment, value in self._optimiser.state.get(leaf, {}).items():
                if isinstance(value, torch.Tensor):
                    found[f"moment.{name}.{moment}"] = value.detach().clone()
        return found

    def restore(self, kept: Tensors) -> None:
        """Go back to what a checkpoint holds."""
        with torch.no_grad():
            for name, leaf in self.leaves.items():
                leaf.copy_(kept[f"param.{name}"])
                self._optimiser.state[leaf] = {
                    moment: kept[key].clone().to("cpu" if moment == "step" else leaf.device)
                    for key in kept
                    if key.startswith(head := f"moment.{name}.") and (moment := key.removeprefix(head))
                }

    def bytes(self) -> int:
        """Bytes of the parameters with their gradients, moments and checkpoints."""
        return self._copies * sum(leaf.nbytes for leaf in self.leaves.values())

    def _held(self, name: str, value: torch.Tensor) -> torch.Tensor:
        return constraints.held(self._given[name].constraint, self._given[name].dim, value)


def number(name: str, value: object) -> Any:
    """A number of an optimiser.

    Raises:
        BadArgument: it is none, or not finite, or negative.
    """
    if name == "betas":
        listed = value.tolist() if isinstance(value, torch.Tensor) else list(value) if isinstance(value, list) else []
        if len(listed) != 2:
            raise BadArgument("betas of the optimiser are two numbers")
        return tuple(number("beta", one) for one in listed)
    if isinstance(value, torch.Tensor):
        if value.numel() != 1:
            raise BadArgument(f"{name} of the optimiser is one number; found {tuple(value.shape)}")
        value = value.item()
    if not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise BadArgument(f"{name} of the optimiser is a number from 0; found {value}")
    return float(value)
