"""The end of a job: the whole document, checked as the gateway will check it, and what is surely not meant in it."""

from __future__ import annotations

from collections.abc import Iterator

from telepatch.blame import explained
from telepatch.builder import Builder
from telepatch.lines import at_place
from telepatch.scope import Scope
from telepatch_protocol import checked
from telepatch_protocol.errors import GraphError, TelepatchError, TraceError
from telepatch_protocol.graph import Grad, Graph
from telepatch_protocol.lowering import lowered
from telepatch_protocol.meta import UNKNOWN, Meta
from telepatch_protocol.sizes import Size
from telepatch_protocol.subgraphs import logs_in

NO_EFFECT = "this write is seen by no read or save, so it has no effect"


def finish(builder: Builder) -> Graph:
    """The whole document.

    Raises:
        TelepatchError: it cannot run, or saves nothing.
    """
    builder.alive()
    _no_lost_edit(builder)
    for scope in builder.scopes:
        _gives_something(scope)
    graph = builder.build()
    if not graph.saves and builder.sends and not any(True for _ in logs_in(graph)):
        raise _nothing_saved(builder)
    try:
        found = builder.checker.finish(graph, lowered(graph.runs, graph.nodes)[1])
    except GraphError as error:
        explained(builder, error)
        place = builder.places.get(error.node or "")
        if place is not None:
            error.file, error.line = place.file, place.line
        raise
    builder.unseen = tuple(dict.fromkeys(_unseen(found.scope)))
    builder.keep({name: foreign(meta, builder.job) for name, meta in found.saves.items()})
    return graph


def foreign(found: object, job: str) -> Meta:
    """What another job knows of a value, its symbols renamed so that they meet none of this job's."""
    if not isinstance(found, Meta) or found.shape is None:
        return found if isinstance(found, Meta) else UNKNOWN
    renamed = tuple(
        Size(tuple((f"{name} of job {job[-6:]}", factor) for name, factor in dim.terms), dim.offset)
        if isinstance(dim, Size)
        else dim
        for dim in found.shape
    )
    return Meta(renamed, found.dtype)


def _unseen(scope: checked.Scope) -> Iterator[str]:
    """Writes that have no effect, at any depth."""
    yield from scope.schedule.unseen
    for elements in scope.bodies.values():
        for body in elements.values():
            yield from _unseen(body)


def _gives_something(scope: Scope) -> None:
    """A sub-graph of which nothing is used would run for nothing."""
    if scope.parent is None or scope.kind in ("cond", "aside", "generate") or scope.out:
        return
    node = scope.make(scope) if scope.make is not None else None
    if (isinstance(node, Grad) and node.wrt) or any(True for _ in logs_in(scope.graph())):
        return
    what = "backward() reads no gradient" if scope.kind == "grad" else f"{scope.what} saves nothing"
    hint = "call .save() on a value that is made inside, or use it after the block"
    raise at_place(TraceError(f"this {what}, so running it would have no result; {hint}"), scope.opened)


def _nothing_saved(builder: Builder) -> TelepatchError:
    what = builder.block.what if builder.block is not None else "trace"
    error = TraceError(f"this {what} saves nothing, so running it would have no result; call .save() on a value")
    return at_place(error, builder.opened)


def _no_lost_edit(builder: Builder) -> None:
    """An in-place operation on a slice that was not put back where it came from has written nothing."""
    for spelling, place in builder.edits.items():
        error = TraceError(f"this changed a copy and writes nothing; to write, say {spelling} on the site itself")
        raise at_place(error, place)
