"""The one place that touches nnsight: planned reads and writes, interleaved with a forward of the model.

nnsight hands every module's input and output to an interleaver, which serves *mediators*: greenlets that run until they
need a value and park there. Ours walk a list of planned moments instead of a user's code, one mediator per job and
invoke. The batcher gives each mediator a view of its own rows and positions, and lets it write in place into one copy
of the tensor; the interleaver stops the forward as soon as nobody waits for anything more.

Operations inside a module's forward are nnsight's `.source`: for forwards in which a job names one, and only for those,
the module runs a copy of its forward in which every call and assignment passes by the interleaver.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from nnsight import _c
from nnsight.intervention import batching, interleaver, source
from nnsight.intervention.envoy import Envoy
from torch import nn

from telepatch_protocol.card import Axis, View
from telepatch_protocol.errors import ExecutionError
from telepatch_protocol.sites import Place
from telepatch_worker.layout import Rows, own_part
from telepatch_worker.leaves import read_leaf, replace_leaf
from telepatch_worker.skipping import Skips
from telepatch_worker.views import seen

_ROOT = "model"

After = Literal["stop", "watch", "pass"]
"""What a forward does once nobody waits for anything more: it stops, or it runs to its end, watched at every site for
jobs that are to leave, or by itself."""

if _c.unmount is not None and hasattr(object, "save"):
    _c.unmount("save")  # importing nnsight adds `save` to every object there is, which breaks other libraries (anyio)


@dataclass(frozen=True, slots=True)
class Moment:
    """One read or write of one invoke, as planned.

    Attributes:
        node: id of the node.
        invoke: id of the invoke.
        writes: whether it is a write.
        place: of the tensor.
        axes: what the axes count of what the job sees.
        part: which of several places of a starred site.
        view: how the job sees the tensor, where it does not see it as it is.
        tracked: whether gradients are asked of the tensor, so that it has to be part of PyTorch's graph.
        again: whether the value was taken in an earlier forward already, and is only tracked in this one.
        replaces: dtype of what the module returns, where a write replaces all of it.
    """

    node: str
    invoke: str
    writes: bool
    place: Place
    axes: tuple[Axis, ...]
    part: int = 0
    view: View | None = None
    tracked: bool = False
    again: bool = False
    replaces: torch.dtype | None = None

    @property
    def location(self) -> str:
        """nnsight's name of the place."""
        path = f"{_ROOT}.{self.place.path}" if self.place.path else _ROOT
        return f"{path}.{self.place.port}"


class Job(Protocol):
    """What a forward needs of a job that takes part in it."""

    def read(self, moment: Moment, value: torch.Tensor) -> None:
        """Take the value at a place: a view that is good only until this returns."""

    def write(self, moment: Moment, region: torch.Tensor) -> None:
        """Change the value at a place: `region` is the invoke's own part, to be written in place."""

    def track(self, moment: Moment, tensor: torch.Tensor, rows: Rows) -> None:
        """Keep the tensor of the whole batch at a place: gradients are asked of the invoke's part of it."""

    def fail(self, error: Exception) -> None:
        """The job raised; it takes no further part."""


@dataclass(frozen=True, slots=True)
class Part:
    """A job's part in one forward.

    Attributes:
        job: what reads and writes.
        moments: its reads and writes, in order.
        rows: where its invokes lie in the batch.
        owner: whose part it is, where several parts fail and are dropped together; the job itself if left out.
    """

    job: Job
    moments: tuple[Moment, ...]
    rows: dict[str, Rows]
    owner: object = None


