"""Whether a graph can run on a model, found out without running it, and what every value in it will be.

One `Checker` serves all three sides: the client gives it each node as the author's line makes it, with the length of a
prompt still a symbol; the gateway gives it whole documents, with lengths known; the worker plans by what it found.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from telepatch_protocol.adapters import check_adapter
from telepatch_protocol.card import ModelCard
from telepatch_protocol.checked import Checked, Scope, Value, exact
from telepatch_protocol.checker import Checker, starred_index
from telepatch_protocol.data import Columns
from telepatch_protocol.errors import BadArgument, GraphError, TooLarge
from telepatch_protocol.executed import check_kind, check_plain
from telepatch_protocol.graph import Fit, Graph
from telepatch_protocol.inputs import Input
from telepatch_protocol.meta import Meta
from telepatch_protocol.order import users
from telepatch_protocol.subgraphs import all_nodes, all_runs, bodies_of, logs_in

__all__ = ["Checked", "Checker", "Input", "Scope", "check", "exact", "starred_index"]


def check(
    graph: Graph,
    card: ModelCard,
    *,
    lengths: Mapping[str, int] | None = None,
    attachment: Mapping[str, Meta] | None = None,
    results: Callable[[str, str], Meta] | None = None,
    data: Mapping[str, Columns] | None = None,
    known: Mapping[str, Value] | None = None,
) -> Checked:
    """Check a whole document.

    Args:
        graph: the document.
        card: of the model it asks for.
        lengths: numbers of tokens of texts where known; others stay symbols.
        attachment: shapes and dtypes of attached tensors, by name.
        results: gives shape and dtype of a value that an earlier job saved, by job id and name.
        data: columns of the uploads that may be used, by digest.
        known: what some constants stand for, by name, where that is not what the document says of them.

    Raises:
        GraphError: the first thing that is wrong, with its node and the author's line.
    """
    checker = Checker(
        card,
        attachment=attachment,
        results=results,
        data=data,
        lengths=lengths,
        aligned=graph.options.aligned,
        together=not exact(graph),
    )
    _check_head(graph, card)
    _check_whole(graph, card)
    for name, constant in graph.constants.items():
        try:
            if known and name in known:
                checker.define(name, known[name])
            else:
                checker.constant(name, constant)
        except GraphError as error:
            raise graph.blame(error, users(graph).get(name)) from None
    try:
        order = checker.take(graph.runs, graph.nodes)
    except GraphError as error:
        raise graph.blame(error, error.node) from None
    return checker.finish(graph, order)


def _check_whole(graph: Graph, card: ModelCard) -> None:
    """What is not executed yet is refused as such, whatever else may be wrong with it; ids are unique at any depth."""
    taken: set[str] = set()
    count = 0
    try:
        for run in all_runs(graph):
            check_plain(run)
            for name in run.each.state if run.each is not None else ():
                if name in taken:
                    raise BadArgument(
                        f"two things have the same id '{name}'; ids are unique in a document", node=run.id
                    )
                taken.add(name)
        for node in all_nodes(graph):
            count += 1
            check_kind(node)
            for name in (node.id, *(name for body in bodies_of(node) for name in body.binds - {"step"})):
                if name in taken:
                    raise BadArgument(
                        f"two nodes have the same id '{name}'; ids are unique in a document", node=node.id
                    )
            if any(node.id in body.binds for body in bodies_of(node) if body.name != f"{node.id}.after"):
                raise BadArgument(f"'{node.id}' binds its own id inside; ids are unique in a document", node=node.id)
            taken.add(node.id)
            if isinstance(node, Fit):
                _check_silent(node)
    except GraphError as error:
        raise graph.blame(error, error.node) from None
    if count > card.limits.max_nodes:
        raise TooLarge(f"the graph has {count} nodes; the limit of '{card.id}' is {card.limits.max_nodes}")


def _check_silent(fit: Fit) -> None:
    """Refuse logs in a fit, which tells of its steps in a way of its own."""
    for body in bodies_of(fit):
        for log in logs_in(body.graph):
            raise BadArgument(
                f"log '{log.id}' stands in fit '{fit.id}', whose steps are told by its 'emit'; name the values there",
                node=log.id,
            )


def _check_head(graph: Graph, card: ModelCard) -> None:
    if graph.model.revision is not None and graph.model.revision != card.revision:
        raise BadArgument(
            f"the graph was made for revision {graph.model.revision} of '{card.id}', which now serves {card.revision}; "
            "fetch the model's card again and rebuild the graph"
        )
    check_adapter(graph.options.adapter, card)
    if not graph.saves and not any(True for _ in logs_in(graph)):
        raise BadArgument("the graph saves nothing and logs nothing, so running it would have no result; add a save")
