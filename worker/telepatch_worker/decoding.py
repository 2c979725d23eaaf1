"""Generations that jobs ask for in one round, in one decode loop, each job failing and leaving alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from telepatch_worker.decode import Decoder
from telepatch_worker.generation import Generated, Owner
from telepatch_worker.layout import Rows
from telepatch_worker.moments import Job, Moment
from telepatch_worker.requests import Decode
from telepatch_worker.running import Running, Watch


def decode(decoder: Decoder, wanted: Sequence[tuple[Running, Decode]]) -> None:
    """Let generations run to their ends; those of a job that fails or has to stop leave.

    Args:
        decoder: of the model, with nobody in it.
        wanted: generations with the jobs that they are of.
    """
    leaving = _Leaving([run for run, _ in wanted])
    for run, request in wanted:
        seat = _Seat(run, request.owner, leaving)
        try:
            decoder.add(seat, [request.generation], alone=run.plan.alone)
        except Exception as error:
            seat.fail(error)
    while decoder.busy:
        decoder.turn(leaving)


class _Seat:
    """One generation of a job in the loop: what it does there counts as the job's own time."""

    def __init__(self, run: Running, owner: Owner, leaving: _Leaving) -> None:
        self.run = run
        self._owner = owner
        self._leaving = leaving
        leaving.seats.append(self)

    def moments(self, steps: Mapping[str, int]) -> Sequence[Moment]:
        """What happens in the next forward."""
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

    def fail(self, error: Exception) -> None:
        """The job is over, with all its other generations."""
        self.run.fail(error)
        self._leaving.news = True


class _Leaving:
    """Tells whose generations shall leave; asked at every site, so nearly always quick."""

    def __init__(self, runs: Sequence[Running]) -> None:
        self._watch = Watch(list({id(run): run for run in runs}.values()))
        self.seats: list[_Seat] = []
        self.news = False

    def __call__(self) -> Sequence[Job]:
        """Those of jobs that have failed since it was asked last."""
        if self._watch():
            self.news = True
        if not self.news:
            return ()
        self.news = False
        gone = [seat for seat in self.seats if seat.run.error is not None]
        self.seats = [seat for seat in self.seats if seat.run.error is None]
        return gone
