"""The nodes of a graph by what they need: which references each holds, and an order in which all can be taken."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from pydantic import JsonValue

from telepatch_protocol import indexing, refs, sites
from telepatch_protocol.errors import BadArgument, GraphError
from telepatch_protocol.graph import Call, Get, Graph, Invoke, Module, Node, Run, Set, SubGraph
from telepatch_protocol.subgraphs import Body, arguments_of, bodies_of, each_body, inputs_of, settings_of


def refs_of(node: Node) -> list[refs.Ref]:
    """Every reference of a node to values outside it: arguments, indices, values, numbers in sites, and what its
    sub-graphs take from where it stands."""
    if isinstance(node, Get):
        return [*indexing.refs_of(node.index), *_holes(node.site), *_steps(node)]
    if isinstance(node, Set):
        return [*refs.walk(node.value), *indexing.refs_of(node.index), *_holes(node.site), *_steps(node)]
    if isinstance(node, Call | Module):
        found = [ref for arg in (*node.args, *node.kwargs.values()) for ref in _argument_refs(arg)]
        return found + (_holes(f"{node.path}:output") if isinstance(node, Module) else [])
    own = [ref for arg in arguments_of(node) for ref in refs.walk(arg)]
    return own + [ref for body in bodies_of(node) for ref in taken_by(body)]


def taken_by(body: Body) -> list[refs.Ref]:
    """What a sub-graph takes from outside."""
    graph = body.graph
    found = [ref for run in graph.runs for ref in _refs_of_run(run)]
    found += [ref for node in graph.nodes for ref in refs_of(node)]
    inside = {*body.binds, *(node.id for node in graph.nodes), *(run.id for run in graph.runs)}
    found += refs.walk(list(graph.out.values()))
    free = [ref for ref in found if ref.id not in inside]
    return free + [ref for ref in refs.walk(list(body.tail)) if ref.id not in inside and ref.id not in graph.out]


def _refs_of_run(run: Run) -> list[refs.Ref]:
    """What a run takes from the scope that it stands in, and from outside."""
    found = [ref for invoke in run.invokes for ref in given_to(invoke)]
    if run.generate is not None:
        found += refs.walk(settings_of(run.generate))
    if run.each is not None:
        found += [*refs.walk(list(run.each.state.values())), *taken_by(each_body(run.id, run.each))]
    return found


def _steps(node: Get | Set) -> list[refs.Ref]:
    return [] if node.step is None else indexing.refs_of([node.step])


def given_to(invoke: Invoke) -> list[refs.Ref]:
    """Every reference in an invoke's input."""
    return [ref for value in inputs_of(invoke) for ref in refs.walk(value)]


def users(graph: Graph | SubGraph) -> dict[str, str]:
    """For each name that is referred to, the first node or invoke that refers to it."""
    found: dict[str, str] = {}
    for node in graph.nodes:
        _note(found, node.id, lambda node=node: refs_of(node))  # type: ignore[misc]
    for run in graph.runs:
        for invoke in run.invokes:
            _note(found, invoke.id, lambda invoke=invoke: given_to(invoke))  # type: ignore[misc]
    return found


def _note(found: dict[str, str], user: str, refs_there: Callable[[], list[refs.Ref]]) -> None:
    """What is malformed refers to nothing; the checker refuses it."""
    try:
        for ref in refs_there():
            found.setdefault(ref.id, user)
    except GraphError:
        return


def in_order(given: Iterable[Node], runs: Iterable[Run] = ()) -> list[Node]:
    """The nodes, each after those it needs, otherwise as they stand; sites need what their invoke's input needs.

    Raises:
        BadArgument: nodes whose values need each other, or two of the same id; it names the node.
    """
    listed = list(given)
    nodes = {node.id: node for node in listed}
    if len(nodes) < len(listed):
        ids = [node.id for node in listed]
        twice = next(id for at, id in enumerate(ids) if id in ids[:at])
        raise BadArgument(f"two nodes have the same id '{twice}'; each needs its own", node=twice)
    inputs = {one.id: [ref.id for ref in given_to(one)] for run in runs for one in run.invokes}
    needs = {
        node.id: [id for id in (*(ref.id for ref in _placed(node)), *_inputs(node, inputs)) if id in nodes]
        for node in listed
    }
    done: dict[str, Node] = {}
    for start in nodes:
        _visit(start, nodes, needs, done)
    return list(done.values())


def _inputs(node: Node, inputs: Mapping[str, list[str]]) -> list[str]:
    """What the input of a site's invoke needs; a site that names none is of the only one there is."""
    if not isinstance(node, Get | Set):
        return []
    return inputs.get(node.invoke, []) if node.invoke is not None else [id for one in inputs.values() for id in one]


def _placed(node: Node) -> list[refs.Ref]:
    try:
        return refs_of(node)
    except GraphError as error:
        raise error.at(node=node.id) from None


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
