"""Which minor version of the protocol a document needs: a client says the lowest, so that older readers take it."""

from __future__ import annotations

from collections.abc import Iterator

from telepatch_protocol import PROTOCOL
from telepatch_protocol.errors import VersionError
from telepatch_protocol.graph import Graph, Repeat
from telepatch_protocol.subgraphs import all_nodes, all_runs

EDITS = MOST = 1
"""The minor versions since which there are edits, and the `most` of a repeat."""


def needed(graph: Graph) -> tuple[int, int]:
    """The lowest version whose readers understand the whole document."""
    return PROTOCOL[0], max((minor for minor, _ in _news(graph)), default=0)


def _news(graph: Graph) -> Iterator[tuple[int, str]]:
    """What a document holds that was not there from the beginning, and since when it is."""
    if graph.edits or any(invoke.edits for run in all_runs(graph) for invoke in run.invokes):
        yield EDITS, "edits are"
    if any(isinstance(node, Repeat) and node.most is not None for node in all_nodes(graph)):
        yield MOST, "'most' of a repeat is"


def labelled(graph: Graph) -> Graph:
    """The document with the version that it needs."""
    version = needed(graph)
    return graph if graph.protocol == version else graph.model_copy(update={"protocol": version})


def check_label(graph: Graph) -> None:
    """Refuse a document that says a lower version than it needs.

    Raises:
        VersionError: with the version that it would have to say.
    """
    version = needed(graph)
    if version > graph.protocol:
        what = next(what for minor, what in _news(graph) if minor == version[1])
        raise VersionError(
            f"the document says protocol {list(graph.protocol)}, and {what} there since {list(version)}; "
            f"begin it with 'protocol': {list(version)}"
        )
