"""How a scope is evaluated: which of its nodes happen where, and how long each value is needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from telepatch_protocol import refs
from telepatch_protocol.bodies import holes_in
from telepatch_protocol.causality import Pass, Schedule
from telepatch_protocol.checked import Key, Scope
from telepatch_protocol.closing import SAMPLED
from telepatch_protocol.generating import FIRST
from telepatch_protocol.graph import Arg, Cond, Fit, Generating, Get, Grad, Invoke, Map, Module, Node, Repeat, Set
from telepatch_protocol.inputs import Input
from telepatch_protocol.order import given_to, refs_of
from telepatch_protocol.sites import Found
from telepatch_protocol.subgraphs import all_nodes, bodies_of
from telepatch_worker.layout import shareable
from telepatch_worker.moments import Moment
from telepatch_worker.skipping import replaced


@dataclass(frozen=True)
class ScopePlan:
    """A scope that can be evaluated, once or for every element of a map.

    Attributes:
        scope: as it was checked.
        nodes: its nodes by id.
        places: where sites lie.
        passes: the moments of each forward, in order.
        pure: nodes that do not happen at a place of a forward, with those of this scope that they need.
        users: for each node, the pure nodes that need its value.
        uses: how often each node's value is used until it can go.
        needs: for each node, those of this scope that it needs.
        kept: nodes whose values are outputs.
        between: nodes that happen only between forwards.
        differentiated: nodes through whose values gradients flow.
        late: modules and nodes with sub-graphs for whose values no forward waits.
        beside: nodes that happen side by side where several wait, so that fits share streams.
    """

    scope: Scope
    nodes: Mapping[str, Node]
    places: Mapping[str, tuple[Found, ...]]
    passes: tuple[tuple[Moment, ...], ...]
    pure: Mapping[str, frozenset[str]]
    users: Mapping[str, tuple[str, ...]]
    uses: Mapping[str, int]
    needs: Mapping[str, frozenset[str]]
    kept: frozenset[str]
    between: frozenset[str]
    differentiated: frozenset[str]
    late: frozenset[str]
    beside: frozenset[str]
    _bodies: dict[tuple[str, Key], ScopePlan] = field(default_factory=dict)
    _backward: dict[str, ScopePlan] = field(default_factory=dict)
    _holes: dict[str, frozenset[str]] = field(default_factory=dict)

    @staticmethod
    def empty() -> ScopePlan:
        """A scope in which nothing happens."""
        scope = Scope((), {}, {}, {}, {}, Schedule((), ()), frozenset(), frozenset(), {}, {}, {}, {}, {}, 0.0)
        return scope_plan(scope, (), set())

    def invokes(self, number: int) -> tuple[str, ...]:
        """The invokes that take part in a forward."""
        return self.scope.schedule.passes[number].invokes

    def inputs(self) -> dict[str, Input]:
        """Sizes of its own invokes, those that generate with their prompts."""
        prompts = (self.scope.bodies[one.id][FIRST].inputs for one in self._generating())
        return {**self.scope.inputs, **{name: size for one in prompts for name, size in one.items()}}

    def invoked(self) -> dict[str, Invoke]:
        """Its own invokes, those that generate too."""
        return {**self.scope.invokes, **{one.invoke.id: one.invoke for one in self._generating()}}

    def _generating(self) -> list[Generating]:
        return [node for node in self.nodes.values() if isinstance(node, Generating)]

    def body(self, name: str, key: Key = ()) -> ScopePlan:
        """How a sub-graph is evaluated."""
        if (name, key) not in self._bodies:
            node = self.nodes[name.partition(".")[0]]
            graph = next(body.graph for body in bodies_of(node) if body.name == name)
            tail = next(body.tail for body in bodies_of(node) if body.name == name)
            kept = [*graph.out.values(), *tail]
            self._bodies[name, key] = scope_plan(self.scope.bodies[name][key], kept, set(self._whole(node, name)))
        return self._bodies[name, key]

    def backward(self, node: Grad) -> ScopePlan:
        """How the body of a gradient is evaluated: its nodes, without forwards of their own."""
        assert node.body is not None
        if node.id not in self._backward:
            order = self.scope.backward[node.id]
            kept: list[Arg] = [*node.body.out.values(), *(f"${one.id}" for one in order)]  # hooks may run several times
            self._backward[node.id] = _planned(self.scope, order, (), kept, set(), frozenset())
        return self._backward[node.id]

    def holes(self, node: Map) -> frozenset[str]:
        """Names of a map that stand in sites."""
        if node.id not in self._holes:
            self._holes[node.id] = holes_in(node.body) & node.over.keys()
        return self._holes[node.id]

    def _whole(self, node: Node, body: str) -> Iterable[str]:
        """Outputs through which gradients flow, where the node's own do; always those of what a fit trains."""
        if isinstance(node, Fit):
            return ("*",) if body == node.id else ()
        return ("*",) if node.id in self.differentiated else ()

    def shares(self) -> bool:
        """Whether all places let its own rows be told from others', here and in every sub-graph."""
        own = (
            shareable(found.leaf.axes, writes=isinstance(node, Set))
            for node in self.nodes.values()
            for found in self.places.get(node.id, ())
            if found.order >= 0
        )
        return self._alike() and all(own) and all(one.shares() for one in self._inner())

    def _alike(self) -> bool:
        """Whether its invokes can share a forward: tensors that are not tokens are never filled up."""
        scope = self.scope
        kinds = {
            (scope.inputs[name].length, scope.inputs[name].target, tuple(sorted(invoke.inputs)))
            for name, invoke in scope.invokes.items()
            if invoke.inputs is not None
        }
        return len(kinds) < 2

    def reads_engine(self) -> bool:
        """Whether it reads masks or other things of the engine, which then have to be there."""
        own = any(found.leaf.engine for places in self.places.values() for found in places)
        return own or any(one.reads_engine() for one in self._inner())

    def _inner(self) -> list[ScopePlan]:
        return [self.body(name, key) for name, scopes in self.scope.bodies.items() for key in scopes]