class Interleaved:
    """A model under nnsight's interleaver, which stays installed, and idle, between forwards.

    Args:
        module: the model. Its modules' `forward` is nnsight's until `close`.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._interleaver = _Interleaver()
        self._instrumented: dict[str, Callable[..., Any]] = {}
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # about children called `output`: nnsight renames them, our paths do not care
            self._envoy = Envoy(module, path=_ROOT, interleaver=self._interleaver)

    def forward(
        self,
        inputs: dict[str, Any],
        parts: Sequence[Part],
        dropped: Callable[[], Sequence[object]] = tuple,
        *,
        skips: bool = False,
    ) -> None:
        """Run the model until the last moment of every job has passed.

        Args:
            inputs: what the model is called with.
            parts: the jobs.
            dropped: asked at every site: the owners that shall take no further part from here.
            skips: whether modules are left out of which nobody needs more than what is written there.

        Raises:
            Exception: whatever the model itself raises; what a job raises goes to its `fail`.
        """
        run = self._interleaver
        run.begin(self._envoy, parts, dropped)
        if skips:
            device = next(one.device for one in inputs.values() if isinstance(one, torch.Tensor))
            run.skips = Skips((moment for part in parts for moment in part.moments), device)
        try:
            with self._opened(parts), run:
                self.module(**inputs)
            run.miss()
        except _Stop:
            pass
        finally:
            run.end()

    def whole(
        self,
        inputs: dict[str, Any],
        parts: Sequence[Part],
        dropped: Callable[[], Sequence[object]] = tuple,
        *,
        watched: bool = True,
    ) -> Any:
        """Run the model to its end, whoever still waits, and give what it returns.

        Args:
            inputs: what the model is called with.
            parts: the jobs; there may be none.
            dropped: asked at every site: the jobs that shall take no further part from here. What it raises ends the
                forward.
            watched: whether it is asked at sites after the last moment too; not worth it in a forward that is short.

        Raises:
            Exception: whatever the model itself raises, or `dropped`; what a job raises goes to its `fail`.
        """
        run = self._interleaver
        run.begin(self._envoy, parts, dropped, then="watch" if watched else "pass")
        try:
            with self._opened(parts), run, torch.no_grad():
                run.busy = watched or bool(run.parked)
                returned = self.module(**inputs)
            run.miss()
            return returned
        finally:
            run.end()

    @contextmanager
    def _opened(self, parts: Sequence[Part]) -> Iterator[None]:
        """Let the modules whose operations a job names run by their instrumented forwards."""
        places = {moment.place for part in parts for moment in part.moments if moment.place.port.startswith("source.")}
        states = {path: self._state(path) for path in {place.path for place in places}}
        try:
            for path, state in states.items():
                if path not in self._instrumented:
                    self._instrumented[path], _ = source.instrument(state.original, _bracketing(state))
                state.body = self._instrumented[path]
            self._interleaver.functions = {base for place in places for base in _functions(place)}
            yield
        finally:
            for state in states.values():
                state.body = state.original

    def _state(self, path: str) -> source.State:
        state: source.State = self.module.get_submodule(path).__dict__[source.STATE]
        return state

    def apply(self, path: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """What a module of the model gives for a value, with nobody watching it or its children."""
        found = self.module.get_submodule(path)
        envoy: Envoy = self._interleaver.envoys[id(found)]
        return envoy(*args, **kwargs)

    def close(self) -> None:
        """Give the modules their own `forward` back."""
        for module in self.module.modules():
            for name in [name for name, kept in module.__dict__.items() if _is_nnsight(kept)]:
                del module.__dict__[name]


def _bracketing(state: source.State) -> Callable[..., Any]:
    """What an instrumented forward calls at each of its operations."""
    made: Callable[..., Any] = source.make_op(lambda: state.active()[:2])
    return made


def _functions(place: Place) -> list[str]:
    """nnsight's names of the calls whose inside a place lies in, outermost first."""
    found, head = [], f"{_ROOT}.{place.path}" if place.path else _ROOT
    names = place.port.removeprefix("source.").rpartition(".")[0].split(".source.")
    for name in names[:-1]:
        head = f"{head}.source.{name}"
        found.append(head)
    return found


@dataclass(frozen=True, slots=True)
class Code:
    """A function whose calls and assignments are announced, and where each stands: name, line from 1, and its text."""

    run: Callable[..., Any]
    lines: dict[str, tuple[int, str]]


def announcing(function: Callable[..., Any], announce: Callable[..., Any]) -> Code | None:
    """A copy of a function that hands every operation to `announce`; None where its source is not to be had.

    Args:
        function: in Python, decorated or not.
        announce: called with the operation's name, what to call, and with what; returns what that gave.
    """
    try:
        run, compiled = source.instrument(
            function, lambda name, fn, *args, **kwargs: announce(name.removeprefix("source."), fn, *args, **kwargs)
        )
    except (source.SourceNotAvailable, KeyError):  # nnsight takes a method that calls a function of its name for one
        return None
    text = compiled.source.split("\n")
    return Code(run, {name: (line, text[line - 1].strip()) for name, line in compiled.lines.items()})


