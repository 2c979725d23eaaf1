"""Generations of jobs in one decode loop, each job failing and leaving alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from telepatch_worker.decode import Decoder
from telepatch_worker.generation import Generated, Owner
from telepatch_worker.layout import Rows
from telepatch_worker.lobby import Room
from telepatch_worker.moments import Job, Moment
from telepatch_worker.requests import Decode
from telepatch_worker.running import Running, Watch


@dataclass(frozen=True)
class Kind:
    """What must be equal for generations to share forwards.

    Attributes:
        eager: whether they run under eager attention.
        grads: whether their jobs ask for gradients.
        adapter: the adapter that they run under.
        apart: a number that only they have, where they share with nobody else.
    """

    eager: bool
    grads: bool
    adapter: str | None
    apart: int | None = None


def generating(runs: Sequence[Running], apart: int | None = None) -> list[tuple[Running, Decode, Kind]]:
    """The generations that some jobs need next, and what kind each is of."""
    return [
        (run, one, Kind(run.plan.eager, run.plan.grads, run.plan.adapter, apart))
        for run in runs
        for one in run.wanted
        if isinstance(one, Decode)
    ]


def jobs_of(owners: Iterable[object]) -> tuple[str, ...]:
    """Ids of the jobs whose generations these are."""
    return tuple({owner.run.plan.id: None for owner in owners if isinstance(owner, _Seat)})


class Generations:
    """Generations of jobs that take one step each a turn; new ones join between two turns.

    Args:
        make: the decode loop, made when somebody generates.

    Example:
        >>> generations = Generations(lambda: Decoder(engine.model, engine.loaded))
        >>> generations.add(run, request, Kind(eager=False, grads=False, adapter=None))
        >>> while generations.busy:
        ...     generations.turn(Room())
    """

    def __init__(self, make: Callable[[], Decoder]) -> None:
        self._make = make
        self._decoder: Decoder | None = None
        self._leaving = _Leaving()

    @property
    def busy(self) -> bool:
        """Whether anything is left to do."""
        return self._decoder is not None and self._decoder.busy

    @property
    def bytes(self) -> int:
        """That the caches of those who go on take, as they will be at their ends."""
        return 0 if self._decoder is None else self._decoder.lobby.bytes

    def add(self, run: Running, request: Decode, kind: Kind) -> None:
        """One more; a job whose generation cannot run fails."""
        seat = _Seat(run, request.owner, self._leaving)
        try:
            if self._decoder is None:
                self._decoder = self._make()
            self._decoder.add(seat, [request.generation], alone=run.plan.alone, kind=kind)
            self._leaving.seats.append(seat)
        except Exception as error:
            run.fail(error)

    @property
    def going(self) -> set[int]:
        """Identities of the jobs that have generations which are not over."""
        return {id(seat.run) for seat in self._leaving.seats}

    @property
    def begun(self) -> set[int]:
        """Identities of those of which some generation has read its prompt."""
        return {id(seat.run) for seat in self._leaving.seats if seat.begun}

    def turn(self, room: Room) -> list[Running]:
        """One step for everybody, and the first for those for whom there is room.

        Returns:
            The jobs that have failed for what was raised while they shared a forward.
        """
        if self._decoder is None:
            return []
        self._decoder.lobby.room = room
        for seat in self._leaving.seats:
            seat.take_part()
        self._leaving.begin()
        swept = self._decoder.turn(self._leaving)
        for seat in self._leaving.seats:
            seat.run.leave()
        self._leaving.end()
        return list({id(seat.run): seat.run for seat in swept if isinstance(seat, _Seat)}.values())


class _Seat:
    """One generation of a job in the loop: what it does there counts as the job's own time."""

    def __init__(self, run: Running, owner: Owner, leaving: _Leaving) -> None:
        self.run = run
        self._owner = owner
        self._leaving = leaving
        self.begun = False
        self._ended = False

    @property
    def over(self) -> bool:
        """Whether it takes no further step."""
        return self._ended or self.run.error is not None

    def take_part(self) -> None:
        """The forwards that follow are its job's as well, once it was let in."""
        if self.begun:
            self.run.enter()

    def moments(self, steps: Mapping[str, int]) -> Sequence[Moment]:
        """What happens in the next forward."""
        self.begun = True
        self.run.enter()
        with self.run.timed():
            return self._owner.moments(steps)

    def read(self, moment: Moment, value: torch.Tensor) -> None:
        """Take the value at a place."""
        with self.run.timed():
            self._owner.read(moment, value)

    def write(self, moment: Moment, region: torch.Tensor) -> None:
        """Change the value at a place."""
        with self.run.timed():
            self._owner.write(moment, region)

    def track(self, moment: Moment, tensor: torch.Tensor, rows: Rows) -> None:
        """Gradients do not flow through a generation."""

    def sampled(self, name: str, step: int, tokens: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """The tokens that go on."""
        with self.run.timed():
            return self._owner.sampled(name, step, tokens, logits)

    def ends(self, name: str, step: int) -> bool:
        """Whether it ends here."""
        return self._owner.ends(name, step)

    def ended(self, name: str, result: Generated) -> None:
        """It is over."""
        self._owner.ended(name, result)
        self._ended = True

    def fail(self, error: Exception) -> None:
        """The job is over, with all its other generations."""
        self.run.fail(error)
        self._leaving.news = True


class _Leaving:
    """Tells whose generations shall leave; asked at every site, so nearly always quick."""

    def __init__(self) -> None:
        self.seats: list[_Seat] = []
        self.news = False
        self._watch: Callable[[], Sequence[object]] = tuple

    def begin(self) -> None:
        """A turn begins: jobs may have failed elsewhere since the last one."""
        runs = {id(seat.run): seat.run for seat in self.seats}
        self._watch = Watch(list(runs.values())) if runs else tuple
        self.news = True

    def end(self) -> None:
        """A turn is over: forget those who are."""
        self.seats = [seat for seat in self.seats if not seat.over]
        self._watch = tuple

    def __call__(self) -> Sequence[Job]:
        """Those of jobs that have failed since it was asked last."""
        if self._watch():
            self.news = True
        if not self.news:
            return ()
        self.news = False
        return [seat for seat in self.seats if seat.run.error is not None]
