"""Tensors of which little is ever looked at."""

from __future__ import annotations

import math

import numpy as np
import torch


def blank(shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    """Zeros; on a CPU, memory that is not there before something is written to it."""
    if like.device.type != "cpu":
        return torch.zeros(shape, dtype=like.dtype, device=like.device)
    return torch.from_numpy(np.zeros(math.prod(shape) * like.element_size(), np.uint8)).view(like.dtype).view(shape)
