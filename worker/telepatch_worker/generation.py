"""One invoke that generates: what it starts from, whose it is, and what comes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from telepatch_protocol.card import ModelCard
from telepatch_protocol.errors import BadArgument, IndexOutOfRange
from telepatch_worker.moments import Job, Moment
from telepatch_worker.sampling import Sampling
from telepatch_worker.stopping import Ending, Reason


@dataclass(frozen=True)
class Generation:
    """An invoke that generates.

    Attributes:
        name: of the invoke, as the moments of its owner call it; unlike the owner's others.
        prompt: token ids int64 (rows, positions).
        sampling: how its tokens are chosen.
        ending: when its rows end.
    """

    name: str
    prompt: torch.Tensor
    sampling: Sampling
    ending: Ending

    def check(self, card: ModelCard) -> None:
        """Refuse a prompt that the model cannot read.

        Raises:
            BadArgument: it has no rows or positions, or more positions than the model.
            IndexOutOfRange: a token id that the model does not have.
        """
        most = card.limits.max_positions
        if self.prompt.ndim != 2 or not self.prompt.numel() or self.prompt.shape[1] > most:
            raise BadArgument(
                f"the prompt of '{self.name}' has shape {tuple(self.prompt.shape)}; model '{card.id}' takes rows of "
                f"1 to {most} positions"
            )
        check_tokens(self.prompt, card)


@dataclass(frozen=True)
class Generated:
    """What an invoke has generated.

    Attributes:
        tokens: int64 (rows, steps) on the CPU; after the last token of a row stands the model's padding.
        lengths: tokens of each row, the one that ended it included.
        reasons: why each row ended.
        seed: of its random numbers; None where the likeliest tokens were taken.
    """

    tokens: torch.Tensor
    lengths: tuple[int, ...]
    reasons: tuple[Reason, ...]
    seed: int | None


class Owner(Job, Protocol):
    """The job that some generations belong to: asked and told at every step.

    Step 0 is the forward over the prompt, step k the forward over token k, counted from 1; the token sampled after step
    k is token k + 1. Whatever raises in here goes to `fail`, and all generations of the owner leave.
    """

    def moments(self, steps: Mapping[str, int]) -> Sequence[Moment]:
        """What to read and write in the next forward, in the order in which it happens.

        Args:
            steps: of each of its generations that takes part in this forward.
        """

    def sampled(self, name: str, step: int, tokens: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """The tokens that go on, given those that were sampled: the same, or others.

        Args:
            name: of the generation.
            step: whose logits they come from.
            tokens: int64 (rows,) on the CPU; padding for rows that have ended.
            logits: float32 (rows, vocabulary) where the model is, as the model gave them; good only until this returns.
        """

    def ends(self, name: str, step: int) -> bool:
        """Whether this generation ends here; its last token is the one sampled after this step."""

    def ended(self, name: str, result: Generated) -> None:
        """A generation is over; its siblings go on."""


def check_tokens(tokens: torch.Tensor, card: ModelCard) -> None:
    """Refuse token ids that the model does not have: on a GPU they would end the whole process."""
    if tokens.dtype != torch.int64:
        raise BadArgument(f"token ids have dtype {tokens.dtype}; int64 works")
    if not (int(tokens.min()) >= 0 and int(tokens.max()) < card.vocabulary):
        raise IndexOutOfRange(
            f"token ids from {int(tokens.min())} to {int(tokens.max())} are not all among 0 to {card.vocabulary - 1}, "
            f"which is what model '{card.id}' takes"
        )
