"""The nodes of a graph by what they need: which references each holds, and an order in which all can be taken."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from pydantic import JsonValue

from telepatch_protocol import indexing, refs, sites
from telepatch_protocol.errors import BadArgument, GraphError
from telepatch_protocol.graph import Call, Get, Graph, Module, Node, Set


def refs_of(node: Node) -> list[refs.Ref]:
    """Every reference in a node that is executed: arguments, indices, values and numbers in sites."""
    if isinstance(node, Get):
        return [*indexing.refs_of(node.index), *_holes(node.site)]
    if isinstance(node, Set):
        return [*refs.walk(node.value), *indexing.refs_of(node.index), *_holes(node.site)]
    if isinstance(node, Call | Module):
        found = [ref for arg in (*node.args, *node.kwargs.values()) for ref in _argument_refs(arg)]
        return found + (_holes(f"{node.path}:output") if isinstance(node, Module) else [])
    return []


def users(graph: Graph) -> dict[str, str]:
    """For each name that is referred to, the first node or invoke that refers to it."""
    found: dict[str, str] = {}
    for node in graph.nodes:
        _note(found, node.id, lambda node=node: refs_of(node))  # type: ignore[misc]
    for run in graph.runs:
        for invoke in run.invokes:
            messages = invoke.messages if isinstance(invoke.messages, str) else None  # literal ones hold no references
            given = [invoke.text, invoke.ids, messages, *(invoke.inputs or {}).values()]
            _note(found, invoke.id, lambda given=given: list(refs.walk(given)))  # type: ignore[misc]
    return found


def _note(found: dict[str, str], user: str, refs_there: Callable[[], list[refs.Ref]]) -> None:
    """What is malformed refers to nothing; the checker refuses it."""
    try:
        for ref in refs_there():
            found.setdefault(ref.id, user)
    except GraphError:
        return


def in_order(graph: Graph) -> list[Node]:
    """The nodes, each after those it needs, otherwise as in the document.

    Raises:
        BadArgument: nodes whose values need each other.
    """
    nodes = {node.id: node for node in graph.nodes}
    if len(nodes) < len(graph.nodes):
        ids = [node.id for node in graph.nodes]
        twice = next(id for at, id in enumerate(ids) if id in ids[:at])
        raise graph.blame(BadArgument(f"two nodes have the same id '{twice}'; each needs its own"), twice)
    needs = {node.id: [ref.id for ref in _placed(graph, node) if ref.id in nodes] for node in graph.nodes}
    done: dict[str, Node] = {}
    try:
        for start in nodes:
            _visit(start, nodes, needs, done)
    except GraphError as error:
        raise graph.blame(error, error.node) from None
    return list(done.values())


def _placed(graph: Graph, node: Node) -> list[refs.Ref]:
    try:
        return refs_of(node)
    except GraphError as error:
        raise graph.blame(error, node.id) from None


def _visit(start: str, nodes: Mapping[str, Node], needs: Mapping[str, list[str]], done: dict[str, Node]) -> None:
    """Depth first without recursion: a graph may be as deep as it is long."""
    stack, open_ = [(start, iter(needs[start]))], {start}
    if start in done:
        return
    while stack:
        node, rest = stack[-1]
        following = next((need for need in rest if need not in done), None)
        if following is None:
            stack.pop()
            open_.discard(node)
            done[node] = nodes[node]
        elif following in open_:
            raise BadArgument(_circle(node, following), node=node)
        else:
            open_.add(following)
            stack.append((following, iter(needs[following])))


def _circle(node: str, following: str) -> str:
    if node == following:
        return f"node '{node}' needs its own value"
    return f"nodes '{node}' and '{following}' need each other's values"


def _holes(site: str) -> list[refs.Ref]:
    return [refs.Ref(name) for name in sites.parse(site).holes]


def _argument_refs(arg: JsonValue) -> Iterable[refs.Ref]:
    if isinstance(arg, list):
        for item in arg:
            yield from _argument_refs(item)
    elif isinstance(arg, str) and ":" in arg and arg.startswith(("$", ":", "-", *"0123456789")):
        yield from _slice_refs(arg)
    else:
        yield from refs.walk(arg)


def _slice_refs(text: str) -> list[refs.Ref]:
    try:
        return indexing.refs_of([text])
    except BadArgument:
        return list(refs.walk(text))
