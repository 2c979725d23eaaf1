"""What every value of a graph will be, node by node: the part of checking that needs no whole document."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from pydantic import JsonValue

from telepatch_protocol import indexing, refs, sites
from telepatch_protocol.aligned import check_aligned
from telepatch_protocol.axes import applied, dim_of
from telepatch_protocol.card import ModelCard
from telepatch_protocol.causality import Event, Schedule, schedule
from telepatch_protocol.constants import numbers
from telepatch_protocol.errors import (
    BadArgument,
    GraphError,
    NotYetSupported,
    ShapeError,
    TooLarge,
    UnknownName,
)
from telepatch_protocol.executed import check_kind, check_run_kind
from telepatch_protocol.graph import Call, Get, Graph, Invoke, Module, Node, Run, Set
from telepatch_protocol.inputs import Input, check_form, check_limits, given_of, input_of
from telepatch_protocol.literals import list_meta, with_literals
from telepatch_protocol.meta import UNKNOWN, Meta, shown
from telepatch_protocol.ops import bind, find_op
from telepatch_protocol.ops.cost import flops
from telepatch_protocol.ops.rules import index_meta
from telepatch_protocol.order import refs_of
from telepatch_protocol.sites import Found
from telepatch_protocol.sizes import fits_into, most_elements

Value = object
"""What is known of a value: a `Meta`, one per output name, or the number, text or list that a constant is."""


MAX_AXES = 32
"""How many axes a value may have: more than that, and not everybody's arrays can hold the result."""

_TWICE = "two things have the id '{}'; ids of nodes, runs' inputs and constants are unique in a document"


@dataclass(frozen=True, slots=True)
class Checked:
    """A graph that can run.

    Attributes:
        graph: the document.
        order: its nodes, each after those it needs.
        values: what is known of every node's value and every constant.
        places: where the site of each `get` and `set` lies; several for a starred one.
        inputs: sizes of the invokes.
        schedule: which reads and writes belong to which forward.
        saves: shape and dtype of what comes back, by name.
        flops: floating-point operations of the graph's own nodes, the forwards not counted.
        warnings: what is allowed but surely not meant.
    """

    graph: Graph
    order: tuple[Node, ...]
    values: Mapping[str, Value]
    places: Mapping[str, tuple[Found, ...]]
    inputs: Mapping[str, Input]
    schedule: Schedule
    saves: Mapping[str, Meta]
    warnings: tuple[str, ...]
    flops: float