def scope_plan(scope: Scope, kept: Iterable[Arg], outer: set[str]) -> ScopePlan:
    """How a scope is evaluated.

    Args:
        scope: as it was checked.
        kept: references to what is needed when it ends.
        outer: ``{"*"}`` where gradients flow through its outputs.
    """
    passes = tuple(_moments(one, scope) for one in scope.schedule.passes)
    return _planned(scope, scope.order, passes, list(kept), outer, scope.between)


def _planned(
    scope: Scope,
    order: tuple[Node, ...],
    passes: tuple[tuple[Moment, ...], ...],
    kept: list[Arg],
    outer: set[str],
    between: frozenset[str],
) -> ScopePlan:
    nodes = {node.id: node for node in order}
    needs = {name: frozenset(ref.id for ref in refs_of(node) if ref.id in nodes) for name, node in nodes.items()}
    pure = {name: needs[name] for name, node in nodes.items() if not _at_a_place(node, scope)}
    outputs = frozenset(ref.id for ref in refs.walk(kept))
    again = frozenset(name for one in scope.tracked if one in nodes for name in needs[one])
    return ScopePlan(
        scope=scope,
        nodes=nodes,
        places=scope.places,
        passes=passes,
        pure=pure,
        users=_users(pure),
        uses=_uses(pure, needs, passes, scope) if order is scope.order else _once(needs),
        needs=needs,
        kept=outputs | again,
        between=between,
        differentiated=_differentiated(nodes, needs, outputs if outer else frozenset(), scope),
        late=_late(nodes, needs, scope, modules=bool(passes)),
        beside=frozenset(name for name, node in nodes.items() if _fits(node)),
    )


def _late(
    nodes: Mapping[str, Node], needs: Mapping[str, frozenset[str]], scope: Scope, *, modules: bool
) -> frozenset[str]:
    """Loops, and modules that are applied to values, on which nothing depends that happens in a forward."""
    kinds = (Map, Repeat, Cond, Module) if modules else (Map, Repeat, Cond)
    found = {name for name, node in nodes.items() if isinstance(node, kinds)}
    if not found:
        return frozenset()
    early = {name for node, found in needs.items() if _at_a_place(nodes[node], scope) for name in found}
    early |= {ref.id for invoke in scope.invokes.values() for ref in given_to(invoke) if ref.id in nodes}
    return frozenset(found - _with_needs(early, needs))


