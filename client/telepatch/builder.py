"""A graph in the making: each line of the author's block becomes a node of the scope that is open, checked at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import JsonValue

from telepatch.attached import Attached
from telepatch.blame import blaming
from telepatch.lines import Place, here
from telepatch.own_names import NO_NAMES
from telepatch.queueing import USUAL
from telepatch.scope import Forward, Kind, Scope
from telepatch_protocol.aligned import check_aligned
from telepatch_protocol.card import ModelCard
from telepatch_protocol.errors import BadArgument, TraceError
from telepatch_protocol.fragments import Fragment
from telepatch_protocol.graph import (
    Call,
    Get,
    Graph,
    Invoke,
    ModelRef,
    Module,
    Node,
    Options,
    Reduction,
    Run,
    Set,
)
from telepatch_protocol.inputs import Input
from telepatch_protocol.jobs import new_job_id
from telepatch_protocol.meta import UNKNOWN, Meta
from telepatch_protocol.refs import NAME
from telepatch_protocol.sizes import Dim
from telepatch_protocol.tensors import Tensor
from telepatch_protocol.versions import labelled

if TYPE_CHECKING:
    from telepatch.blocks import Block
    from telepatch.lab import Lab
    from telepatch.outcome import Outcome


class Builder(Attached):
    """Collects runs, nodes, constants and saves of one job; becomes a `Graph` when its outermost block ends.

    Args:
        lab: the connection that will send it; None for graphs that are only exported.
        card: of the model.
        options: how the job is to run.

    Attributes:
        sends: whether it becomes a job, and so has to save something.
    """

    sends: ClassVar[bool] = True

    def __init__(self, lab: Lab | None, card: ModelCard, options: Options) -> None:
        super().__init__(card)
        self.lab = lab
        self.card = card
        self.names = NO_NAMES
        self.queueing = USUAL
        self.options = options
        self.job = new_job_id()
        self.opened: Place | None = None
        self.block: Block | None = None
        self.outcome: Outcome | None = None
        self.failure: str | None = None
        self.finished = False
        self.given: dict[str, tuple[str, Any]] = {}
        self.saves: dict[str, str] = {}
        self.places: dict[str, Place] = {}
        self.edits: dict[str, Place | None] = {}
        self.sizes: dict[str, Input] = {}
        self.root = Scope("job")
        self.scope = self.root
        self.scopes = [self.root]
        self.unseen: tuple[str, ...] = ()
        self.brought: dict[str, JsonValue] = {}
        self._counts: dict[str, int] = {}
        self._saved: dict[str, Meta] = {}

    def slot(self) -> int:
        """A place in the document, for a read that is only made when its value is used."""
        return self._next("slot")

    # Nodes

    def add(self, node: Node, slot: int | None = None, scope: Scope | None = None) -> object:
        """Take in a node; says what is known of its value.

        Args:
            node: the node.
            slot: its place in the document; at the end if left out.
            scope: what it belongs to; the innermost scope if left out.

        Raises:
            GraphError: the node cannot run; it names the author's line.
        """
        self.alive()
        home, place = scope or self.scope, here()
        found: object = UNKNOWN
        if not home.closed:
            with blaming(self, node.id), self.checker.at(home.level, backward=home.kind == "grad"):
                found = self.checker.node(node)
        home.take(node, self.slot() if slot is None else slot)
        if place is not None:
            self.places.setdefault(node.id, place)
        if home.closed:
            self._amend(home)
        return found

    def call(
        self, op: str, args: tuple[JsonValue, ...], kwargs: Mapping[str, JsonValue], scope: Scope | None = None
    ) -> tuple[str, object]:
        """Apply an operation; gives the new node's id and what is known of its value."""
        node = Call(id=self.id(), op=op, args=args, kwargs=dict(kwargs))
        return node.id, self.add(node, scope=scope)

    def module(self, path: str, args: tuple[JsonValue, ...], kwargs: Mapping[str, JsonValue]) -> tuple[str, object]:
        """Apply a module of the model."""
        node = Module(id=self.id(), path=path, args=args, kwargs=dict(kwargs))
        return node.id, self.add(node)

    def get(
        self,
        site: str,
        invoke: str | None,
        index: list[JsonValue] | None,
        call: int | None,
        slot: int,
        scope: Scope | None = None,
        step: str | int | None = None,
    ) -> tuple[str, object]:
        """Read a site."""
        node = Get(id=self.id(), site=site, invoke=invoke, index=index, call=call, step=step)
        return node.id, self.add(node, slot, scope)

    def set(
        self,
        site: str,
        invoke: str | None,
        index: list[JsonValue] | None,
        call: int | None,
        value: JsonValue,
        step: str | int | None = None,
    ) -> None:
        """Write a site."""
        self.add(Set(id=self.id(), site=site, invoke=invoke, index=index, call=call, value=value, step=step))

    def id(self) -> str:
        """An id for a node."""
        return f"n{self._next('n')}"

    # Runs and scopes

    def begin_run(self) -> Forward:
        """Begin a run in the innermost scope."""
        self.alive()
        forward = Forward(f"r{self._next('r')}")
        self.scope.forwards.append(forward)
        self.scope.forward = forward
        return forward

    def end_run(self) -> None:
        """End the run that is open in the innermost scope; its sites can still be read."""
        self.scope.forward = self.scope.invoke = None

    def fresh(self, kind: str) -> str:
        """A name for a run (``r``) or an invoke (``x``)."""
        return f"{kind}{self._next(kind)}"

    def add_invoke(self, given: tuple[str, Any], **form: Any) -> Invoke:
        """One more input of the open run; `given` is its form and what its author gave."""
        assert self.scope.forward is not None
        run = self.scope.forward
        invoke = Invoke(id=f"x{self._next('x')}", **form)
        self.given[invoke.id] = given
        self.checker.lengths = {**self.checker.lengths, **self.lengths(invoke)}
        self.checker.run(Run(id=run.id, invokes=(invoke,)))
        self.sizes[invoke.id] = self.checker.inputs[invoke.id]
        run.invokes.append(invoke)
        if (place := here()) is not None and place != self.opened:
            self.places[invoke.id] = place
        if self.options.aligned:
            check_aligned(run.id, {one.id: self.sizes[one.id].length for one in run.invokes})
        return invoke

    def lengths(self, invoke: Invoke) -> Mapping[str, int]:
        """How long each row of an input is, by its words: known before it is sent only to a scan."""
        return {}

    def open(
        self,
        kind: Kind,
        what: str,
        make: Callable[[Scope], Node],
        bound: Mapping[str, object] | None = None,
        lead: tuple[Dim, ...] = (),
        node: str | None = None,
    ) -> Scope:
        """Begin a sub-graph in which `bound` names stand for what is known of them.

        Raises:
            GraphError: it nests too deep, or stands where no sub-graph can.
        """
        self.alive()
        if self.scope.kind == "grad":
            raise TraceError(f"inside backward() gradients are read and written; a {what} goes before it or after it")
        if kind != "grad":
            self.checker.enter(bound or {})
        level = len(self.checker.levels) - 1
        self.scope = Scope(kind, node or self.id(), what, self.scope, level, here(), make, lead)
        self.scopes.append(self.scope)
        return self.scope

    def close(self, scope: Scope) -> object:
        """End the innermost sub-graph: its node is checked whole; says what is known of the node's values."""
        assert scope.make is not None
        with self.giving_up():
            self.leave(scope)
            return self.add(scope.make(scope))

    def leave(self, scope: Scope) -> None:
        """End the innermost sub-graph, whose node is made elsewhere."""
        assert scope is self.scope
        assert scope.parent is not None
        if scope.kind == "grad":
            self.checker.forget(node.id for node in scope.nodes())
        else:
            self.checker.leave()
        self.scope, scope.closed = scope.parent, True
        if scope.opened is not None:
            self.places[scope.node] = scope.opened

    @contextmanager
    def giving_up(self) -> Iterator[None]:
        """An error in here gives the whole job up, also where its author catches it."""
        try:
            yield
        except BaseException as error:
            self.give_up(error)
            raise

    def give_up(self, error: BaseException) -> None:
        """Note why this job will never be sent."""
        if self.failure is None:
            self.failure = f"{type(error).__name__}: {error}"

    def _amend(self, scope: Scope) -> None:
        """Check a sub-graph once more that holds or gives out more than it did when its block ended."""
        parent = scope.parent
        assert parent is not None
        assert scope.make is not None
        node = scope.make(scope)
        parent.take(node, 0)
        if parent.closed:
            self._amend(parent)
            return
        with blaming(self, node.id), self.checker.at(parent.level):
            self.checker.forget([node.id, *(one.id for one in scope.nodes() if scope.kind == "grad")])
            self.checker.node(node)

    # Values

    def reach(self, scope: Scope, ref: str, *, top: bool = False) -> tuple[Scope, str]:
        """A value of a scope as the open scopes know it: given out, stacked, of each sub-graph that is over.

        Args:
            scope: that made it.
            ref: its reference there, without the dollar.
            top: give it out as far as the document itself, of sub-graphs that are open too.

        Raises:
            GraphError: it cannot be given out.
        """
        while scope.parent is not None and (top or scope.closed):
            ref, scope = self.give(scope, ref), scope.parent
        return scope, ref

    def give(self, scope: Scope, ref: str, how: Reduction = "stack", name: str | None = None) -> str:
        """Give a value out of the sub-graph that made it; says what the scope around knows it by.

        Raises:
            GraphError: it cannot be given out, such as elements of different shapes stacked.
        """
        if scope.kind in ("fit", "aside"):
            raise TraceError(
                f"a value made inside a {scope.what} exists at each step alone; f.log(name=value) keeps it"
            )
        if scope.kind == "cond":
            raise TraceError("a value of one branch exists only there; return it from both branches of the cond")
        before = len(scope.out)
        found = scope.give(ref, how, name)
        if scope.closed and len(scope.out) > before:
            self._amend(scope)
        return found

    def known_as(self, scope: Scope, ref: str) -> str | None:
        """The reference by which the document knows a value, if it does."""
        found: str | None = ref
        while scope.parent is not None and found is not None:
            found, scope = scope.given(found), scope.parent
        return found

    def outside(self, scope: Scope, meta: Meta) -> Meta:
        """What the open scopes know of a value of a scope."""
        while scope.closed and scope.parent is not None:
            meta, scope = scope.outside(meta), scope.parent
        return meta

    def save(self, refs: Mapping[str, str], name: str | None) -> None:
        """Have values sent back; `refs` has one output name and reference each, the name empty for a single value."""
        self.alive()
        if name is not None and not (isinstance(name, str) and re.fullmatch(NAME, name)):
            raise BadArgument(f"a saved value is named by an identifier of at most 64 letters; found {name!r}")
        base = name or f"s{len(self.saves)}"
        named = {f"{base}_{output}" if output else base: ref for output, ref in refs.items()}
        for key, ref in named.items():
            if self.saves.get(key, ref) != ref:
                raise BadArgument(f"this trace saves another value as '{key}' already; choose another name")
        self.saves |= named

    def name_of(self, ref: str) -> str | None:
        """The name under which a reference is saved, if it is."""
        return next((name for name, saved in self.saves.items() if saved == ref), None)

    def saved_meta(self, name: str) -> Meta:
        """What is known of a saved value, its own symbols made different from everybody else's."""
        known = self.outcome.meta(name) if self.outcome is not None else None
        return known if known is not None else self._saved[name]

    def bring(self, edit: Fragment, tensors: Mapping[str, Tensor], parents: Mapping[str, Builder]) -> str:
        """Make an edit that is not stored a part of the document, once; gives its name there."""
        document = edit.to_dict()
        known = next((name for name, one in self.brought.items() if one == document), None)
        name = known or f"edit{len(self.brought)}"
        self.brought[name] = document
        self.tensors |= tensors
        self._metas |= {name: tensor.meta for name, tensor in tensors.items()}
        self.parents |= parents
        return name

    # The whole

    def refuses(self, what: str) -> TraceError | None:
        """Why no block of that kind can be a part of it; None where it can."""
        return None

    def alive(self) -> None:
        """Refuse to go on with a job of which a block was left by an error.

        Raises:
            TraceError: one was.
        """
        if self.failure is not None:
            raise TraceError(f"this job was given up when a block of it was left by an error: {self.failure}")

    def build(self) -> Graph:
        """The document as far as it has come; a block that is still open is not in it yet."""
        graph = Graph(
            model=ModelRef(id=self.card.id, revision=self.card.revision),
            runs=self.root.runs(),
            nodes=self.root.nodes(),
            saves=self.saves,
            constants=self.constants,
            options=self.options,
            lines={node: place.short for node, place in self.places.items()},
            edits=self.brought,
        )
        return labelled(graph)

    def keep(self, saved: dict[str, Meta]) -> None:
        """Let go of all that values do not need once the job is made: programs keep many of them."""
        self._saved = saved
        for scope in self.scopes:
            scope.release()
        self.scopes = [self.root]
        self.block = None
        self.finished = True
        self.empty()

    def _next(self, kind: str) -> int:
        self._counts[kind] = self._counts.get(kind, -1) + 1
        return self._counts[kind]
