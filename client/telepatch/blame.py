"""Errors of the checker with the author's line: of the node that they name, or the one that is being executed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from telepatch.lines import at_place, here
from telepatch_protocol.errors import CausalLoop, GraphError
from telepatch_protocol.graph import Get

if TYPE_CHECKING:
    from telepatch.builder import Builder


@contextmanager
def blaming(builder: Builder, id: str) -> Iterator[None]:
    """Errors in here get the line of the node that they name where that is not `id` itself, else the current one."""
    try:
        yield
    except GraphError as error:
        explained(builder, error)
        place = builder.places.get(error.node or "") if error.node != id else None
        raise at_place(error, place or here(), id) from None


def explained(builder: Builder, error: GraphError) -> None:
    """Put the author's line beside each node that an error names."""
    error.detail = re.sub(r"'(n\d+)'(?! \()", lambda found: found[0] + _line_of(builder, found[1]), error.detail)
    error.within = tuple(one.model_copy(update={"place": _short(builder, one.node)}) for one in error.within)
    nodes = (node for scope in builder.scopes for node in scope.nodes() if node.id == error.parent)
    if isinstance(error, CausalLoop) and any(isinstance(node, Get) and "*" in node.site for node in nodes):
        error.detail += "; to change each of several modules by its own value, write a loop over them"


def _line_of(builder: Builder, node: str) -> str:
    short = _short(builder, node)
    return "" if short is None else f" ({short})"


def _short(builder: Builder, node: str) -> str | None:
    place = builder.places.get(node)
    return None if place is None else place.short
