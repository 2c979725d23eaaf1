"""What the structure of a graph alone tells is found out once, for it and for all its variants.

Variants differ in their constants and share everything else, down to the objects, so that what was found of one holds
for all: which nodes there are, which of them train, what is attached.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TypeVar

from telepatch_protocol.graph import Graph, SubGraph

T = TypeVar("T")


def structural(work: Callable[[Graph | SubGraph], T]) -> Callable[[Graph | SubGraph], T]:
    """A function of a graph's structure that is called once for a graph and its variants (`Graph.with_constants`).

    Args:
        work: may read everything of a graph but the values of its constants; what it gives nobody changes. Sub-graphs
            are looked at each time.

    Example:
        >>> @structural
        ... def count(graph: Graph | SubGraph) -> int:
        ...     return len(graph.nodes)
    """

    @wraps(work)
    def found(graph: Graph | SubGraph) -> T:
        if not isinstance(graph, Graph):
            return work(graph)
        noted: dict[object, T] = graph.noted
        if work not in noted:
            noted[work] = work(graph)
        return noted[work]

    return found
