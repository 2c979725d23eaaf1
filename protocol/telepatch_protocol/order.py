"""The nodes of a graph by what they need: which references each holds, and an order in which all can be taken."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

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


def in_order(graph: Graph) -> list[Node]:
    """The nodes, each after those it needs, otherwise as in the document.

    Raises:
        BadArgument: nodes whose values need each other.
    """
    nodes = {node.id: node for node in graph.nodes}
    if len(nodes) < len(graph.nodes):
        raise BadArgument("two nodes have the same id")
    needs = {node.id: [ref.id for ref in _placed(graph, node) if ref.id in nodes] for node in graph.nodes}
    done: dict[str, Node] = {}
    for start in nodes:
        _visit(start, nodes, needs, done)
    return list(done.values())


def _placed(graph: Graph, node: Node) -> list[refs.Ref]:
    try:
        return refs_of(node)
    except GraphError as error:
        file, line = graph.place_of(node.id)
        raise error.at(node=node.id, file=file, line=line) from None


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
            raise BadArgument(f"nodes '{node}' and '{following}' need each other's values", node=node)
        else:
            open_.add(following)
            stack.append((following, iter(needs[following])))


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
