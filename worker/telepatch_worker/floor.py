"""The floor: jobs that run at the same time, in turns in which each gets its next forwards, or its next token.

Between two turns jobs come and go: a trace runs between the tokens of somebody's generation, and a generation joins
those that are on their way. Jobs that fail together, or lack memory, are tried again in smaller companies, down to one
that has the floor to itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from telepatch_worker.batch import groups
from telepatch_worker.decoding import generating
from telepatch_worker.desk import Desk, Outcome, always
from telepatch_worker.parties import Party, Retries
from telepatch_worker.plan import Plan, Task
from telepatch_worker.requests import Apply, Backward, Decode, Turn
from telepatch_worker.running import Clock, Running
from telepatch_worker.trouble import as_job_error, bare, is_memory

if TYPE_CHECKING:
    from telepatch_worker.engine import BatchLimits, Engine

_LOOPS_SECONDS = 0.2
"""The part of a turn that loops have together, in which others have to wait."""

_LEAST_SLICE_SECONDS = 0.005


@dataclass(eq=False)
class _Place:
    """A job on the floor, and with whom it came; `due` while forwards that it needs have not run."""

    run: Running
    party: Party
    due: bool = True

    @property
    def plan(self) -> Plan:
        return self.run.plan


class Floor:
    """Jobs that run on one engine. One call at a time, and nothing else runs on the engine during a turn.

    Args:
        engine: that runs them.
        desk: whom they talk to.
        proceed: asked before jobs begin; once it says no, those that have not begun are let go.

    Example:
        >>> floor = Floor(engine, desk)
        >>> floor.add([Task("job-1", graph)])
        >>> while floor.busy:
        ...     floor.turn()
    """

    def __init__(self, engine: Engine, desk: Desk, proceed: Callable[[], bool] = always) -> None:
        self._engine = engine
        self._desk = desk
        self._proceed = proceed
        self._clock = Clock()
        self._waiting: list[Plan] = []
        self._retries = Retries()
        self._places: list[_Place] = []
        self._generations = engine.generations()
        self._crowded = False

    @property
    def busy(self) -> bool:
        """Whether anything is left to do."""
        return bool(self._waiting or self._retries or self._places) or self._generations.busy

    @property
    def cache_bytes(self) -> int:
        """That the caches of its generations take, as they will be at their ends."""
        return self._generations.bytes

    @property
    def jobs(self) -> list[str]:
        """The ids of all jobs that were added and have not ended."""
        return [plan.id for plan in (*self._waiting, *self._retries.plans, *(one.plan for one in self._places))]

    def load(self, *, staying: bool = False) -> tuple[int, int]:
        """How many jobs wait for forwards, and positions that a turn computes: of a generation that has begun one for
        each row.

        Args:
            staying: count those alone who are not over with this turn.
        """
        # one that fills a forward leaves room for others, turn by turn
        most = (min(self._engine.limits.tokens, self._desk.room()) + 1) // 2
        places = [one for one in self._places if not staying or _stays(one, most)]
        going = [one.plan for one in places if id(one.run) in self._generations.begun]
        waiting = [one.plan for one in places if id(one.run) not in self._generations.begun]
        waiting += [*self._waiting, *self._retries.plans]
        return len(waiting), sum(plan.rows for plan in going) + sum(min(most, _tokens(plan)) for plan in waiting)

    def add(self, tasks: Iterable[Task]) -> None:
        """Take jobs in; one that cannot run ends at once."""
        for task in tasks:
            try:
                self._waiting.append(self._engine.plan(task))
            except Exception as error:
                self._fail(task.id, error)

    def turn(self) -> None:
        """Everybody's next forwards, then one token for everybody who generates."""
        self._let_in()
        self._share_out()
        self._crowded = len(self._places) > 1
        swept = [run for group in self._groups() for run in self._forwards(group)]
        self._go_on(swept)
        self._go_on(self._generations.turn(self._engine.room(self._limits)))

    def _share_out(self) -> None:
        """Loops share the time of a turn that is theirs."""
        loops = [one.run for one in self._places if _pauses(one.run)]
        for run in loops:
            run.context.slice = max(_LEAST_SLICE_SECONDS, _LOOPS_SECONDS / len(loops))

    # Who begins

    def _let_in(self) -> None:
        """Those for whom there is room now."""
        again = self._retries.next([one.party for one in self._places])
        if again is not None:
            self._begin(again)
        if self._waiting and not self._engine.accord.say(self._proceed()):
            self._waiting.clear()
        if not self._waiting or self._retries.closed or any(one.party.sole for one in self._places):
            return
        begun: set[str] = set()
        full: set[tuple[bool, bool]] = set()
        for plans in groups(self._waiting, tokens=self._limits.tokens, rows=self._limits.rows):
            kind = (plans[0].generates, plans[0].alone)
            if kind not in full and self._fit(plans):
                begun |= {plan.id for plan in plans}
                self._begin(Party(tuple(plans), self._limits))
            if kind[1] or not begun.issuperset(plan.id for plan in plans):
                full.add(kind)  # one at a time, so that a worker that is to stop has little to finish
        self._waiting = [plan for plan in self._waiting if plan.id not in begun]

    def _fit(self, plans: Sequence[Plan]) -> bool:
        """Whether there is room for these beside those of their kind."""
        generates = plans[0].generates
        if generates and (self._retries or any(one.party.apart is not None for one in self._places)):
            return False
        present = [one.plan for one in self._places if one.plan.generates == generates]
        if not present:
            return True
        everyone = [*present, *plans]
        rows, tokens = sum(plan.rows for plan in everyone), sum(plan.rows * plan.longest for plan in everyone)
        # a quarter more than goes into one forward is for those who come when others have filled it
        return rows <= self._limits.rows * 5 // 4 and (generates or tokens <= self._limits.tokens * 5 // 4)

    def _begin(self, party: Party) -> None:
        for plan in party.plans:
            try:
                run = self._engine.running(plan, self._desk, party.limits, self._clock)
            except Exception as error:
                self._fail(plan.id, error)
                continue
            run.leave()
            self._places.append(_Place(run, party))
            self._advance(self._places[-1])

    @property
    def _limits(self) -> BatchLimits:
        """Of forwards: those of a job that has the floor to itself, or everybody's."""
        return next((one.party.limits for one in self._places if one.party.sole), self._engine.limits)

    # What they need

    def _groups(self) -> list[list[_Place]]:
        """Those whose forwards are due, together as far as they may share some."""
        found: dict[object, list[_Place]] = {}
        for one in self._places:
            if one.due and not one.run.over:
                plan = one.plan
                alone = plan.id if plan.alone else None
                found.setdefault((alone, plan.grads, plan.eager, plan.adapter, one.party.apart), []).append(one)
        return list(found.values())

    def _forwards(self, group: Sequence[_Place]) -> list[Running]:
        """The next forwards of some, and their gradients. Returns those who failed for what failed others too."""
        runs = [one.run for one in group]
        swept: list[Running] = []
        for one in group:
            one.run.enter()
            one.due = False
        with self._engine.under(group[0].plan):
            for wanted in self._engine.shared(runs, group[0].party.limits):
                swept += _guarded([one.run for one in wanted], partial(self._engine.forward, wanted))
            applying = [run for run in runs if any(isinstance(one, Apply) for one in run.wanted)]
            swept += _guarded(applying, partial(self._engine.apply, applying))
            asking = [run for run in runs if any(isinstance(one, Backward) for one in run.wanted)]
            swept += _guarded(asking, partial(self._engine.backward, asking))
        for run in runs:
            run.leave()
        return swept

    def _go_on(self, swept: Sequence[Running]) -> None:
        """Let those go on who have what they needed, and those go who are over."""
        going = self._generations.going
        for one in self._places:
            if not one.run.over and not one.due and id(one.run) not in going:
                self._advance(one)
                self._tell(one.run)
        over = [one for one in self._places if one.run.over]
        self._places = [one for one in self._places if not one.run.over]
        self._settle(over, {id(run) for run in swept})

    def _advance(self, one: _Place) -> None:
        with self._engine.under(one.plan):
            one.run.advance()
        for run, request, kind in generating([one.run], one.party.apart):
            self._generations.add(run, request, kind)
        one.due = any(not isinstance(request, Decode) for request in one.run.wanted)

    def _tell(self, run: Running) -> None:
        """Say how far a job of several forwards is."""
        total = run.plan.price.passes
        if run.error is None and run.done and total > 1:
            self._desk.progress(run.plan.id, min(run.done, total), total)

    # Who ends

    def _settle(self, over: Sequence[_Place], swept: Collection[int]) -> None:
        """Tell how these have ended; who lacked memory, or failed with others, begins again."""
        lacking = []
        for one in over:
            if one.run.error is not None and (is_memory(one.run.error) or id(one.run) in swept):
                lacking.append(one)
            else:
                self._end(one)
        if len(lacking) > 1:
            self._retries.split([one.plan for one in lacking], self._engine.limits)
        elif lacking and not self._again(lacking[0]):
            self._end(lacking[0])

    def _again(self, one: _Place) -> bool:
        """Whether a single job is tried again: apart from others; alone; then in forwards of half the size."""
        limits = one.party.limits
        if one.run.error is not None and not is_memory(one.run.error):
            self._retries.split([one.plan], limits)
        elif self._crowded:
            self._retries.clear_for(one.plan, limits)
        elif one.plan.splits and limits.rows > 1:
            self._retries.clear_for(one.plan, limits.halved())
        else:
            return False
        return True

    def _end(self, one: _Place) -> None:
        run = one.run
        warnings = (*run.plan.checked.warnings, *run.warnings)
        self._desk.settled.add(Outcome(run.plan.id, run.saved, run.error, warnings, run.seconds))

    def _fail(self, job: str, error: Exception) -> None:
        self._desk.settled.add(Outcome(job, None, bare(as_job_error(error))))


def _guarded(runs: Sequence[Running], action: Callable[[], object]) -> list[Running]:
    """Do something for all of these; what is raised fails them all. Returns them if they are several."""
    try:
        action()
    except Exception as error:
        present = {id(run): run for run in runs if run.error is None}.values()
        for run in present:
            run.fail(as_job_error(error, "the model"))
        return list(present) if len(present) > 1 else []
    return []


def _tokens(plan: Plan) -> int:
    """Positions that a job computes in one forward."""
    return plan.rows * plan.longest if plan.generates else plan.price.tokens // max(1, plan.price.passes)


def _stays(one: _Place, most: int) -> bool:
    """Whether a job needs more forwards than the next one."""
    plan = one.plan
    more = one.run.done + 1 < plan.price.passes or (plan.splits and plan.price.tokens > most)
    return plan.generates or more or _pauses(one.run)


def _pauses(run: Running) -> bool:
    """Whether it is in the middle of a loop, and others go first."""
    return any(isinstance(one, Turn) for one in run.wanted)