def is_assignment(function: object) -> bool:
    """Whether an operation binds a name, and calls nothing."""
    return function is source.bind


def _is_nnsight(kept: object) -> bool:
    return type(kept).__module__.startswith("nnsight.")


class _Stop(interleaver.EarlyStopException):
    """Nobody waits for anything more: leave the forward."""


class _Cursor:
    """The order in which the moments of one job happen, across its invokes."""

    def __init__(self, part: Part) -> None:
        self.job = part.job
        self.owner = part.job if part.owner is None else part.owner
        self.moments = part.moments
        self.done = 0

    @property
    def next(self) -> Moment | None:
        return self.moments[self.done] if self.done < len(self.moments) else None


class _Mediator(interleaver.Mediator):
    """Walks the moments of one job's invoke."""

    def __init__(self, cursor: _Cursor, invoke: str, rows: Rows) -> None:
        super().__init__(None, {}, {})
        self.cursor = cursor
        self.rows = rows
        self.moments = [moment for moment in cursor.moments if moment.invoke == invoke]

    def _run(self) -> None:
        for moment in self.moments:
            if moment.writes:
                self._park(interleaver.Event.SWAP, moment)
                self.cursor.done += 1
                continue
            value = self._park(interleaver.Event.VALUE, moment)
            if not moment.again:
                self.cursor.job.read(moment, value)
            self.cursor.done += 1

    def _park(self, event: interleaver.Event, moment: Moment) -> Any:
        assert self.worker is not None
        return self.worker.parent.switch(interleaver.Pending(event, moment.location, moment.place.call, moment))

    @property
    def awaited(self) -> Moment:
        """The moment that it waits for."""
        assert self.pending is not None
        moment: Moment = self.pending.value
        return moment

    def comes_to(self, provider: str) -> bool:
        """Whether this visit is what it waits for."""
        return (
            self.pending is not None
            and self.pending.provider == provider
            and self.pending.iteration == self.occurrence(provider)
        )

    def due(self, provider: str) -> bool:
        """Whether this visit is what it waits for, and no other invoke of the job comes before it."""
        return self.comes_to(provider) and self.awaited is self.cursor.next

    def handle(self, provider: str, value: Any) -> Any:
        """Serve one moment; more at this visit follow when it is this invoke's turn again."""
        assert self.pending is not None
        moment: Moment = self.pending.value
        batcher: _Batcher = self.interleaver.batcher
        try:
            if moment.writes:
                value = batcher.widen(value, (moment, self.rows), self.cursor.job.write)
                self.pending = self.switch()
            else:
                if moment.tracked:
                    value = batcher.tracked(value, moment)
                    self.cursor.job.track(moment, read_leaf(value, moment.place), self.rows)
                self.pending = self.switch(batcher.narrow(value, (moment, self.rows)))
        except Exception as error:
            self.interleaver.drop(self.cursor.owner)
            self.cursor.job.fail(error)
        return value


class _Batcher(batching.Batcher):
    """Narrows and widens by rows and positions; all writes of one visit go into one copy of the tensor."""

    def __init__(self, envoy: Envoy) -> None:
        super().__init__(envoy)
        self._copies: dict[Place, torch.Tensor] = {}

    def visit(self) -> None:
        """A new visit begins: copies of the last one are not needed any more."""
        self._copies.clear()

    def narrow(self, value: Any, group: Any) -> torch.Tensor:
        """The invoke's own part of the tensor, as a view; `group` is the moment and the invoke's rows."""
        moment, rows = group
        return own_part(seen(read_leaf(value, moment.place), moment.view, rows), moment.axes, rows)

    def widen(self, full: Any, group: Any, edited: Any) -> Any:
        """The value with the invoke's part of the tensor rewritten by `edited`; the original stays as it is."""
        moment, rows = group
        copied = self._copies.get(moment.place)
        tensor = read_leaf(full, moment.place).clone() if copied is None else copied
        edited(moment, own_part(seen(tensor, moment.view, rows), moment.axes, rows))
        if copied is not None:
            return full
        self._copies[moment.place] = tensor
        return replace_leaf(full, moment.place, tensor)

    def tracked(self, full: Any, moment: Moment) -> Any:
        """The value with its tensor in PyTorch's graph; it stays as it is now, so a later write makes another copy."""
        self._copies.pop(moment.place, None)
        tensor = read_leaf(full, moment.place)
        return full if tensor.requires_grad else replace_leaf(full, moment.place, tensor.detach().requires_grad_())


