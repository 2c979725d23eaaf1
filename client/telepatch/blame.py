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
    starred = next((node.site for node in nodes if isinstance(node, Get) and "*" in node.site), None)
    if isinstance(error, CausalLoop) and starred is not None:
        error.detail += (
            "; the stack of several modules is whole only once the last has run. To change each of them by its own "
            f"value, write a loop over them: {_loop(starred)}"
        )


def _loop(site: str) -> str:
    """The writes of a starred site, one by one, as the author would spell them."""
    path, _, port = site.partition(":")
    before, _, after = path.partition(".*")
    own = f"one{after}.{port}"
    return f"for one in model.{before}: {own} = {own} * 0.5"


def _line_of(builder: Builder, node: str) -> str:
    short = _short(builder, node)
    return "" if short is None else f" ({short})"


def _short(builder: Builder, node: str) -> str | None:
    place = builder.places.get(node)
    return None if place is None else place.short
