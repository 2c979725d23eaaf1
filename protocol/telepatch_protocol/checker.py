"""What every value of a graph will be, node by node: the part of checking that needs no whole document."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic import JsonValue

from telepatch_protocol import indexing, sites
from telepatch_protocol import refs as references
from telepatch_protocol.aligned import check_aligned
from telepatch_protocol.axes import applied, dim_of
from telepatch_protocol.begun import Begun
from telepatch_protocol.bodies import check_cond, check_grad, check_map, check_repeat
from telepatch_protocol.card import ModelCard
from telepatch_protocol.checked import Checked, Scope, Value, places_in
from telepatch_protocol.closing import check_backward, close, where
from telepatch_protocol.data import Columns
from telepatch_protocol.dtypes import is_float
from telepatch_protocol.errors import (
    BadArgument,
    DtypeError,
    GraphError,
    NotYetSupported,
    ShapeError,
    TooLarge,
    UnknownName,
)
from telepatch_protocol.executed import check_kind
from telepatch_protocol.fits import check_fit
from telepatch_protocol.generations import check_generating
from telepatch_protocol.graph import (
    Call,
    Cond,
    Fit,
    Generating,
    Get,
    Grad,
    Graph,
    Invoke,
    Log,
    Map,
    Module,
    Node,
    Repeat,
    Run,
    Set,
    SubGraph,
)
from telepatch_protocol.inputs import Input, size_of
from telepatch_protocol.literals import list_meta, with_literals
from telepatch_protocol.lookup import Lookup
from telepatch_protocol.lowering import lowered
from telepatch_protocol.meta import Meta, shown
from telepatch_protocol.ops import bind, find_op
from telepatch_protocol.ops.cost import flops
from telepatch_protocol.ops.rules import index_meta
from telepatch_protocol.order import in_order
from telepatch_protocol.sizes import fits_into, most_elements
from telepatch_protocol.told import check_told


class Checker(Lookup):
    """Checks nodes one after the other, each after those it needs.

    Args:
        card: of the model.
        attachment: shapes and dtypes of attached tensors, by name.
        results: gives shape and dtype of a value that an earlier job saved, by job id and name.
        data: columns of the uploads that may be used, by digest.
        lengths: numbers of tokens of texts, where known.
        aligned: whether all inputs of a run have to be equally long.
        together: whether several invokes may share a forward.
    """

    def __init__(
        self,
        card: ModelCard,
        *,
        attachment: Mapping[str, Meta] | None = None,
        results: Callable[[str, str], Meta] | None = None,
        data: Mapping[str, Columns] | None = None,
        lengths: Mapping[str, int] | None = None,
        aligned: bool = False,
        together: bool = True,
    ) -> None:
        super().__init__(card, attachment, results, data)
        self.lengths = lengths or {}
        self.aligned = aligned
        self.together = together
        self.wrt: set[str] = set()
        self.planned = 0
        self._backward = False

    def run(self, run: Run) -> None:
        """Take in a run."""
        if not run.invokes:
            raise BadArgument(f"run '{run.id}' has no invoke; give it at least one input", node=run.id)
        for invoke in run.invokes:
            self.check_id(invoke.id)
            try:
                self.inputs[invoke.id] = self.sized(invoke)
            except GraphError as error:
                raise error.at(node=invoke.id) from None
            self.level.invokes[invoke.id] = invoke
        if self.aligned:
            check_aligned(run.id, {invoke.id: self.inputs[invoke.id].length for invoke in run.invokes})

    def node(self, node: Node) -> Value:
        """Take in a node and say what is known of its value.

        Raises:
            GraphError: the node cannot run.
        """
        check_kind(node)
        found: Value = _CHECKS[type(node)](self, node)
        self.define(node.id, found)
        if isinstance(node, Set):
            self.level.writes.add(node.id)
        return found

    def body(self, graph: SubGraph, bound: Mapping[str, Value], *, tail: tuple[JsonValue, ...] = ()) -> Scope:
        """Check a sub-graph, which sees everything outside it and the names bound here.

        Args:
            graph: the sub-graph.
            bound: what its names stand for.
            tail: arguments that are evaluated in it afterwards, and may name its outputs.

        Raises:
            GraphError: it cannot run.
        """
        self._count(graph)
        self.enter(bound)
        try:
            order = self.take(graph.runs, graph.nodes)
            nodes = lowered(graph.runs, graph.nodes)[1]
            scope = close(self, nodes, order, self.outputs(graph))
            for name, meta in scope.out.items():
                self.values[name] = meta
            for arg in tail:
                self.argument(arg)
            return scope
        finally:
            self.leave()

    def _count(self, graph: SubGraph) -> None:
        """Refuse more kinds of elements, at all depths together, than can be looked at in a few seconds."""
        self.planned += 1 + len(graph.nodes)
        if self.planned > (most := self.card.limits.max_nodes):
            raise TooLarge(
                f"elements of this graph's sub-graphs differ in too many ways: more than {most:,} nodes have to be "
                "planned. Elements differ by the lengths of their inputs and by numbers in sites; use fewer of these, "
                "or split the graph into several jobs"
            )

    def take(self, runs: Iterable[Run], nodes: Iterable[Node]) -> tuple[Node, ...]:
        """Take in runs and nodes, each after what it needs; gives the nodes in that order.

        Raises:
            GraphError: one of them cannot run; it is named.
        """
        runs, nodes = lowered(runs, nodes)
        order = tuple(in_order(nodes, runs))
        begun = Begun(list(runs), {node.id for node in order})
        for run in begun.at_once():
            self._begin(run)
        for node in order:
            try:
                self.node(node)
            except GraphError as error:
                raise error.at(node=node.id) from None
            for run in begun.after(node.id):
                self._begin(run)
        return order

    def _begin(self, run: Run) -> None:
        try:
            self.run(run)
        except GraphError as error:
            raise error.at(node=run.id) from None

    def outputs(self, graph: SubGraph) -> dict[str, Meta]:
        """What is known of a sub-graph's outputs."""
        found = {}
        for name, value in graph.out.items():
            try:
                found[name] = self.written(value)
            except GraphError as error:
                raise type(error)(f"output '{name}': {error.detail}", node=error.node) from None
        return found

    def backward_body(self, node: Grad, graph: SubGraph) -> dict[str, Meta]:
        """Check the sub-graph of a gradient: its sites are gradients, and happen from the last one to the first."""
        if graph.runs:
            raise BadArgument(f"the body of grad '{node.id}' runs no forward; it reads and writes gradients")
        order = tuple(in_order(graph.nodes))
        self._backward = True
        try:
            for one in order:
                if not isinstance(one, Get | Set | Call):
                    raise BadArgument(
                        f"the body of grad '{node.id}' holds get, set and call; found '{one.kind}'", node=one.id
                    )
                try:
                    self.node(one)
                except GraphError as error:
                    raise error.at(node=one.id) from None
            check_backward(graph.nodes, order, self.level.places)
            self.level.backward[node.id] = order
            return self.outputs(graph)
        finally:
            self._backward = False
            for one in order:
                self.values.pop(one.id, None)  # gradients on the way back are there for the body alone

    def finish(self, graph: Graph, order: Iterable[Node]) -> Checked:
        """Place everything in forwards and look at what is saved.

        Raises:
            CausalLoop: a value depends on a write that it feeds.
            UnknownName: a save of something that is not there.
        """
        try:
            saves = {name: self._saved(name, text) for name, text in graph.saves.items()}
            scope = close(self, lowered(graph.runs, graph.nodes)[1], tuple(order), saves)
        except GraphError as error:
            raise graph.blame(error, error.node) from None
        warnings = tuple(f"write '{node}' at {where(graph, node)} is seen by no read" for node in scope.schedule.unseen)
        warnings += sites.eager_notes(places_in(scope))
        return Checked(graph, scope, saves, warnings)

    def invoke_of(self, node: Get | Set) -> str:
        """The invoke of a read or write; it may be left out where its scope has only one."""
        known = ", ".join(self.inputs) or "none"
        if node.invoke is None and len(self.inputs) == 1:
            return next(iter(self.inputs))
        if node.invoke is None:
            raise BadArgument(f"site '{self.site(node.site)}' needs an invoke; there are: {known}")
        if any(node.invoke in level.inputs for level in self.levels[:-1]):
            raise BadArgument(
                f"invoke '{node.invoke}' belongs outside this sub-graph; read it there ('blocks.*' reads all modules "
                "at once, stacked) and index that value here, or run the same input here"
            )
        if node.invoke not in self.inputs:
            raise UnknownName(f"there is no invoke '{node.invoke}'; there are: {known}")
        return node.invoke

    def site(self, text: str) -> sites.Site:
        """A site with all its numbers filled in; in the body of a gradient without its ``.grad``."""
        return sites.of_forward(sites.parse(text).fill(self.number), backward=self._backward)

    def sized(self, invoke: Invoke) -> Input:
        """The size of an invoke's input.

        Raises:
            GraphError: it is no input, or not one that the model can take.
        """
        return size_of(invoke, self.argument, self.lengths, self.card)

    def _get(self, node: Get) -> Meta:
        whole = self._at_site(node)
        if node.index is None:
            return whole
        return index_meta(whole, self.index(node.index), self._what(node))

    def _set(self, node: Set) -> Meta:
        whole = self._at_site(node)
        site, found = self.site(node.site), self.level.places[node.id][0]
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
        if site.port == sites.TOKEN and value.dtype is not None and "int" not in value.dtype:
            raise DtypeError(f"'{site}' holds token ids, which are integers; found {value}")
        if value.shape is not None and region.shape is not None and not fits_into(value.shape, region.shape):
            raise ShapeError(
                f"a value of shape {value.shape} cannot be written to {self._what(node)} of shape {region.shape}"
            )
        return region

    def _what(self, node: Get | Set) -> str:
        return f"'{self.site(node.site)}'"

    def _at_site(self, node: Get | Set) -> Meta:
        """The whole value at the node's site; for a starred one, stacked on a new leading axis."""
        level, site = self.level, self.site(node.site)
        if node.step is not None and not level.stepping:
            raise BadArgument(f"'step' belongs to a generation, and '{site}' is read or written in one forward")
        if site.port == sites.TOKEN and not level.stepping:
            raise BadArgument(f"'{site}' is the token that a step of a generation has sampled; it stands in its 'each'")
        token = site.port == sites.TOKEN
        places = (sites.sampled_token(site),) if token else sites.find(self.card, site, node.call)
        level.places[node.id] = places
        leaf = places[0].leaf
        if leaf.engine and level.stepping:
            raise NotYetSupported(f"'{site}' belongs to the engine; it can be read in a trace, not in a generation")
        if self._backward and not is_float(leaf.dtype):
            raise DtypeError(f"'{site}' holds {leaf.dtype}; only floating values have gradients")
        size = Input(0, 0) if places[0].order < 0 else self.inputs[self.invoke_of(node)]
        shape = tuple(dim_of(axis, size.rows, size.length, size.target) for axis in leaf.axes)
        if level.attended is not None and leaf.axes.count("pos") > 1:
            keys = max(at for at, axis in enumerate(leaf.axes) if axis == "pos")
            shape = (*shape[:keys], level.attended, *shape[keys + 1 :])
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
        self.level.flops += flops(op, bound, found)
        return found

    def _op_argument(self, node: Call, at: int | str, value: JsonValue) -> Value:
        op = find_op(node.op)
        param = op.by_name.get(at) if isinstance(at, str) else op.params[at] if at < len(op.params) else None
        if param is not None and param.kind == "index" and isinstance(value, list):
            return self.index(value)
        return self.argument(value)

    def _module(self, node: Module) -> Meta:
        path = sites.native_path(self.card, sites.Site(node.path, "output").fill(self.number).path)
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
        self.level.flops += 2.0 * weights * (most_elements((found.shape or ())[:-1], {}) or 0)
        return found

    def _log(self, node: Log) -> dict[str, Meta]:
        for name, value in node.values.items():
            check_told(name, self.written(value), "logged")
        return {}

    def _saved(self, name: str, text: str) -> Meta:
        ref = references.parse(text)
        if ref is None:
            raise BadArgument(f"save '{name}' is {text!r}; write a reference such as '$id'")
        try:
            found = self.lookup(ref)
        except GraphError as error:
            node = ref.id if ref.id in self.values else None
            raise type(error)(f"save '{name}': {error.detail}", node=node) from None
        return found if isinstance(found, Meta) else self.written(text)


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


_CHECKS: dict[type[Any], Callable[[Checker, Any], Value]] = {
    Get: Checker._get,
    Set: Checker._set,
    Call: Checker._call,
    Module: Checker._module,
    Log: Checker._log,
    Generating: check_generating,
    Map: check_map,
    Repeat: check_repeat,
    Cond: check_cond,
    Grad: check_grad,
    Fit: check_fit,
}
"""How each kind of node is checked."""
