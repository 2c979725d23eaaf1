"""A module that does what its input asks for: it is slow, raises, wants too much memory, or takes its process down."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

KILL, RAISE, HUGE, SLOW, VERY_SLOW, NOT_A_NUMBER = 901.0, 902.0, 903.0, 904.0, 905.0, 906.0
SLOW_SECONDS, VERY_SLOW_SECONDS = 2.0, 8.0
PATH = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
"""Where a worker finds this module."""

CARD = Path(__file__).with_suffix(".toml")


class Fragile(nn.Module):
    """A layer, and what befalls it."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """From (rows, 4) to (rows, 2)."""
        asked = set(x[:, 0].tolist())
        if KILL in asked:
            os._exit(9)
        if RAISE in asked:
            raise ValueError("this row cannot be")
        if HUGE in asked:
            x = x + torch.empty(2**44, dtype=torch.uint8).sum()
        if asked & {SLOW, VERY_SLOW}:
            time.sleep(VERY_SLOW_SECONDS if VERY_SLOW in asked else SLOW_SECONDS)
        scale = torch.where(x[:, :1] == NOT_A_NUMBER, torch.nan, 1.0)
        return self.head(x * scale)


def make(folder: Path | None, config: dict[str, Any]) -> nn.Module:
    """The loader that the card beside names."""
    torch.manual_seed(5)
    return Fragile()
