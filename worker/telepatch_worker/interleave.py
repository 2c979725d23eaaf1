"""The model under nnsight: planned reads and writes, interleaved with a forward of it.

nnsight hands every module's input and output to an interleaver, which serves *mediators*: greenlets that run until they
need a value and park there. Ours (`mediators`) walk a list of planned moments, one mediator per job and invoke.

Operations inside a module's forward are nnsight's `.source`: for forwards in which a job names one, and only for those,
the module runs a copy of its forward in which every call and assignment passes by the interleaver.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from nnsight.intervention import source
from nnsight.intervention.envoy import Envoy
from torch import nn

from telepatch_protocol.sites import Place
from telepatch_worker.mediators import Interleaver, Passing, Stop
from telepatch_worker.moments import ROOT, Part
from telepatch_worker.shards import Shards
from telepatch_worker.skipping import Skips


class Interleaved:
    """A model under nnsight's interleaver, which stays installed, and idle, between forwards.

    Args:
        module: the model. Its modules' `forward` is nnsight's until `close`.
        shards: which of its tensors are pieces, where it is one shard of a larger model.
    """

    def __init__(self, module: nn.Module, shards: Shards | None = None) -> None:
        self.module = module
        self._shards = shards
        self._interleaver = Interleaver(shards)
        self._instrumented: dict[str, Callable[..., Any]] = {}
        self._before = {id(one): one.__dict__["forward"] for one in module.modules() if "forward" in one.__dict__}
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # about children called `output`: nnsight renames them, our paths do not care
            self._envoy = Envoy(module, path=ROOT, interleaver=self._interleaver)

    def forward(
        self,
        inputs: dict[str, Any],
        parts: Sequence[Part],
        dropped: Callable[[], Sequence[object]] = tuple,
        *,
        skips: bool = False,
        passing: Sequence[Passing] = (),
    ) -> None:
        """Run the model until the last moment of every job has passed.

        Args:
            inputs: what the model is called with.
            parts: the jobs.
            dropped: asked at every site: the owners that shall take no further part from here.
            skips: whether modules are left out of which nobody needs more than what is written there.
            passing: what changes the forward on its own account, such as rows that join on the way.

        Raises:
            Exception: whatever the model itself raises; what a job raises goes to its `fail`.
        """
        run = self._interleaver
        run.begin(self._envoy, parts, dropped)
        run.passing = passing
        if skips:
            device = next(one.device for one in inputs.values() if isinstance(one, torch.Tensor))
            run.skips = Skips((moment for part in parts for moment in part.moments), device)
        try:
            with self._opened(parts), run:
                self.module(**inputs)
            run.miss()
        except Stop:
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
    def aside(self) -> Iterator[None]:
        """Other forwards, in the middle of one."""
        with self._interleaver.aside():
            yield

    @contextmanager
    def _opened(self, parts: Sequence[Part]) -> Iterator[None]:
        """Let the modules whose operations a job names run by their instrumented forwards."""
        places = {moment.place for part in parts for moment in part.moments if moment.place.port.startswith("source.")}
        states = {path: self._state(path) for path in {place.path for place in places}}
        before = {path: state.body for path, state in states.items()}
        try:
            for path, state in states.items():
                if path not in self._instrumented:
                    self._instrumented[path], _ = source.instrument(state.original, _bracketing(state))
                state.body = self._instrumented[path]
            self._interleaver.functions = {base for place in places for base in _functions(place)}
            yield
        finally:
            for path, state in states.items():
                state.body = before[path]

    def _state(self, path: str) -> source.State:
        state: source.State = self.module.get_submodule(path).__dict__[source.STATE]
        return state

    def apply(self, path: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """What a module of the model gives for a value, with nobody watching it or its children."""
        found = self.module.get_submodule(path)
        envoy: Envoy = self._interleaver.envoys[id(found)]
        if self._shards is None:
            return envoy(*args, **kwargs)
        args, kwargs = self._shards.split(f"{envoy.path}.input", (tuple(args), kwargs))
        return self._shards.joined(f"{envoy.path}.output", envoy(*args, **kwargs))

    def close(self) -> None:
        """Give the modules their own `forward` back."""
        for module in self.module.modules():
            for name in [name for name, kept in module.__dict__.items() if _is_nnsight(kept)]:
                del module.__dict__[name]
            if id(module) in self._before:
                module.__dict__["forward"] = self._before[id(module)]


def _bracketing(state: source.State) -> Callable[..., Any]:
    """What an instrumented forward calls at each of its operations."""
    made: Callable[..., Any] = source.make_op(lambda: state.active()[:2])
    return made


def _functions(place: Place) -> list[str]:
    """nnsight's names of the calls whose inside a place lies in, outermost first."""
    found, head = [], f"{ROOT}.{place.path}" if place.path else ROOT
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
