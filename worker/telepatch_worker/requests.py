"""What a job asks of the engine on its way: forwards of its invokes, generations, and gradients."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from telepatch_worker.named_inputs import NamedInput

if TYPE_CHECKING:
    from telepatch_worker.frame import Frame
    from telepatch_worker.generation import Generation, Owner
    from telepatch_worker.inputs import Given
    from telepatch_worker.moments import Moment
    from telepatch_worker.tracks import Track

T = TypeVar("T")


@dataclass(frozen=True)
class Forward:
    """One forward of some invokes of a scope.

    Attributes:
        frame: the scope.
        number: which of its forwards.
        inputs: of each invoke that takes part.
    """

    frame: Frame
    number: int
    inputs: dict[str, Given]

    @property
    def moments(self) -> tuple[Moment, ...]:
        """What is read and written in it."""
        return self.frame.plan.passes[self.number]

    @property
    def rows(self) -> int:
        """Rows of all its invokes."""
        return sum(one.rows for one in self.inputs.values())

    @property
    def longest(self) -> int:
        """Positions of its longest invoke."""
        return max(one.length for one in self.inputs.values())

    @property
    def kin(self) -> object:
        """What must be equal for another one to share the forward: nothing for tokens, which are filled up."""
        return next((one.kin for one in self.inputs.values() if isinstance(one, NamedInput)), None)


@dataclass(eq=False)
class Apply:
    """A module of the model, applied to a value.

    Attributes:
        path: of the module.
        value: (..., what the module takes).
        found: (..., what it gives).
    """

    path: str
    value: torch.Tensor
    found: torch.Tensor | None = None


@dataclass
class Backward:
    """Gradients of one number.

    Attributes:
        of: the number.
        wrt: for each value that is asked about, the tensors whose gradients make up its own.
        edits: what happens on the way back.
        sees: numbers of the scopes whose values the number may depend on: its own, and those around it.
        found: the gradients, in the order of `wrt`; None for what the number does not depend on.
    """

    of: torch.Tensor
    wrt: list[list[Track]]
    edits: list[Any] = field(default_factory=list)
    sees: frozenset[int] = frozenset()
    found: list[list[torch.Tensor | None]] = field(default_factory=list)


@dataclass(frozen=True)
class Turn:
    """Nothing but a place where others may go first."""


@dataclass(frozen=True)
class Decode:
    """One generation, from its prompt to its end.

    Attributes:
        frame: the scope in which it stands.
        generation: what it is.
        owner: what happens at its steps.
    """

    frame: Frame
    generation: Generation
    owner: Owner

    @property
    def steps(self) -> int:
        """How many it takes at most."""
        return self.generation.ending.max_new_tokens


Request = Forward | Backward | Decode | Turn | Apply

Work = Generator[list[Request], None, T]
"""Work that now and then needs requests fulfilled: all of a list, before it goes on."""


def together(works: Iterable[Work[Any]]) -> Work[None]:
    """Several works side by side: what they need at a time is asked for at once."""
    live = list(works)
    while live:
        wanted: list[Request] = []
        going = []
        for work in live:
            found = next(work, None)
            if found is not None:
                wanted += found
                going.append(work)
        live = going
        if live:
            yield wanted  # nothing at all, where each waits for another one


def at_once(work: Work[T]) -> T:
    """The result of work that needs nothing."""
    iterator: Iterator[list[Request]] = work
    try:
        while all(isinstance(one, Turn) for one in next(iterator)):
            pass
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("work inside a forward asked for another forward")
