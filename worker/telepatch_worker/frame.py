"""The values of one scope: taken where the forward passes, computed as soon as possible, let go after the last use."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from pydantic import JsonValue

from telepatch_protocol import indexing, refs
from telepatch_protocol.card import ModelCard
from telepatch_protocol.constants import numbers
from telepatch_protocol.errors import ExecutionError, TooLarge
from telepatch_protocol.graph import Arg, Call, Generating, Get, Graph, Invoke, Log, Module, Node, Set
from telepatch_protocol.order import given_to
from telepatch_protocol.within import Within
from telepatch_worker import compound, evaluate, places
from telepatch_worker.applying import affordable, can_wait
from telepatch_worker.checkpoints import Shelf
from telepatch_worker.data import value_of
from telepatch_worker.desk import boundless
from telepatch_worker.inputs import Given, given_input
from telepatch_worker.kernels import index_into
from telepatch_worker.layout import Rows
from telepatch_worker.moments import Moment
from telepatch_worker.plan import Plan
from telepatch_worker.requests import Forward, Turn, Work, at_once, together
from telepatch_worker.scope_plan import ScopePlan
from telepatch_worker.tracks import Track, place_track, value_track
from telepatch_worker.trouble import during
from telepatch_worker.values import Value, as_tensor, bytes_of, compact

Index = tuple[indexing.Element, ...]


class Model(Protocol):
    """What an evaluation needs of the model."""

    module: torch.nn.Module

    def apply(self, path: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """What a module gives for a value."""


@dataclass
class Context:
    """What all scopes of a job share.

    Attributes:
        plan: of the job.
        model: whose modules and parameters the job may use.
        card: of the model.
        device: where values live.
        pause: called between two nodes; raises where the job must stop.
        fail: told what was raised while a forward ran.
        rows, tokens: how much of a map runs at once.
        values: told small values as they come.
        decode: gives the text of token ids; None for a model without a tokenizer.
        shelf: checkpoints of its fits.
        warnings: what its author should know of how it ran.
        stage: steps that its fit has made, and how many there are at most.
        together: whether modules may be applied together with others, once a forward is over.
        held: bytes of values alive.
        agree: makes a decision that follows from no document the same wherever the job runs.
        room: tokens of a map that go into one turn, so that others need not wait for long.
        slice: seconds for which a loop goes on until others have their turns.
        turned: when it began to.
    """

    plan: Plan
    model: Model
    card: ModelCard
    device: torch.device
    pause: Callable[[], None]
    fail: Callable[[Exception], None]
    rows: int
    tokens: int
    values: Callable[[dict[str, Any]], None]
    decode: Callable[[list[int]], str] | None
    shelf: Shelf = field(default_factory=Shelf)
    warnings: list[str] = field(default_factory=list)
    stage: tuple[int, int] = (0, 0)
    together: bool = False
    held: int = 0
    agree: Callable[[int], int] = int
    room: Callable[[], int] = boundless
    slice: float = 0.05
    turned: float = field(default_factory=time.perf_counter)

    def others_first(self) -> Work[None]:
        """Let others go first, if it is time."""
        if self.agree(time.perf_counter() - self.turned >= self.slice):
            yield [Turn()]
            self.turned = time.perf_counter()

    def at_once(self) -> int:
        """Tokens of a map that run at once now."""
        if self.plan.alone or self.plan.long:
            return self.tokens
        return min(self.tokens, self.agree(self.room()))

    @property
    def graph(self) -> Graph:
        """The document."""
        return self.plan.task.graph

    def hold(self, count: int) -> None:
        """So many more bytes are alive; fewer where it is negative.

        Raises:
            TooLarge: more than a job of this model may hold.
        """
        self.held += count
        if count > 0 and self.held > self.card.limits.max_bytes:
            raise TooLarge(
                f"the job's values take {self.held:,} bytes at once; the limit of model '{self.card.id}' is "
                f"{self.card.limits.max_bytes:,}"
            )


class Frame:
    """All values of one evaluation of a scope.

    Args:
        plan: of the scope.
        context: of the job.
        outer: the scope around it.
        bound: what its names stand for.
        place: which element of which map, or step of which repeat, from the outermost on.
        within: the same as errors say it, and what else it is a part of.
    """

    def __init__(
        self,
        plan: ScopePlan,
        context: Context,
        outer: Frame | None = None,
        bound: Mapping[str, Value] | None = None,
        place: tuple[int, ...] = (),
        within: tuple[Within, ...] = (),
    ) -> None:
        self.place = place
        self.within = within
        self.plan = plan
        self.context = context
        self.outer = outer
        self.number = next(_NUMBERS)
        self._values: dict[str, Value] = {}
        self._fixed: dict[str, Value] = {name: self._leaf(name, value) for name, value in (bound or {}).items()}
        self._pieces: dict[str, dict[int, torch.Tensor]] = {}
        self._missing = {name: len(needed) for name, needed in plan.pure.items()}
        self._uses = dict(plan.uses)
        self._waiting: deque[str] = deque()
        self._pauses = False
        self._inputs: dict[str, Given] = {}
        self._tracks: dict[str, list[Track]] = {}
        self.edits: dict[str, list[tuple[Moment, torch.Tensor, Rows]]] = {}

    def run(self, constants: Mapping[str, JsonValue] | None = None) -> Work[None]:
        """Evaluate everything, asking for forwards on the way."""
        for name, value in (constants or {}).items():
            self._fixed[name] = self._leaf(name, self.constant(value))
        self._pauses = True
        self.begin()
        yield from self._between()
        for number in range(len(self.plan.passes)):
            yield [Forward(self, number, {name: self._input(name) for name in self.plan.invokes(number)})]
            yield from self._between()

    def begin(self) -> None:
        """Compute what needs nothing."""
        self._compute(name for name, missing in self._missing.items() if not missing)

    def inside(
        self, plan: ScopePlan, bound: Mapping[str, Value], at: int | None = None, within: Within | None = None
    ) -> Frame:
        """A scope in this one; `at` is its number where it is one of several, `within` says of what it is a part."""
        place = self.place if at is None else (*self.place, at)
        return Frame(plan, self.context, self, bound, place, self.within if within is None else (*self.within, within))

    def after(self, out: Mapping[str, Value]) -> Frame:
        """This scope where its outputs have names, too."""
        return Frame(_EMPTY, self.context, self, out, self.place, self.within)

    def during(self, node: Node | Invoke) -> AbstractContextManager[None]:
        """What is raised inside the block is about this node or input, in this scope."""
        return during(self.context.graph, node, self.within)

    def _between(self) -> Work[None]:
        """Whatever waits for a forward to be over: one after the other, generations side by side."""
        while self._waiting:
            nodes = [self.plan.nodes[name] for name in self._waiting]
            modules = affordable(self, [node for node in nodes if isinstance(node, Module)])
            side = [node for node in nodes if isinstance(node, Generating) or node.id in self.plan.beside]
            now = modules or side or nodes[:1]
            for node in now:
                self._waiting.remove(node.id)
            yield from together(self._happen(node) for node in now)

    def _happen(self, node: Node) -> Work[None]:
        with self.during(node):
            value = yield from compound.evaluated(self, node)
        self._obtained(node, value)

    # Where forwards pass

    def read(self, moment: Moment, value: torch.Tensor) -> None:
        """Take the value at a place, and compute all that it makes possible."""
        node = self.plan.nodes.get(moment.node)
        if node is None:
            return  # the place of a gradient, which comes later
        assert isinstance(node, Get)
        with self.during(node):
            pieces = self._pieces.setdefault(node.id, {})
            pieces[moment.part] = places.piece(self, node, value)
            whole = len(pieces) == len(self.plan.places[node.id])
            found = places.joined(self, node, self._pieces.pop(node.id)) if whole else None
        self._release(node)
        if found is not None:
            self._store(node, found)
            self._compute(self._unblocked(node.id))

    def write(self, moment: Moment, region: torch.Tensor) -> None:
        """Write a node's value into its part of a place."""
        node = self.plan.nodes[moment.node]
        assert isinstance(node, Set)
        with self.during(node):
            places.write(self, node, moment.part, region)
        self._release(node)

    def track(self, moment: Moment, tensor: torch.Tensor, rows: Rows) -> None:
        """Keep a tensor of which gradients are asked."""
        if moment.node in self.plan.nodes:
            track = place_track(moment, tensor, rows, (self.number, moment.node))
            self._tracks.setdefault(moment.node, []).append(track)
        else:
            self.edits.setdefault(moment.node, []).append((moment, tensor, rows))

    def fail(self, error: Exception) -> None:
        """The job is over."""
        self.context.fail(error)

    # Names and what they stand for

    def lookup(self, ref: refs.Ref) -> Value:
        """The value that a reference stands for.

        Raises:
            ExecutionError: it was never obtained.
        """
        scope: Frame | None = self
        while scope is not None:
            for known in (scope._values, scope._fixed):
                if ref.id in known:
                    found = known[ref.id]
                    return found[ref.output] if isinstance(found, dict) and ref.output is not None else found
            scope = scope.outer
        raise ExecutionError(f"the value of '{ref}' was never obtained")

    def tracks(self, ref: refs.Ref) -> list[Track]:
        """The tensors whose gradients make up that of a value."""
        scope: Frame = self
        while ref.id not in scope._values and ref.id not in scope._fixed and scope.outer is not None:
            scope = scope.outer
        if ref.id in scope._tracks:
            return scope._tracks[ref.id]
        value = scope.lookup(ref)
        assert isinstance(value, torch.Tensor)
        return [value_track(value, (scope.number, str(ref)))]

    def gradient(self, ref: refs.Ref | None, tracks: list[Track], found: Sequence[torch.Tensor | None]) -> torch.Tensor:
        """The gradient of a value from those of the tensors that it is a part of."""
        assert ref is not None
        parts: dict[int, torch.Tensor] = {}
        for track, gradient in zip(tracks, found, strict=True):
            own = track.zeros() if gradient is None else track.part(gradient)
            parts[track.piece] = parts[track.piece] + own if track.piece in parts else own
        scope: Frame | None = self
        while scope is not None and ref.id not in scope._tracks:
            scope = scope.outer
        if scope is None:
            return parts[0]
        node = scope.plan.nodes[ref.id]
        assert isinstance(node, Get)
        return places.joined(scope, node, {at: places.piece(scope, node, part) for at, part in parts.items()})

    def sees(self) -> frozenset[int]:
        """The numbers of this scope and of those around it."""
        return frozenset({self.number}) | (frozenset() if self.outer is None else self.outer.sees())

    def argument(self, value: JsonValue) -> Value:
        """What an argument stands for."""
        if isinstance(value, list):
            return [self.argument(one) for one in value]
        if isinstance(value, dict):
            return self.constant(value)
        return refs.resolve(value, self.lookup)

    def tensor(self, value: JsonValue) -> torch.Tensor:
        """What an argument stands for, as a tensor."""
        return as_tensor(self.argument(value), self.context.device)

    def index(self, index: list[JsonValue] | None) -> Index:
        """An index with its references looked up."""
        return indexing.parse(index or [], self.lookup)

    def number_of(self, name: str) -> int:
        """The number that a name in a site stands for."""
        found = self.lookup(refs.Ref(name))
        assert isinstance(found, int)
        return found

    def constant(self, value: JsonValue) -> Value:
        """What a constant stands for."""
        if not isinstance(value, dict):
            return value
        task = self.context.plan.task
        if "range" in value:
            return numbers(value["range"])
        if "tensor" in value:
            return task.attachment[str(value["tensor"])].to(self.context.device)
        if "data" in value:
            return value_of(task.data[str(value["data"])], self.context.device)
        found = task.results[str(value["result"]), str(value["name"])].to(self.context.device)
        index = value.get("index")
        if not isinstance(index, list) or not index:
            return found
        return found[index_into(found, self.index(index))]

    def close(self) -> None:
        """Let go of everything."""
        self.context.hold(-sum(bytes_of(value) for value in self._values.values()))
        for kept in (self._values, self._fixed, self._pieces, self._inputs, self._tracks, self.edits):
            kept.clear()

    def outputs(self, wanted: Mapping[str, Arg]) -> dict[str, torch.Tensor]:
        """Values by the names under which they leave the scope."""
        return {name: self.tensor(value) for name, value in wanted.items()}

    def saved(self, wanted: Mapping[str, str]) -> dict[str, torch.Tensor]:
        """What comes back, by name, apart from everything else.

        Raises:
            ExecutionError: a saved value was never obtained.
            TooLarge: it takes more bytes than a result may.
        """
        found = {name: value.detach() for name, value in self.outputs(wanted).items()}
        found = {name: kept for name, value in found.items() if isinstance(kept := compact(value), torch.Tensor)}
        size, most = sum(value.nbytes for value in found.values()), self.context.card.limits.max_saved_bytes
        if size > most:
            raise TooLarge(
                f"the saved values take {size:,} bytes; the limit of model '{self.context.card.id}' is {most:,}"
            )
        return found

    def _input(self, invoke: str) -> Given:
        """The input of an invoke."""
        if invoke not in self._inputs:
            given = self.plan.scope.invokes[invoke]
            with self.during(given):
                self._inputs[invoke] = given_input(self, given)
            for ref in given_to(given):
                self._used(ref.id)
        return self._inputs[invoke]

    # Nodes without a place

    def _compute(self, ready: Iterable[str]) -> None:
        queue = deque(ready)
        while queue:
            name = queue.popleft()
            node = self.plan.nodes[name]
            if name in self.plan.between or (name in self.plan.late and self._waits(node)):
                self._waiting.append(name)
                continue
            self.context.pause()
            with self.during(node):
                value = self._inline(node)
            self._release(node)
            self._store(node, value)
            queue.extend(self._unblocked(name))

    def _waits(self, node: Node) -> bool:
        """Whether a node that no forward waits for is better done between forwards: a loop, in which others may have
        their turns, and a module that may be applied together with others."""
        if isinstance(node, Module):
            return self.context.together and can_wait(self, node)
        return self._pauses

    def _inline(self, node: Node) -> Value:
        """The value of a node that needs no forward."""
        if isinstance(node, Get | Call | Module | Log):
            return evaluate.value(self, node)
        return at_once(compound.evaluated(self, node))

    def _obtained(self, node: Node, value: Value) -> None:
        """The value of a node that happened between forwards, and all that it makes possible."""
        self._release(node)
        self._store(node, value)
        self._compute(self._unblocked(node.id))

    # Lifetimes

    def _unblocked(self, name: str) -> list[str]:
        """The nodes that can be computed now that this one is known."""
        users = self.plan.users.get(name, ())
        for user in users:
            self._missing[user] -= 1
        return [user for user in users if not self._missing[user]]

    def _store(self, node: Node, value: Value) -> None:
        if node.id not in self.plan.kept and not self._uses.get(node.id):
            return
        if node.id in self.plan.kept:
            value = compact(value)
        if node.id not in self._tracks:
            value = self._leaf(node.id, value)
        self._values[node.id] = value
        with self.during(node):
            self.context.hold(bytes_of(value))

    def _leaf(self, name: str, value: Value) -> Value:
        """A value in PyTorch's graph, if gradients are asked of it."""
        if name not in self.context.plan.wrt:
            return value
        if isinstance(value, dict):
            return {output: self._leaf(name, one) for output, one in value.items()}
        if not isinstance(value, torch.Tensor) or value.requires_grad:
            return value
        return value.detach().requires_grad_() if value.is_floating_point() else value

    def _release(self, node: Node) -> None:
        """One use of everything that the node needs is over."""
        for name in self.plan.needs[node.id]:
            self._used(name)

    def _used(self, name: str) -> None:
        if name not in self._uses:
            return
        self._uses[name] -= 1
        if not self._uses[name] and name not in self.plan.kept:
            self.context.hold(-bytes_of(self._values.pop(name, None)))


_EMPTY = ScopePlan.empty()
_NUMBERS = itertools.count()
"""Tells scopes apart, those of different jobs too."""