def _with_needs(names: Iterable[str], needs: Mapping[str, frozenset[str]]) -> set[str]:
    """These nodes, what they need, what that needs, and so on."""
    found = set(names)
    stack = list(found)
    while stack:
        for other in needs[stack.pop()]:
            if other not in found:
                found.add(other)
                stack.append(other)
    return found


def _fits(node: Node) -> bool:
    """Whether it is a fit, or has one inside."""
    if isinstance(node, Fit):
        return True
    return any(isinstance(one, Fit) for body in bodies_of(node) for one in all_nodes(body.graph))


def _at_a_place(node: Node, scope: Scope) -> bool:
    return isinstance(node, Set) or (isinstance(node, Get) and scope.places[node.id][0].order >= 0)


def _moments(one: Pass, scope: Scope) -> tuple[Moment, ...]:
    whole = {node.id for node in scope.order if isinstance(node, Set) and node.index is None}
    return tuple(
        Moment(
            event.node,
            event.invoke,
            event.writes,
            found.place,
            found.leaf.axes,
            event.part,
            found.view,
            event.tracked,
            event.again,
            replaced(found, whole=event.writes and event.node in whole),
        )
        for event in one.events
        if event.node != SAMPLED
        for found in (scope.places[event.node][event.part],)
    )


def _users(pure: Mapping[str, frozenset[str]]) -> dict[str, tuple[str, ...]]:
    users: dict[str, list[str]] = {}
    for name, needed in pure.items():
        for other in needed:
            users.setdefault(other, []).append(name)
    return {name: tuple(found) for name, found in users.items()}


def _uses(
    pure: Mapping[str, frozenset[str]],
    needs: Mapping[str, frozenset[str]],
    passes: tuple[tuple[Moment, ...], ...],
    scope: Scope,
) -> Counter[str]:
    """Once for each pure node that needs a value, for each moment, as often as it happens, and for each input."""
    happening = [*pure, *(moment.node for moments in passes for moment in moments if not moment.again)]
    found = Counter(needed for name in happening for needed in needs.get(name, ()))
    for invoke in {name: None for one in scope.schedule.passes for name in one.invokes if name in scope.invokes}:
        found.update(ref.id for ref in given_to(scope.invokes[invoke]) if ref.id in needs)
    return found


def _once(needs: Mapping[str, frozenset[str]]) -> Counter[str]:
    return Counter(needed for found in needs.values() for needed in found)


def _differentiated(
    nodes: Mapping[str, Node], needs: Mapping[str, frozenset[str]], outputs: frozenset[str], scope: Scope
) -> frozenset[str]:
    """Nodes on whose values a number depends of which a gradient is asked, here or in a sub-graph: by operations, and
    by forwards, into which every write and every input flows."""
    found = {name for name in outputs if name in nodes}
    for node in nodes.values():
        inner = [one for body in bodies_of(node) for one in all_nodes(body.graph)]
        if isinstance(node, Grad) or any(isinstance(one, Grad) for one in inner):
            found |= needs[node.id]
        if isinstance(node, Repeat) and _asks_outside(node):
            found.add(node.id)  # what is carried depends on it, too
    if found:
        found |= {name for node in nodes.values() if isinstance(node, Set) for name in needs[node.id]}
        found |= {ref.id for invoke in scope.invokes.values() for ref in given_to(invoke) if ref.id in nodes}
    return frozenset(_with_needs(found, needs))


def _asks_outside(node: Repeat) -> bool:
    """Whether a gradient inside is asked of a value outside, on which all times depend that came before."""
    inner = list(all_nodes(node.body))
    inside = {one.id for one in inner} | {
        name for one in (node, *inner) for body in bodies_of(one) for name in body.binds
    }
    asked = (arg for one in inner if isinstance(one, Grad) for arg in one.wrt)
    return any(ref.id not in inside for arg in asked for ref in refs.walk(arg))
