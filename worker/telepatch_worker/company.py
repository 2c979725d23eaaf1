"""Those who take their steps together: generations, each on its way, and the cache that they share."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

import torch

from telepatch_protocol.card import ModelCard
from telepatch_protocol.errors import ExecutionError
from telepatch_worker.generation import Generated, Generation, Owner, check_tokens
from telepatch_worker.layout import Rows
from telepatch_worker.moments import Moment
from telepatch_worker.past import Past
from telepatch_worker.sampling import Sampler
from telepatch_worker.stopping import Reason, Stopper

Answer = TypeVar("Answer")


class Guest:
    """An owner in the loop: hears everything, until it has failed or was dropped."""

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self.left = False

    def read(self, moment: Moment, value: torch.Tensor) -> None:
        """Pass it on."""
        self.owner.read(moment, value)

    def write(self, moment: Moment, region: torch.Tensor) -> None:
        """Pass it on."""
        self.owner.write(moment, region)

    def track(self, moment: Moment, tensor: torch.Tensor, rows: Rows) -> None:
        """Pass it on."""
        self.owner.track(moment, tensor, rows)

    def fail(self, error: Exception) -> None:
        """It leaves, and is told why, once."""
        if not self.left:
            self.left = True
            self.owner.fail(error)

    def ask(self, question: Callable[[], Answer], without: Answer) -> Answer:
        """Its answer; where it has left, or leaves because it raises, the answer of nobody."""
        if self.left:
            return without
        try:
            return question()
        except Exception as error:
            self.fail(error)
            return without


class Member:
    """One generation on its way.

    Args:
        generation: what it is.
        guest: whose it is.
        stopper: says when its rows end.
        padding: token id that stands after a row's end.
    """

    def __init__(self, generation: Generation, guest: Guest, stopper: Stopper, padding: int) -> None:
        self.generation = generation
        self.guest = guest
        plain = generation.sampling.plain
        self.sampler = None if plain else Sampler(generation.sampling, generation.prompt.cpu(), stopper.eos)
        self.step = 0
        self.next = generation.prompt
        self._stopper = stopper
        self._padding = padding
        self._tokens: list[list[int]] = [[] for _ in range(self.rows)]
        self._reasons: list[Reason | None] = [None] * self.rows

    @property
    def name(self) -> str:
        """Of the invoke."""
        return self.generation.name

    @property
    def rows(self) -> int:
        """Of the invoke."""
        return self.generation.prompt.shape[0]

    @property
    def prompt_length(self) -> int:
        """Positions of the prompt."""
        return self.generation.prompt.shape[1]

    @property
    def over(self) -> bool:
        """Whether it takes no further step."""
        return self.guest.left or None not in self._reasons

    def sample(self, likeliest: torch.Tensor, logits: torch.Tensor, card: ModelCard) -> None:
        """Choose the next tokens, from its own rows' logits, and let the owner change them."""
        chosen = likeliest if self.sampler is None else self.sampler(logits)
        tokens = self._padded(chosen)
        found = self.guest.owner.sampled(self.name, self.step, tokens, logits)
        if found is not tokens:
            tokens = self._checked(found, card)
        self.next = tokens[:, None]
        if self.sampler is not None:
            self.sampler.saw(tokens)
        for row, token in enumerate(tokens.tolist()):
            if self._reasons[row] is None:
                self._tokens[row].append(token)
                self._reasons[row] = self._stopper(self._tokens[row])

    def go_on(self) -> None:
        """Ask the owner whether it ends here, and else take the next step."""
        if self.guest.owner.ends(self.name, self.step):
            self._reasons = [reason or "asked" for reason in self._reasons]
        self.step += 1

    def say_end(self) -> None:
        """Tell the owner what has come out."""
        self.guest.owner.ended(self.name, self._result())

    def _result(self) -> Generated:
        lengths = tuple(len(tokens) for tokens in self._tokens)
        filled = [tokens + [self._padding] * (max(lengths) - len(tokens)) for tokens in self._tokens]
        reasons = tuple(reason for reason in self._reasons if reason is not None)
        return Generated(torch.tensor(filled), lengths, reasons, None if self.sampler is None else self.sampler.seed)

    def _padded(self, tokens: torch.Tensor) -> torch.Tensor:
        """Padding for the rows that have ended."""
        over = [row for row, reason in enumerate(self._reasons) if reason is not None]
        if over:
            tokens = tokens.clone()
            tokens[over] = self._padding
        return tokens

    def _checked(self, tokens: torch.Tensor, card: ModelCard) -> torch.Tensor:
        found = tokens.to("cpu")
        if found.shape != (self.rows,):
            raise ExecutionError(f"the tokens of '{self.name}' have shape {tuple(found.shape)}; ({self.rows},) works")
        check_tokens(found, card)
        return self._padded(found)


class Company:
    """Generations whose rows lie in one cache, one below the other, in order.

    Args:
        members: in the order of their rows.
        past: what they have read.
        open: whether others may join.
        kind: only those of the same kind may.
    """

    def __init__(self, members: Sequence[Member], past: Past, *, open: bool, kind: Hashable = None) -> None:
        self.members = list(members)
        self.past = past
        self.open = open
        self.kind = kind

    def tokens(self) -> torch.Tensor:
        """The next token of every row."""
        return torch.cat([member.next for member in self.members])

    def layout(self) -> dict[int, Rows]:
        """Where each member lies in a step, in the order of the members."""
        total, columns = len(self.past.lengths), self.past.width + 1
        found: dict[int, Rows] = {}
        start = 0
        for place, member in enumerate(self.members):
            keys = self.past.lengths[start] + 1
            found[place] = Rows(start, member.rows, 1, total, 1, keys, columns)
            start += member.rows
        return found

    def part(self) -> None:
        """Let those go that are over."""
        if not any(member.over for member in self.members):
            return
        rows: list[int] = []
        start = 0
        for member in self.members:
            if not member.over:
                rows.extend(range(start, start + member.rows))
            start += member.rows
        self.members = [member for member in self.members if not member.over]
        if self.members:
            self.past.keep(rows)

    def takes(self, other: Company, *, equal: bool) -> bool:
        """Whether another company can join this one; `equal` where only rows of one length share a cache."""
        alike = self.open and other.open and self.kind == other.kind
        return alike and (not equal or self.past.lengths[0] == other.past.lengths[0])

    def join(self, other: Company) -> None:
        """Take in all members of another."""
        self.past.join(other.past)
        self.members += other.members
