"""A graph in the making: each line of the author's block becomes a node, checked at once."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import JsonValue

from telepatch.lines import Place, at_place, here
from telepatch.own_names import NO_NAMES
from telepatch_protocol.aligned import check_aligned
from telepatch_protocol.card import ModelCard
from telepatch_protocol.check import Checker
from telepatch_protocol.data import Columns
from telepatch_protocol.errors import BadArgument, CausalLoop, GraphError, TelepatchError, TraceError
from telepatch_protocol.graph import Call, Get, Graph, Invoke, ModelRef, Module, Node, Options, Run, Set
from telepatch_protocol.jobs import new_job_id
from telepatch_protocol.meta import UNKNOWN, Meta
from telepatch_protocol.refs import NAME
from telepatch_protocol.tensors import Tensor

if TYPE_CHECKING:
    from telepatch.lab import Lab
    from telepatch.outcome import Outcome

RUN = "r0"


class Builder:
    """Collects runs, nodes, constants and saves of one trace; becomes a `Graph` when its block ends.

    Args:
        lab: the connection that will send it; None for graphs that are only exported.
        card: of the model.
        options: how the job is to run.
    """

    def __init__(self, lab: Lab | None, card: ModelCard, options: Options) -> None:
        self.lab = lab
        self.card = card
        self.names = NO_NAMES
        self.options = options
        self.job = new_job_id()
        self.opened: Place | None = None
        self.outcome: Outcome | None = None
        self.failure: str | None = None
        self.finished = False
        self.invokes: list[Invoke] = []
        self.invoke: str | None = None
        self.given: dict[str, tuple[str, Any]] = {}
        self.constants: dict[str, JsonValue] = {}
        self.tensors: dict[str, Tensor] = {}
        self.saves: dict[str, str] = {}
        self.places: dict[str, Place] = {}
        self.parents: dict[str, Builder] = {}
        self.edits: dict[str, Place | None] = {}
        self._nodes: list[tuple[int, int, Node]] = []
        self._slots = 0
        self._unseen: tuple[str, ...] = ()
        self._metas: dict[str, Meta] = {}
        self._saved: dict[str, Meta] = {}
        self.checker = Checker(card, results=self._result_meta)
        self.checker.attachment = self._metas
        self._columns: dict[str, Columns] = {}
        self._uploads: dict[str, str] = {}
        self.checker.data = self._columns

    def slot(self) -> int:
        """A place in the document, for a read that is only made when its value is used."""
        self._slots += 1
        return self._slots

    def add(self, node: Node, slot: int | None = None) -> object:
        """Take in a node; says what is known of its value.

        Raises:
            GraphError: the node cannot run; it names the author's line.
        """
        place = here()
        try:
            found = self.checker.node(node)
        except GraphError as error:
            raise at_place(error, place, node.id) from None
        self._nodes.append((self.slot() if slot is None else slot, len(self._nodes), node))
        if place is not None:
            self.places[node.id] = place
        return found

    def call(self, op: str, args: tuple[JsonValue, ...], kwargs: Mapping[str, JsonValue]) -> tuple[str, object]:
        """Apply an operation; gives the new node's id and what is known of its value."""
        node = Call(id=self._id(), op=op, args=args, kwargs=dict(kwargs))
        return node.id, self.add(node)

    def module(self, path: str, args: tuple[JsonValue, ...], kwargs: Mapping[str, JsonValue]) -> tuple[str, object]:
        """Apply a module of the model."""
        node = Module(id=self._id(), path=path, args=args, kwargs=dict(kwargs))
        return node.id, self.add(node)

    def get(
        self, site: str, invoke: str | None, index: list[JsonValue] | None, call: int | None, slot: int
    ) -> tuple[str, object]:
        """Read a site."""
        node = Get(id=self._id(), site=site, invoke=invoke, index=index, call=call)
        return node.id, self.add(node, slot)

    def set(
        self, site: str, invoke: str | None, index: list[JsonValue] | None, call: int | None, value: JsonValue
    ) -> None:
        """Write a site."""
        self.add(Set(id=self._id(), site=site, invoke=invoke, index=index, call=call, value=value))

    def constant(self, value: JsonValue) -> str:
        """Put a value where it is no part of the structure; gives the constant's id."""
        name = f"c{len(self.constants)}"
        try:
            self.checker.constant(name, value)
        except GraphError as error:
            raise at_place(error, here()) from None
        self.constants[name] = value
        return name

    def attach(self, tensor: Tensor) -> str:
        """Send an array along, once however often it is used; gives the id of a constant that stands for it."""
        shown = f"{tensor.dtype} {tensor.array.shape}".encode()
        digest = hashlib.sha256(shown + np.ascontiguousarray(tensor.array).tobytes()).hexdigest()[:32]
        name = f"t{digest}"
        self.tensors.setdefault(name, tensor)
        self._metas[name] = tensor.meta
        return self.constant({"tensor": name})

    def data(self, digest: str, columns: Columns) -> str:
        """Use data that the service holds; gives the id of the one constant that stands for it."""
        self._columns[digest] = columns
        if digest not in self._uploads:
            self._uploads[digest] = self.constant({"data": digest})
        return self._uploads[digest]

    @property
    def next_invoke(self) -> str:
        """The id of the input that is added next."""
        return f"x{len(self.invokes)}"

    def add_invoke(self, **form: Any) -> Invoke:
        """One more input of the run."""
        invoke = Invoke(id=self.next_invoke, **form)
        self.checker.lengths = {**self.checker.lengths, **self.lengths(invoke)}
        self.checker.run(Run(id=RUN, invokes=(invoke,)))
        self.invokes.append(invoke)
        if (place := here()) is not None and place != self.opened:
            self.places[invoke.id] = place
        if self.options.aligned:
            check_aligned(RUN, {name: size.length for name, size in self.checker.inputs.items()})
        return invoke

    def lengths(self, invoke: Invoke) -> Mapping[str, int]:
        """How long each row of an input is, by its words: known before it is sent only to a scan."""
        return {}

    def save(self, refs: Mapping[str, str], name: str | None) -> None:
        """Have values sent back; `refs` has one output name and reference each, the name empty for a single value."""
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

    def build(self) -> Graph:
        """The document as far as it has come."""
        nodes = tuple(node for _, _, node in sorted(self._nodes, key=lambda entry: entry[:2]))
        runs = (Run(id=RUN, invokes=tuple(self.invokes)),) if self.invokes else ()
        return Graph(
            model=ModelRef(id=self.card.id, revision=self.card.revision),
            runs=runs,
            nodes=nodes,
            saves=self.saves,
            constants=self.constants,
            options=self.options,
            lines={node: place.short for node, place in self.places.items()},
        )

    def finish(self) -> Graph:
        """The whole document, checked as the gateway will check it.

        Raises:
            TelepatchError: it cannot run, or saves nothing.
        """
        self._no_lost_edit()
        graph = self.build()
        if not graph.saves:
            raise self._nothing_saved()
        self.finish_with(graph)
        return graph

    def finish_with(self, graph: Graph) -> None:
        """Check a whole document, and let go of what is no longer needed."""
        try:
            self._unseen = self.checker.finish(graph, graph.nodes).schedule.unseen
        except GraphError as error:
            error.detail = self._in_lines(error)
            place = self.places.get(error.node or "")
            if place is not None:
                error.file, error.line = place.file, place.line
            raise
        self.finished = True
        self._release()

    def warned(self) -> list[tuple[str, str]]:
        """Nodes that are surely not meant as they are, with what to say of them."""
        return [(node, "this write is seen by no read or save, so it has no effect") for node in self._unseen]

    def handed_over(self) -> None:
        """What was sent is no longer needed here."""
        self.tensors = {}
        self.parents = {}

    def _release(self) -> None:
        """Let go of all that values do not need once the block is over: programs keep many of them."""
        self._saved = {name: foreign(self.checker.argument(ref), self.job) for name, ref in self.saves.items()}
        self._nodes = []
        self.checker = Checker(self.card)

    def _in_lines(self, error: GraphError) -> str:
        """What an error says, with the author's line beside each node."""
        detail = re.sub(r"'(n\d+)'", lambda found: found[0] + self._line_of(found[1]), error.detail)
        sites = (node.site for _, _, node in self._nodes if isinstance(node, Get) and node.id == error.parent)
        if isinstance(error, CausalLoop) and any("*" in site for site in sites):
            detail += "; to change each of several modules by its own value, write a loop over them"
        return detail

    def _line_of(self, node: str) -> str:
        place = self.places.get(node)
        return "" if place is None else f" ({place.short})"

    def _nothing_saved(self) -> TelepatchError:
        error = TraceError("this trace saves nothing, so running it would have no result; call .save() on a value")
        return at_place(error, self.opened)

    def _no_lost_edit(self) -> None:
        """An in-place operation on a slice that was not put back where it came from has written nothing."""
        for spelling, place in self.edits.items():
            error = TraceError(f"this changed a copy and writes nothing; to write, say {spelling} on the site itself")
            raise at_place(error, place)

    def _id(self) -> str:
        return f"n{len(self._nodes)}"

    def _result_meta(self, job: str, name: str) -> Meta:
        parent = self.parents.get(job)
        return UNKNOWN if parent is None else parent.saved_meta(name)

    def saved_meta(self, name: str) -> Meta:
        """What is known of a saved value, its own symbols made different from everybody else's."""
        known = self.outcome.meta(name) if self.outcome is not None else None
        if known is not None:
            return known
        return self._saved[name]


def foreign(found: object, job: str) -> Meta:
    """What another job knows of a value, its symbols renamed so that they meet none of this job's."""
    from telepatch_protocol.sizes import Size

    if not isinstance(found, Meta) or found.shape is None:
        return found if isinstance(found, Meta) else UNKNOWN
    renamed = tuple(
        Size(tuple((f"{name} of job {job[-6:]}", factor) for name, factor in dim.terms), dim.offset)
        if isinstance(dim, Size)
        else dim
        for dim in found.shape
    )
    return Meta(renamed, found.dtype)
