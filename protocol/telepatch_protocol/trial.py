"""Whether an edit can be applied to a model at all, found out before anybody does: as if it were, to some input."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from telepatch_protocol import sites
from telepatch_protocol.card import ModelCard
from telepatch_protocol.check import check
from telepatch_protocol.data import Columns
from telepatch_protocol.errors import BadArgument, GraphError
from telepatch_protocol.expanding import Expanded, expand
from telepatch_protocol.fragments import Fragment, inside
from telepatch_protocol.graph import Applied, Arg, Call, Get, Graph, Invoke, Module, Run, Set, place_in
from telepatch_protocol.meta import UNKNOWN, Meta

_NAME, _INPUT = "edit", "input"


def check_edit(
    fragment: Fragment,
    card: ModelCard,
    *,
    results: Callable[[str, str], Meta] | None = None,
    data: Mapping[str, Columns] | None = None,
) -> None:
    """Check an edit against a model, on an input of unknown length and with its defaults; other arguments may be any
    tensor.

    Args:
        fragment: the edit.
        card: of its model.
        results, data: as for `telepatch_protocol.check.check`.

    Raises:
        GraphError: it cannot run, at the line of the program that made it.
    """
    missing = [name for name, argument in fragment.arguments.items() if argument.default is None]
    _check_numbers(fragment, missing)
    given: dict[str, Arg] = {name: {"tensor": name} for name in missing}
    graph = Graph(
        model=fragment.model,
        runs=(Run(id="run", invokes=(_some_input(card, given),)),),
        nodes=(Call(id="nothing", op="zeros", args=([1],)),),
        saves={"nothing": "$nothing"},
    )
    try:
        expanded = expand(graph, {_NAME: fragment}, most=card.limits.max_nodes)
    except GraphError as error:
        raise _as_its_own(error, None, fragment) from None
    attachment = dict.fromkeys((*missing, *_inputs(card)), UNKNOWN)
    try:
        check(expanded.graph, card, attachment=attachment, results=results, data=data)
    except GraphError as error:
        raise _as_its_own(error, expanded, fragment) from None


def _check_numbers(fragment: Fragment, missing: list[str]) -> None:
    for node in inside(fragment.nodes):
        if isinstance(node, Get | Set | Module):
            holes = sites.parse(f"{node.path}:output" if isinstance(node, Module) else node.site).holes
            if (name := next((hole for hole in holes if hole in missing), None)) is not None:
                file, line = place_in(fragment.lines, node.id)
                raise BadArgument(
                    f"argument '{name}' picks a module, so give it a default to check the edit with",
                    node=node.id,
                    file=file,
                    line=line,
                )


def _inputs(card: ModelCard) -> list[str]:
    return [_INPUT, *card.inputs]


def _some_input(card: ModelCard, given: dict[str, Arg]) -> Invoke:
    """An input of which nothing is known."""
    edits = (Applied(name=_NAME, arguments=given),)
    if card.inputs:
        needed = {name: {"tensor": name} for name, one in card.inputs.items() if not one.optional}
        return Invoke.model_validate({"id": _INPUT, "inputs": needed, "edits": edits})
    return Invoke(id=_INPUT, ids={"tensor": _INPUT}, edits=edits)


def _as_its_own(error: GraphError, expanded: Expanded | None, fragment: Fragment) -> GraphError:
    """An error that speaks of the edit's own nodes and lines."""
    origin = expanded.origins.get(error.node or "") if expanded is not None else None
    error.node = None if origin is None else origin.node
    error.file, error.line = place_in(fragment.lines, error.node)
    if expanded is not None:
        error.detail = expanded.own(error.detail, _NAME)
    return error
