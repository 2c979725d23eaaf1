"""A plain multilayer perceptron, and the function that a card names to load one: an example of a ``loader``."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn


class Block(nn.Module):
    """A linear layer and its ReLU."""

    def __init__(self, takes: int, gives: int) -> None:
        super().__init__()
        self.linear = nn.Linear(takes, gives)
        self.act = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """From (rows, takes) to (rows, gives)."""
        found: torch.Tensor = self.act(self.linear(x))
        return found


class Perceptron(nn.Module):
    """Blocks one after the other, and a linear head.

    Args:
        sizes: of the input, of each block, and of the output.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(takes, gives) for takes, gives in itertools.pairwise(sizes[:-1]))
        self.head = nn.Linear(sizes[-2], sizes[-1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """From (rows, sizes[0]) to (rows, sizes[-1])."""
        for block in self.blocks:
            x = block(x)
        found: torch.Tensor = self.head(x)
        return found


def load(folder: Path | None, config: dict[str, Any]) -> nn.Module:
    """A perceptron, as a card's ``loader = "telepatch_worker.perceptron:load"`` names it.

    Args:
        folder: that holds ``model.safetensors``; without one the weights are those that PyTorch draws.
        config: the card's table of that name: ``sizes``, of the input, of each block, and of the output.
    """
    model = Perceptron(config["sizes"])
    if folder is not None:
        model.load_state_dict(load_file(folder / "model.safetensors"))
    return model