class _Interleaver(interleaver.Interleaver):
    """Serves the jobs' moments in their order, drops jobs that are to stop, and ends the forward early."""

    def __init__(self) -> None:
        super().__init__()
        self._walkers: list[_Mediator] = []
        self._dropped: Callable[[], Sequence[object]] = tuple
        self._then: After = "stop"
        self.functions: set[str] = set()
        self.skips: Skips | None = None

    def __enter__(self) -> _Interleaver:
        super().__enter__()
        self.sourced.update(dict.fromkeys(self.functions))
        return self

    def begin(
        self,
        envoy: Envoy,
        parts: Sequence[Part],
        dropped: Callable[[], Sequence[object]],
        *,
        then: After = "stop",
    ) -> None:
        """Take in the jobs of the forward that follows, and what to do when nobody waits any more."""
        self._then = then
        self.counts.clear()
        self.batcher = _Batcher(envoy)
        self._dropped = dropped
        self._walkers = [
            _Mediator(cursor, invoke, rows)
            for part in parts
            for cursor in (_Cursor(part),)
            for invoke, rows in part.rows.items()
        ]
        self.mediators = [*self._walkers]

    def end(self) -> None:
        """Let go of everything of this forward, however it ended."""
        self.interleaving = self.busy = False
        self.cancel()
        self.parked = set()
        self.functions = set()
        self.skips = None
        self.sourced.clear()
        self._walkers = []
        self._dropped = tuple

    def drop(self, owner: object) -> None:
        """Let everything of one owner take no further part."""
        for walker in self._walkers:
            if walker.cursor.owner is owner:
                walker.pending = None

    def miss(self) -> None:
        """The forward is over: fail the jobs that still wait for a place that it never reached."""
        for walker in self._walkers:
            if walker.pending is not None:
                waited = walker.pending.value.place
                self.drop(walker.cursor.owner)
                walker.cursor.job.fail(ExecutionError(f"the forward never came to '{waited}'"))

    def handle(self, provider: str, value: Any) -> Any:
        """Everything that happens at one place of the forward.

        Raises:
            _Stop: nothing is left to happen.
        """
        if leaving := self._dropped():
            for owner in leaving:
                self.drop(owner)
            self._reindex_parked()
        if self.functions and provider.endswith(".fn"):
            self._open(provider.removesuffix(".fn"), value)
        if self.skips is not None and provider.endswith(".skip"):
            stand_in = self._stand_in(provider.removesuffix(".skip"), self.skips)
            return value if stand_in is None else stand_in
        if provider in self.parked:
            self.batcher.visit()
        value = super().handle(provider, value)
        if not self.parked:
            if self._then == "stop":
                raise _Stop
            self.busy = self._then == "watch"
        return value

    def _stand_in(self, base: str, skips: Skips) -> torch.Tensor | None:
        """What to take for the output of a module that is about to run, if it need not."""
        output = f"{base}.output"
        waiting = [walker for walker in self._walkers if walker.pending is not None]
        if not waiting or not all(walker.comes_to(output) for walker in waiting):
            return None
        return skips.stand_in([(walker.awaited, walker.rows) for walker in waiting])

    def _open(self, base: str, function: Callable[..., Any]) -> None:
        """Let a function that is about to be called show its operations; it may be another one at each call."""
        bracket = source.make_op(lambda: (self, base) if self.interleaving else (None, None))
        self.sourced[base] = source.instrument(function, bracket)

    def _ready(self, provider: str) -> list[interleaver.Mediator]:
        return [walker for walker in self._walkers if walker.due(provider)]
