"""Whether a graph can run on a model, found out without running it, and what every value in it will be.

One `Checker` serves all three sides: the client gives it each node as the author's line makes it, with the length of a
prompt still a symbol; the gateway gives it whole documents, with lengths known; the worker plans by what it found.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from telepatch_protocol.card import ModelCard
from telepatch_protocol.checker import Checked, Checker, exact, starred_index
from telepatch_protocol.data import Columns
from telepatch_protocol.errors import BadArgument, GraphError, TooLarge
from telepatch_protocol.executed import check_kind, check_run_kind
from telepatch_protocol.graph import Graph
from telepatch_protocol.inputs import Input
from telepatch_protocol.meta import Meta
from telepatch_protocol.order import in_order, users

__all__ = ["Checked", "Checker", "Input", "check", "exact", "starred_index"]


def check(
    graph: Graph,
    card: ModelCard,
    *,
    inputs: Mapping[str, Input] | None = None,
    attachment: Mapping[str, Meta] | None = None,
    results: Callable[[str, str], Meta] | None = None,
    data: Mapping[str, Columns] | None = None,
) -> Checked:
    """Check a whole document.

    Args:
        graph: the document.
        card: of the model it asks for.
        inputs: rows and lengths of invokes where known, by invoke id; others stay symbols.
        attachment: shapes and dtypes of attached tensors, by name.
        results: gives shape and dtype of a value that an earlier job saved, by job id and name.
        data: columns of the uploads that may be used, by digest.

    Raises:
        GraphError: the first thing that is wrong, with its node and the author's line.
    """
    checker = Checker(card, attachment=attachment, results=results, data=data)
    _check_head(graph, card)
    _check_kinds(graph)
    for name, constant in graph.constants.items():
        try:
            checker.constant(name, constant)
        except GraphError as error:
            raise graph.blame(error, users(graph).get(name)) from None
    for run in graph.runs:
        try:
            checker.run(run, inputs or {}, aligned=graph.options.aligned)
        except GraphError as error:
            raise graph.blame(error, run.id) from None
    order = in_order(graph)
    for node in order:
        try:
            checker.node(node)
        except GraphError as error:
            raise graph.blame(error, node.id) from None
    return checker.finish(graph, order)


def _check_kinds(graph: Graph) -> None:
    """What is not executed yet is refused as such, whatever else may be wrong with it."""
    try:
        for run in graph.runs:
            check_run_kind(run)
        for node in graph.nodes:
            check_kind(node)
    except GraphError as error:
        raise graph.blame(error, error.node) from None


def _check_head(graph: Graph, card: ModelCard) -> None:
    if graph.model.revision is not None and graph.model.revision != card.revision:
        raise BadArgument(
            f"the graph was made for revision {graph.model.revision} of '{card.id}', which now serves {card.revision}; "
            "fetch the model's card again and rebuild the graph"
        )
    if len(graph.nodes) > card.limits.max_nodes:
        raise TooLarge(f"the graph has {len(graph.nodes)} nodes; the limit of '{card.id}' is {card.limits.max_nodes}")
    if not graph.saves:
        raise BadArgument("the graph saves nothing, so running it would have no result; add a save")