class Checker:
    """Checks nodes one after the other, each after those it needs.

    Args:
        card: of the model.
        attachment: shapes and dtypes of attached tensors, by name.
        results: gives shape and dtype of a value that an earlier job saved, by job id and name.
    """

    def __init__(
        self,
        card: ModelCard,
        *,
        attachment: Mapping[str, Meta] | None = None,
        results: Callable[[str, str], Meta] | None = None,
    ) -> None:
        self.card = card
        self.attachment = attachment or {}
        self.results = results or (lambda job, name: UNKNOWN)
        self.values: dict[str, Value] = {}
        self.places: dict[str, tuple[Found, ...]] = {}
        self.inputs: dict[str, Input] = {}
        self.flops = 0.0
        self.writes: set[str] = set()

    def constant(self, name: str, value: JsonValue) -> None:
        """Take in a constant."""
        self._define(name, self._constant(value))

    def run(self, run: Run, inputs: Mapping[str, Input], *, aligned: bool = False) -> None:
        """Take in a run; `inputs` has the sizes of those of its invokes that are known."""
        check_run_kind(run)
        if not run.invokes:
            raise BadArgument(f"run '{run.id}' has no invoke; give it at least one input", node=run.id)
        for invoke in run.invokes:
            self._check_id(invoke.id)
            if invoke.id in self.inputs:
                raise BadArgument(f"two invokes have the id '{invoke.id}'", node=invoke.id)
            try:
                self.inputs[invoke.id] = self._sized(invoke, inputs.get(invoke.id))
            except GraphError as error:
                raise error.at(node=invoke.id) from None
        if aligned:
            check_aligned(run.id, {invoke.id: self.inputs[invoke.id].length for invoke in run.invokes})

    def node(self, node: Node) -> Value:
        """Take in a node and say what is known of its value.

        Raises:
            GraphError: the node cannot run.
        """
        check_kind(node)
        if isinstance(node, Get):
            found: Value = self._get(node)
        elif isinstance(node, Set):
            found = self._set(node)
            self.writes.add(node.id)
        elif isinstance(node, Call):
            found = self._call(node)
        else:
            assert isinstance(node, Module)
            found = self._module(node)
        self._define(node.id, found)
        return found

    def finish(self, graph: Graph, order: Iterable[Node]) -> Checked:
        """Place everything in forwards and look at what is saved.

        Raises:
            CausalLoop: a value depends on a write that it feeds.
            UnknownName: a save of something that is not there.
        """
        nodes = tuple(order)
        try:
            saves = {name: self._saved(name, text) for name, text in graph.saves.items()}
            plan = schedule(self.events(graph), self.needs(nodes), together=not exact(graph))
        except GraphError as error:
            raise graph.blame(error, error.node) from None
        if len(plan.passes) > self.card.limits.max_passes:
            raise TooLarge(f"the graph needs {len(plan.passes)} forwards; the limit is {self.card.limits.max_passes}")
        warnings = tuple(f"write '{node}' at {where(graph, node)} is seen by no read" for node in plan.unseen)
        return Checked(graph, nodes, self.values, self.places, self.inputs, plan, saves, warnings, self.flops)

    def events(self, graph: Graph) -> list[Event]:
        """Every read and write, in document order."""
        return [
            Event(node.id, self.invoke_of(node), found.order, isinstance(node, Set), part)
            for node in graph.nodes
            if isinstance(node, Get | Set)
            for part, found in enumerate(self.places[node.id])
            if found.order >= 0
        ]

    def needs(self, nodes: Iterable[Node]) -> dict[str, set[str]]:
        """For each node, the nodes whose values it uses."""
        known = {node.id: node for node in nodes}
        return {node.id: {ref.id for ref in refs_of(node) if ref.id in known} for node in known.values()}

    def invoke_of(self, node: Get | Set) -> str:
        """The invoke of a read or write; it may be left out where the document has only one."""
        if node.invoke is None and len(self.inputs) == 1:
            return next(iter(self.inputs))
        if node.invoke is None:
            raise BadArgument(
                f"site '{self.site(node.site)}' needs an invoke; there are: {', '.join(self.inputs) or 'none'}"
            )
        if node.invoke not in self.inputs:
            raise UnknownName(f"there is no invoke '{node.invoke}'; there are: {', '.join(self.inputs) or 'none'}")
        return node.invoke

    def lookup(self, ref: refs.Ref) -> Value:
        """What a reference stands for.

        Raises:
            UnknownName: nothing of that name, or an output that the node does not have.
        """
        if ref.id not in self.values:
            near = difflib.get_close_matches(ref.id, self.values, n=1)
            raise UnknownName(f"'{ref}' refers to nothing" + (f" (did you mean '${near[0]}'?)" if near else ""))
        found = self.values[ref.id]
        if ref.id in self.writes:
            raise BadArgument(f"'{ref}' is a write, which has no value; read the site after it with a get")
        if isinstance(found, dict):
            if ref.output not in found:
                known = ", ".join(f"${ref.id}.{name}" for name in found)
                raise UnknownName(f"'${ref.id}' has several outputs; write one of {known}")
            return found[ref.output]
        if ref.output is not None:
            raise UnknownName(f"'${ref.id}' has no output '{ref.output}'; it is one value")
        return found

    def argument(self, value: JsonValue) -> Value:
        """What an argument stands for: references looked up, constant forms taken in, literals as they are."""
        if isinstance(value, list):
            return [self.argument(one) for one in value]
        if isinstance(value, dict):
            return self._constant(value)
        return refs.resolve(value, self.lookup)

    def site(self, text: str) -> sites.Site:
        """A site with all its numbers filled in."""
        return sites.parse(text).fill(self._number)

    def _number(self, name: str) -> int:
        found = self.lookup(refs.Ref(name))
        if not isinstance(found, int) or isinstance(found, bool) or found < 0:
            raise BadArgument(f"'{{{name}}}' in a site must be a number of a module, from 0; it is {found!r}")
        return found

    def _define(self, name: str, value: Value) -> None:
        self._check_id(name)
        if name in self.values:
            raise BadArgument(_TWICE.format(name))
        for one in value.values() if isinstance(value, dict) else (value,):
            if isinstance(one, Meta) and len(one.shape or ()) > MAX_AXES:
                raise ShapeError(f"the value has {len(one.shape or ())} axes; at most {MAX_AXES} can be")
        self.values[name] = value

    def _check_id(self, name: str) -> None:
        if name in self.values or (name in self.inputs):
            raise BadArgument(_TWICE.format(name), node=name)

    def _constant(self, value: JsonValue) -> Value:
        if not isinstance(value, dict):
            return value
        if set(value) == {"range"}:
            return numbers(value["range"])
        if set(value) == {"tensor"}:
            return self._attached(value["tensor"])
        if "result" in value and set(value) <= {"result", "name", "index"}:
            return self._result(value)
        if set(value) == {"data"}:
            raise NotYetSupported("constants of the form {data: sha256} are not executed by this service yet")
        raise BadArgument(f"an object with keys {sorted(value)} is no constant; known: range, tensor, result, data")

    def _attached(self, name: JsonValue) -> Meta:
        if not isinstance(name, str) or name not in self.attachment:
            known = ", ".join(list(self.attachment)[:10]) or "nothing"
            raise UnknownName(f"there is no attached tensor {name!r}; attached: {known}")
        return self.attachment[name]

    def _result(self, value: dict[str, JsonValue]) -> Meta:
        job, name, index = value.get("result"), value.get("name"), value.get("index")
        if not isinstance(job, str) or not isinstance(name, str) or not isinstance(index, list | None):
            raise BadArgument("a result is {result: job id, name: saved name, index: optional list}")
        found = self.results(job, name)
        return index_meta(found, self.index(index), f"result '{name}' of job {job}") if index else found

    def index(self, index: list[JsonValue] | None) -> tuple[indexing.Element, ...]:
        """An index with its references looked up."""
        return indexing.parse(index or [], self.lookup)

    def _sized(self, invoke: Invoke, known: Input | None) -> Input:
        check_form(invoke)
        size = known or input_of(invoke, given_of(invoke, self.argument))
        check_limits(invoke, size, self.card)
        return size

    def _get(self, node: Get) -> Meta:
        whole = self._at_site(node)
        if node.index is None:
            return whole
        return index_meta(whole, self.index(node.index), self._what(node))

    def _set(self, node: Set) -> Meta:
        whole = self._at_site(node)
        site, found = self.site(node.site), self.places[node.id][0]
        if found.place.port == "param":
            raise BadArgument(
                f"'{site}' is a weight, and weights never change; write what the module returns instead, "
                f"such as '{site.path}:output'"
            )
        if found.leaf.engine:
            raise BadArgument(f"'{site}' belongs to the engine (masks, positions, tables, caches): it can only be read")
        if site.starred and node.index is not None:
            starred_index(self.index(node.index))
        region = whole if node.index is None else index_meta(whole, self.index(node.index), self._what(node))
        value = self.written(node.value)
        if value.shape is not None and region.shape is not None and not fits_into(value.shape, region.shape):
            raise ShapeError(
                f"a value of shape {value.shape} cannot be written to {self._what(node)} of shape {region.shape}"
            )
        return region

    def written(self, value: JsonValue) -> Meta:
        """What is known of a value that is written: numbers and lists of numbers are values too."""
        found = self.argument(value)
        if isinstance(found, Meta):
            return found
        if isinstance(found, list):
            return list_meta(found)
        if isinstance(found, bool | int | float) or found in ("inf", "-inf", "nan"):
            return Meta((), "bool" if isinstance(found, bool) else "int64" if isinstance(found, int) else "float32")
        raise BadArgument(f"{shown(found)} cannot be written to a site; use a value, a number or a list of numbers")

    def _what(self, node: Get | Set) -> str:
        return f"'{self.site(node.site)}'"

    def _at_site(self, node: Get | Set) -> Meta:
        """The whole value at the node's site; for a starred one, stacked on a new leading axis."""
        if node.step is not None:
            raise NotYetSupported("'step' belongs to generations, which this service does not execute yet")
        site = self.site(node.site)
        places = sites.find(self.card, site, node.call)
        self.places[node.id] = places
        leaf = places[0].leaf
        size = Input(0, 0) if places[0].order < 0 else self.inputs[self.invoke_of(node)]
        shape = tuple(dim_of(axis, size.rows, size.length) for axis in leaf.axes)
        return Meta((len(places), *shape) if site.starred else shape, leaf.dtype)

    def _call(self, node: Call) -> Value:
        op = find_op(node.op)
        args, kwargs = with_literals(
            op,
            tuple(self._op_argument(node, at, arg) for at, arg in enumerate(node.args)),
            {name: self._op_argument(node, name, arg) for name, arg in node.kwargs.items()},
            list_meta,
        )
        bound = bind(op, args, kwargs)
        found = op.rule(bound)
        self.flops += flops(op, bound, found)
        return found

    def _op_argument(self, node: Call, at: int | str, value: JsonValue) -> Value:
        op = find_op(node.op)
        param = op.by_name.get(at) if isinstance(at, str) else op.params[at] if at < len(op.params) else None
        if param is not None and param.kind == "index" and isinstance(value, list):
            return self.index(value)
        return self.argument(value)

    def _module(self, node: Module) -> Meta:
        path = sites.native_path(self.card, sites.Site(node.path, "output").fill(self._number).path)
        module = self.card.by_path.get(path)
        if module is None:
            sites.find(self.card, sites.Site(path, "output"))
        args = [self.argument(arg) for arg in node.args]
        if not args or not isinstance(args[0], Meta):
            raise BadArgument(
                f"module '{node.path}' is applied to a value; found {shown(args[0]) if args else 'nothing'}. "
                "A get, an operation, a tensor or a result gives one"
            )
        for name, arg in node.kwargs.items():
            self.argument(arg)
            if not name.isidentifier():
                raise BadArgument(f"module '{node.path}': {name!r} is no argument name")
        assert module is not None
        found = applied(module, args[0])
        weights = sum(math.prod(param.shape) for param in module.params.values())
        self.flops += 2.0 * weights * (most_elements((found.shape or ())[:-1], {}) or 0)
        return found

    def _saved(self, name: str, text: str) -> Meta:
        ref = refs.parse(text)
        if ref is None:
            raise BadArgument(f"save '{name}' is {text!r}; write a reference such as '$id'")
        try:
            found = self.lookup(ref)
        except GraphError as error:
            node = ref.id if ref.id in self.values else None
            raise type(error)(f"save '{name}': {error.detail}", node=node) from None
        return found if isinstance(found, Meta) else self.written(text)


def exact(graph: Graph) -> bool:
    """Whether the job runs alone and bit for bit like PyTorch hooks."""
    return graph.options.exact or graph.options.isolate


def where(graph: Graph, node: str) -> str:
    """The author's file and line of a node, or the node's id where they are not known."""
    return graph.lines.get(node, f"node '{node}'")


def starred_index(index: tuple[indexing.Element, ...]) -> tuple[indexing.Element, ...]:
    """The index of each module's own value, from an index into the stack of a starred site.

    Raises:
        BadArgument: a write that picks modules by index; the path is where they are picked.
    """
    first = index[0] if index else Ellipsis
    if first is Ellipsis:
        return index
    if first == indexing.Slice():
        return index[1:]
    raise BadArgument("a write to a starred site begins with ':' for all modules; name single modules in the path")
