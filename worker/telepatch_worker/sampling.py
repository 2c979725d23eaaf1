"""How the next token is chosen: one sequence's own settings and its own random numbers, whatever the company."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
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
        min_p: draw only from tokens with at least this share of the likeliest one's probability; None from all.
        repetition_penalty: logits of tokens that the row has already are divided by it, or multiplied where they are
            below 0.
        no_repeat_ngram_size: no row holds the same so many tokens twice.
        min_new_tokens: the model's own last tokens are not taken before so many.
        seed: of the random numbers; None for a new one, which the result names.
    """

    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    min_new_tokens: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise BadArgument(f"temperature is {self.temperature}; 0 (the likeliest token) or a number above works")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise BadArgument(f"top_p is {self.top_p}; a number above 0 and up to 1 works")
        if self.top_k is not None and self.top_k < 1:
            raise BadArgument(f"top_k is {self.top_k}; an integer of at least 1 works")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise BadArgument(f"min_p is {self.min_p}; a number from 0 to 1 works")
        if self.repetition_penalty is not None and not 0 < self.repetition_penalty < float("inf"):
            raise BadArgument(f"repetition_penalty is {self.repetition_penalty}; a number above 0 works")
        if self.no_repeat_ngram_size is not None and self.no_repeat_ngram_size < 1:
            raise BadArgument(f"no_repeat_ngram_size is {self.no_repeat_ngram_size}; an integer of at least 1 works")
        if self.min_new_tokens is not None and self.min_new_tokens < 0:
            raise BadArgument(f"min_new_tokens is {self.min_new_tokens}; an integer of at least 0 works")
        if self.seed is not None and not 0 <= self.seed < _SEEDS:
            raise BadArgument(f"seed is {self.seed}; an integer of at least 0 and below 2**63 works")

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken."""
        return self.temperature == 0

    @property
    def processes(self) -> bool:
        """Whether logits are changed before a token is chosen."""
        return any((self.repetition_penalty, self.no_repeat_ngram_size, self.min_new_tokens))

    @property
    def plain(self) -> bool:
        """Whether the token of the largest logit is taken."""
        return self.greedy and not self.processes


def new_seed() -> int:
    """A seed that nobody has seen before."""
    return secrets.randbelow(_SEEDS)


class Sampler:
    """Chooses the tokens of one sequence: the same on every device and in every company.

    Args:
        sampling: its settings.
        prompt: token ids int64 (rows, positions) on the CPU; what is chosen is told to `saw`.
        eos: the model's own last tokens.
    """

    def __init__(self, sampling: Sampling, prompt: torch.Tensor, eos: Sequence[int] = ()) -> None:
        self._greedy = sampling.greedy
        self._seen = prompt if sampling.processes else prompt[:, :0]
        self._keeps = sampling.processes
        self._processors = LogitsProcessorList(_processors(sampling, prompt.shape[1], eos))
        self.seed: int | None = None
        if not sampling.greedy:
            self.seed = new_seed() if sampling.seed is None else sampling.seed
            self._generator = torch.Generator().manual_seed(self.seed)

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
        scores = self._processors(cast(torch.LongTensor, self._seen), cast(torch.FloatTensor, scores))
        if self._greedy:
            return scores.argmax(-1)
        chances = scores.softmax(dim=-1)
        if not bool(torch.isfinite(chances).all()):
            raise ValueError("the logits of the next token are not finite, so none can be drawn")
        return torch.multinomial(chances, 1, generator=self._generator).squeeze(1)

    def saw(self, tokens: torch.Tensor) -> None:
        """What each row goes on with, which may be other tokens than those that were chosen."""
        if self._keeps:
            self._seen = torch.cat([self._seen, tokens[:, None]], dim=1)


def _processors(sampling: Sampling, prompt: int, eos: Sequence[int]) -> Iterator[LogitsProcessor]:
    """What changes logits, in the order in which `generate` of transformers does it."""
    if sampling.repetition_penalty is not None:
        yield RepetitionPenaltyLogitsProcessor(float(sampling.repetition_penalty))
    if sampling.no_repeat_ngram_size is not None:
        yield NoRepeatNGramLogitsProcessor(sampling.no_repeat_ngram_size)
    if sampling.min_new_tokens and eos:
        yield MinNewTokensLengthLogitsProcessor(prompt, sampling.min_new_tokens, list(eos))
    if sampling.greedy:
        return
    yield TemperatureLogitsWarper(float(sampling.temperature))
    if sampling.top_k is not None:
        yield TopKLogitsWarper(sampling.top_k)
    if sampling.top_p is not None and sampling.top_p < 1:
        yield TopPLogitsWarper(sampling.top_p)
    if sampling.min_p is not None:
        yield MinPLogitsWarper(float(sampling.min_p))
