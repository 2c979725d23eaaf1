"""How the next token is chosen: one sequence's own settings and its own random numbers, whatever the company."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import cast

import torch
from transformers import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from telepatch_protocol.errors import BadArgument

_SEEDS = 2**63


@dataclass(frozen=True, slots=True)
class Sampling:
    """Settings of one sequence.

    Attributes:
        temperature: 0 takes the likeliest token; above, logits are divided by it and a token is drawn.
        top_p: draw only from the fewest likeliest tokens whose probabilities add up to it; None from all.
        top_k: draw only from so many likeliest tokens; None from all.
        seed: of the random numbers; None for a new one, which the result names.
    """

    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise BadArgument(f"temperature is {self.temperature}; 0 (the likeliest token) or a number above works")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise BadArgument(f"top_p is {self.top_p}; a number above 0 and up to 1 works")
        if self.top_k is not None and self.top_k < 1:
            raise BadArgument(f"top_k is {self.top_k}; an integer of at least 1 works")
        if self.seed is not None and not 0 <= self.seed < _SEEDS:
            raise BadArgument(f"seed is {self.seed}; an integer of at least 0 and below 2**63 works")

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken."""
        return self.temperature == 0


class Sampler:
    """Draws the tokens of one sequence, on the CPU: the same numbers on every device and in every company.

    Args:
        sampling: its settings; not greedy.
    """

    def __init__(self, sampling: Sampling) -> None:
        self.seed = secrets.randbelow(_SEEDS) if sampling.seed is None else sampling.seed
        self._generator = torch.Generator().manual_seed(self.seed)
        self._unread = torch.empty(0, dtype=torch.int64)  # no warper here looks at the tokens before
        self._warpers = LogitsProcessorList([TemperatureLogitsWarper(float(sampling.temperature))])
        if sampling.top_k is not None:
            self._warpers.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p is not None and sampling.top_p < 1:
            self._warpers.append(TopPLogitsWarper(sampling.top_p))

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """A token for each row.

        Args:
            logits: (rows, vocabulary), wherever they are.

        Returns:
            int64 (rows,) on the CPU.

        Raises:
            ValueError: a row gives no token a probability.
        """
        scores = logits.to("cpu", torch.float32, copy=True)
        chances = self._warpers(cast(torch.LongTensor, self._unread), scores).softmax(dim=-1)
        if not bool(torch.isfinite(chances).all()):
            raise ValueError("the logits of the next token are not finite, so none can be drawn")
        return torch.multinomial(chances, 1, generator=self._generator).squeeze(1)
