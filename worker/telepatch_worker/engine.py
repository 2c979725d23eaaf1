"""The engine: runs jobs on a model, many in one forward, each as if it ran alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel

from telepatch_protocol.check import exact
from telepatch_protocol.errors import BadArgument
from telepatch_protocol.price import generations
from telepatch_worker import applying
from telepatch_worker.accord import ALONE, Accord
from telepatch_worker.adapters import Switch
from telepatch_worker.attention import attention
from telepatch_worker.backward import fulfil
from telepatch_worker.batch import Batch, order, pack, pieces, stack, worthwhile
from telepatch_worker.checkpoints import Keep
from telepatch_worker.decode import Decoder
from telepatch_worker.decoding import Generations, Kind, generating, jobs_of
from telepatch_worker.desk import Desk, Outcome, Progress, Settled, Values, always, quiet, unheard, unkept, unseen
from telepatch_worker.floor import Floor
from telepatch_worker.inputs import Given, TokenInput
from telepatch_worker.interleave import Interleaved
from telepatch_worker.layout import Seat
from telepatch_worker.load import Loaded, padding_of
from telepatch_worker.lobby import Room
from telepatch_worker.mediators import Passing
from telepatch_worker.meter import Forward as Ran
from telepatch_worker.meter import Meter
from telepatch_worker.moments import Part
from telepatch_worker.named_inputs import NamedInput
from telepatch_worker.narrow import Look, NarrowHead
from telepatch_worker.past_price import past_bytes
from telepatch_worker.pauses import UNBROKEN, Pauses
from telepatch_worker.plan import Plan, Planner, Task
from telepatch_worker.requests import Apply, Backward, Forward
from telepatch_worker.running import Clock, Running, Station, Watch, stopped
from telepatch_worker.seating import Doors, Seated, Seating, seated, seats_for

__all__ = ["BatchLimits", "Desk", "Engine", "Outcome", "Passes", "Settled", "Task"]

_Key = tuple[int, str]
"""An input of a forward: whose, by number, and its name there."""


@dataclass(frozen=True)
class BatchLimits:
    """How much goes into one forward.

    Attributes:
        tokens: positions, padding included.
        rows: rows.
    """

    tokens: int = 16_384
    rows: int = 256

    def __post_init__(self) -> None:
        if self.tokens < 1 or self.rows < 1:
            raise ValueError(f"a batch holds at least one token and one row; found {self}")

    def halved(self) -> BatchLimits:
        """Half as much."""
        return BatchLimits(max(1, self.tokens // 2), max(1, self.rows // 2))


@dataclass(frozen=True)
class Passes:
    """Work that forwards leave out because it comes to the same, each with a switch of its own; jobs that ask for
    exactness, or for gradients, do all of it in any case.

    Attributes:
        skip: modules whose outputs are replaced for everyone in a forward.
        share: rows that are the same as others, as long as they are (`seating`).
        narrow: logits of positions and tokens that nobody looks at (`narrow`, `columns`).
        apply: going over the weights of a module for each value that it is applied to (`applying`).
    """

    skip: bool = True
    share: bool = True
    narrow: bool = True
    apply: bool = True


class Engine:
    """Runs jobs on one loaded model. One call of `run` at a time.

    Args:
        loaded: the model.
        limits: of one forward.
        cache_bytes: of keys and values of all generations at once; None for no limit.
        passes: what is left out of forwards, because it comes to the same.
        accord: with those who hold other shards of the model.

    Attributes:
        meter: told what is run.

    Example:
        >>> engine = Engine(load(Path("models/gpt2-random.toml"), cache=cache))
        >>> graph = wire.decode('{"protocol": [1, 0], "model": {"id": "gpt2-random"}, ...}')
        >>> [outcome] = engine.run([Task("job-1", graph)])
        >>> outcome.saved["logits"].shape
        torch.Size([1, 257])
    """

    def __init__(
        self,
        loaded: Loaded,
        limits: BatchLimits | None = None,
        *,
        cache_bytes: int | None = None,
        passes: Passes | None = None,
        accord: Accord = ALONE,
    ) -> None:
        self.accord = accord
        self.meter = Meter()
        self._passes = passes or Passes()
        self._doors = Doors(loaded.card)
        self._head: NarrowHead | None = None
        if isinstance(loaded.module, PreTrainedModel) and loaded.card.kind == "causal":
            self._head = NarrowHead(loaded.module, loaded.card, columns=loaded.shards is None)
        self.cache_bytes = cache_bytes
        self.loaded = loaded
        self.card = loaded.card
        self.limits = limits or BatchLimits()
        self.model = Interleaved(loaded.module, loaded.shards)
        self.adapters = Switch(loaded.module)
        self._pad = padding_of(loaded)
        self._planner = Planner(loaded.card, self._tokenize_one if loaded.tokenizer is not None else None)

    def run(
        self,
        tasks: Sequence[Task],
        *,
        cancelled: Callable[[], set[str]] = set,
        progress: Progress = quiet,
        values: Values = unseen,
        keep: Keep = unkept,
        ended: Callable[[Outcome], None] = unheard,
        proceed: Callable[[], bool] = always,
    ) -> list[Outcome]:
        """Run jobs, in as few forwards as they and the limits allow.

        Args:
            tasks: the jobs; their ids differ.
            cancelled: asked at every site: ids of jobs that are to stop.
            progress: told when a forward of a job of several is over.
            values: told what jobs stream.
            keep: told checkpoints of jobs that train, from which they can be begun again (`Task.checkpoint`).
            ended: told of each job as soon as it has ended, before the others have.
            proceed: asked before each batch; once it says no, jobs that have not begun are left out.

        Returns:
            How each ended, in order. A job that fails takes no other with it.
        """
        if len({task.id for task in tasks}) < len(tasks):
            raise ValueError("two tasks have the same id")
        outcomes: dict[str, Outcome] = {}

        def tell(outcome: Outcome) -> None:
            outcomes[outcome.id] = outcome
            ended(outcome)

        floor = Floor(self, Desk(cancelled, progress, values, keep, Settled(tell)), proceed)
        floor.add(tasks)
        while floor.busy:
            floor.turn()
        return [outcomes[task.id] for task in tasks if task.id in outcomes]

    def plan(self, task: Task) -> Plan:
        """Check and price a job without running it.

        Raises:
            GraphError: it cannot run, or costs too much.
        """
        began = time.perf_counter()
        plan = self._planner.plan(task)
        module = self.loaded.module
        if plan.generates and isinstance(module, PreTrainedModel):
            room = self.room(self.limits)
            for rows, positions in generations(plan.checked.scope, self.card):
                room.refuse_too_big(past_bytes(module.config, self.loaded.dtype, rows, positions + 1))
        self.meter.planned(task.id, time.perf_counter() - began)
        return plan

    def tokenize(self, text: str | Sequence[str]) -> list[list[int]]:
        """Token ids of a text, or of each of several: one row each, special tokens as the model expects them.

        Raises:
            BadArgument: the model takes token ids only.
        """
        return [self._tokenize_one(one) for one in ([text] if isinstance(text, str) else text)]

    def close(self) -> None:
        """Give the model back as it was loaded."""
        self.model.close()

    @contextmanager
    def under(self, plan: Plan) -> Iterator[None]:
        """What the work of a job needs around it: whether gradients are kept, and the adapter that it names."""
        with torch.set_grad_enabled(plan.grads), self.adapters.set_to(plan.adapter):
            yield

    def running(self, plan: Plan, desk: Desk, limits: BatchLimits, clock: Clock | None = None) -> Running:
        """A job that is about to run."""
        device = self.loaded.device
        return Running(
            plan,
            self.model,
            self.card,
            device,
            clock or Clock(),
            desk.cancelled,
            rows=limits.rows,
            tokens=limits.tokens,
            values=partial(desk.values, plan.id),
            keep=desk.keep,
            decode=self._text(),
            together=self._passes.apply and not plan.alone and not plan.grads,
            accord=self.accord,
            room=desk.room,
        )

    def round(self, runs: Sequence[Running], limits: BatchLimits, pauses: Pauses = UNBROKEN) -> None:
        """Everything that some jobs need next; generations to their ends."""
        for wanted in self.shared(runs, limits):
            self.forward(wanted, pauses)
        loop = self.generations()
        for run, request, kind in generating(runs):
            loop.add(run, request, kind)
        while loop.busy:
            loop.turn(self.room(limits))
        self.apply(runs)
        self.backward(runs, pauses)

    def shared(self, runs: Sequence[Running], limits: BatchLimits) -> list[list[Wanted]]:
        """The forwards that some jobs need next, those together that share one."""
        wanted = [Wanted(run, one) for run in runs for one in run.wanted if isinstance(one, Forward)]
        if runs[0].plan.alone:
            return [[one] for one in wanted]
        most = worthwhile(self.loaded.device)
        return pieces(sorted(wanted, key=order), tokens=limits.tokens, rows=limits.rows, padding=most)

    def apply(self, runs: Sequence[Running]) -> None:
        """The modules that some jobs apply next."""
        wanted = [one for run in runs if run.error is None for one in run.wanted if isinstance(one, Apply)]
        with torch.no_grad():
            applying.fulfil(wanted, self.model, self.card)

    def backward(self, runs: Sequence[Running], pauses: Pauses = UNBROKEN) -> None:
        """The gradients that some jobs need next."""
        fulfil([one for run in runs if run.error is None for one in run.wanted if isinstance(one, Backward)], pauses)

    def generations(self) -> Generations:
        """A decode loop with nobody in it."""
        return Generations(
            lambda: Decoder(self.model, self.loaded, self.room(self.limits), self._around, self._stepped)
        )

    def _stepped(self, owners: Sequence[object], rows: int, tokens: int, seconds: float) -> None:
        """A forward of the decode loop was run."""
        self.meter.forward(Ran(jobs_of(owners), rows, tokens, seconds))

    def room(self, limits: BatchLimits) -> Room:
        """How much is generated at once."""
        return Room(rows=limits.rows, tokens=limits.tokens, bytes=self.cache_bytes)

    @contextmanager
    def _around(self, kind: Hashable) -> Iterator[None]:
        """What the forwards of generations of one kind need around them."""
        assert isinstance(kind, Kind)
        with (
            attention(self.loaded.module, eager=kind.eager),
            torch.set_grad_enabled(kind.grads),
            self.adapters.set_to(kind.adapter),
        ):
            yield

    def forward(self, wanted: Sequence[Wanted], pauses: Pauses = UNBROKEN) -> None:
        """One forward over every invoke that takes part in it."""
        leaving = {id(run) for run in stopped(list({id(one.run): one.run for one in wanted}.values()))}
        wanted = [one for one in wanted if id(one.run) not in leaving]
        if not wanted:
            return
        plan = wanted[0].run.plan
        planned = not plan.grads and not exact(plan.task.graph)
        given = {(at, name): rows for at, one in enumerate(wanted) for name, rows in one.request.inputs.items()}
        share = planned and not plan.alone and self._passes.share
        shared = self._sharing(wanted, given) if share else Seated(tuple(given), {}, {})
        mask = any(one.run.plan.reads_engine for one in wanted)
        batch = self._batch({key: given[key] for key in shared.first}, mask=mask)
        seats, seating = seats_for(shared, batch.rows, self._doors.gates)
        parts = [
            Part(
                Station(one.run, one.request.frame),
                one.request.moments,
                {name: seats[at, name] for name in one.request.inputs},
                owner=one.run,
            )
            for at, one in enumerate(wanted)
        ]
        fewer, narrow = self._narrowed(wanted, seats, seating) if planned and self._passes.narrow else ({}, ())
        passing = [*(() if seating is None else (seating,)), *narrow]
        inputs = {**batch.inputs, **fewer}
        watch = pauses.before(Watch([one.run for one in wanted]))
        began = time.perf_counter() - pauses.taken
        with attention(self.loaded.module, eager=plan.eager):
            self.model.forward(inputs, parts, watch, skips=planned and self._passes.skip, passing=passing)
        jobs = {one.run.plan.id: None for one in wanted}
        place = next(iter(batch.rows.values()))
        took = time.perf_counter() - pauses.taken - began
        self.meter.forward(Ran(tuple(jobs), place.total, place.total * place.padded, took))

    def _narrowed(
        self, wanted: Sequence[Wanted], seats: Mapping[_Key, Seat], seating: Seating | None
    ) -> tuple[Mapping[str, Any], Sequence[Passing]]:
        """What keeps the head of the model narrow in a forward."""
        if self._head is None:
            return {}, ()
        ends = {id(seat): seat.rows for seat in seats.values()} if seating is None else seating.ends()
        looks = [
            Look(one.request.frame, [moment for moment in one.request.moments if moment.invoke == name], ends[id(seat)])
            for (at, name), seat in seats.items()
            for one in (wanted[at],)
        ]
        return self._head.narrow(looks, self.loaded.device)

    def _sharing(self, wanted: Sequence[Wanted], given: Mapping[_Key, Given]) -> Seated[_Key]:
        """Which inputs share rows, as they are the same, and until where."""
        alike = {key: one.content for key, one in given.items()}
        if len(set(alike.values())) == len(alike):
            return Seated(tuple(given), {}, {})
        moments = {at: one.request.moments for at, one in enumerate(wanted)}
        return seated(alike, {(at, name): self._doors.leaves_at(moments[at], name) for at, name in given})

    def _batch(self, given: Mapping[_Key, Given], *, mask: bool) -> Batch[_Key]:
        """What the model is called with."""
        tensors = {key: one for key, one in given.items() if isinstance(one, NamedInput)}
        if tensors:
            return stack(tensors, self.loaded.device)
        tokens = {key: one.ids for key, one in given.items() if isinstance(one, TokenInput)}
        return pack(tokens, self.card, self.loaded.device, pad=self._pad, mask=mask)

    def _text(self) -> Callable[[list[int]], str] | None:
        tokenizer = self.loaded.tokenizer
        return None if tokenizer is None else lambda ids: str(tokenizer.decode(ids, skip_special_tokens=False))

    def _tokenize_one(self, text: str) -> list[int]:
        if self.loaded.tokenizer is None:
            raise BadArgument(f"model '{self.card.id}' has no tokenizer; give token ids")
        return [int(one) for one in self.loaded.tokenizer(text, verbose=False)["input_ids"]]


@dataclass(frozen=True)
class Wanted:
    """A forward that a job needs."""

    run: Running
    request: Forward

    @property
    def rows(self) -> int:
        """Rows of its invokes."""
        return self.request.rows

    @property
    def longest(self) -> int:
        """Positions of its longest invoke."""
        return self.request.longest

    @property
    def kin(self) -> object:
        """What must be equal for another one to share the forward."""
        return self.request.kin
