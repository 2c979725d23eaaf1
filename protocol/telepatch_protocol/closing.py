"""The end of a scope: its reads and writes are placed in forwards, once everything in it is known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from telepatch_protocol.causality import Event, Schedule, schedule
from telepatch_protocol.checked import Scope
from telepatch_protocol.errors import CausalLoop, TooLarge
from telepatch_protocol.flow import check_flow
from telepatch_protocol.graph import Fit, Generating, Get, Grad, Graph, Node, Set
from telepatch_protocol.meta import Meta
from telepatch_protocol.order import given_to, refs_of
from telepatch_protocol.sites import TOKEN_ORDER, Found
from telepatch_protocol.subgraphs import bodies_of, has_runs

if TYPE_CHECKING:
    from telepatch_protocol.checker import Checker


SAMPLED = ""
"""What stands in a schedule for the choice of a token: it sees everything that was written before."""


def close(
    checker: Checker,
    nodes: Iterable[Node],
    order: tuple[Node, ...],
    out: Mapping[str, Meta],
    *,
    sampled: str | None = None,
) -> Scope:
    """The innermost scope as a whole.

    Args:
        checker: that has taken in everything of it.
        nodes: its nodes as they stand in the document.
        order: the same, each after those it needs.
        out: what is known of its outputs.
        sampled: the invoke of which a token is chosen at the end, where it is a step of a generation.

    Raises:
        CausalLoop: a value depends on a write that it feeds.
        TooLarge: more forwards than a job may have.
    """
    level = checker.level
    own = {node.id for node in order}
    between = frozenset(node.id for node in order if happens_between(node))
    tracked = frozenset(own & checker.wrt)
    check_flow(order, level.values)
    plan = _scheduled(checker, list(nodes), order, between, tracked, sampled)
    return Scope(
        order=order,
        values=level.values.maps[0] if hasattr(level.values, "maps") else level.values,
        places=level.places,
        inputs=level.inputs,
        invokes=level.invokes,
        schedule=plan,
        between=between,
        tracked=tracked,
        out=out,
        bodies=level.bodies,
        counts=level.counts,
        beside=level.beside,
        backward=level.backward,
        flops=level.flops,
    )


def happens_between(node: Node) -> bool:
    """Whether a node happens only while no forward runs: gradients, generations, and sub-graphs that run forwards
    themselves."""
    if isinstance(node, Grad | Fit | Generating):
        return True
    graphs = [body.graph for body in bodies_of(node)]
    return any(has_runs(one) or _has_grad(one.nodes) for one in graphs)


def _has_grad(nodes: Iterable[Node]) -> bool:
    return any(
        isinstance(node, Grad | Fit) or any(_has_grad(body.graph.nodes) for body in bodies_of(node)) for node in nodes
    )


def _scheduled(
    checker: Checker,
    nodes: list[Node],
    order: tuple[Node, ...],
    between: frozenset[str],
    tracked: frozenset[str],
    sampled: str | None,
) -> Schedule:
    known = {node.id for node in order}
    inside = {id: {one.id for one in body if isinstance(one, Get | Set)} for id, body in checker.level.backward.items()}
    needs = {
        node.id: {ref.id for ref in refs_of(node) if ref.id in known} | inside.get(node.id, set()) for node in order
    }
    needs |= {one: set() for hooks in inside.values() for one in hooks}
    starts = {
        name: {ref.id for ref in given_to(invoke) if ref.id in known} for name, invoke in checker.level.invokes.items()
    }
    last = [] if sampled is None else [Event(SAMPLED, sampled, TOKEN_ORDER + 1, writes=False)]
    plan = schedule(
        _events(checker, nodes, tracked) + last,
        needs,
        together=checker.together,
        between=between,
        starts={name: found for name, found in starts.items() if found},
    )
    most = checker.card.limits.max_passes
    if len(plan.passes) > most:
        raise TooLarge(f"the graph needs {len(plan.passes)} forwards; the limit is {most}")
    return plan


def _events(checker: Checker, nodes: list[Node], tracked: frozenset[str]) -> list[Event]:
    """Every read and write, in document order; those of gradients where the gradient stands."""
    found: list[Event] = []
    for node in nodes:
        if isinstance(node, Get | Set):
            found += _at(checker, node, writes=isinstance(node, Set), tracked=node.id in tracked)
        elif isinstance(node, Grad) and node.body is not None:
            for one in node.body.nodes:
                if isinstance(one, Get | Set):
                    found += _at(checker, one, writes=False, tracked=True)
    return found


def _at(checker: Checker, node: Get | Set, *, writes: bool, tracked: bool) -> list[Event]:
    places = enumerate(checker.level.places[node.id])
    return [
        Event(node.id, checker.invoke_of(node), found.order, writes, part, tracked)
        for part, found in places
        if found.order >= 0
    ]


def check_backward(nodes: Iterable[Node], order: tuple[Node, ...], places: Mapping[str, tuple[Found, ...]]) -> None:
    """Refuse an edit of a gradient that needs one which comes only after it on the way back.

    Raises:
        CausalLoop: naming the edit and the gradient that it waits for.
    """
    stands = {node.id: at for at, node in enumerate(nodes)}
    when = {
        node.id: [(-found.order, stands[node.id]) for found in places[node.id]]
        for node in order
        if isinstance(node, Get | Set)
    }
    known: dict[str, tuple[tuple[float, int], str]] = {}
    for node in order:
        needed = [known[ref.id] for ref in refs_of(node) if ref.id in known]
        latest = max(needed, default=None)
        if isinstance(node, Get):
            known[node.id] = max((max(when[node.id]), node.id), latest or (max(when[node.id]), node.id))
        elif isinstance(node, Set) and latest is not None and latest[0] > min(when[node.id]):
            raise CausalLoop(
                f"the gradient written by '{node.id}' needs that of '{latest[1]}', which comes only after it: "
                "gradients flow from the last module to the first",
                node=node.id,
                parent=latest[1],
            )
        elif latest is not None:
            known[node.id] = latest


def where(graph: Graph, node: str) -> str:
    """The author's file and line of a node, or the node's id where they are not known."""
    return graph.lines.get(node, f"node '{node}'")
