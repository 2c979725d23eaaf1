"""Which minor version of the protocol a document needs: a client says the lowest, so that older readers take it."""

from __future__ import annotations

from collections.abc import Iterator

from telepatch_protocol import PROTOCOL
from telepatch_protocol.errors import VersionError
from telepatch_protocol.graph import Graph, Log, Repeat
from telepatch_protocol.subgraphs import all_nodes, all_runs

_SETTINGS = ("min_p", "repetition_penalty", "no_repeat_ngram_size", "min_new_tokens")
SINCE = {"edits": 1, "adapters": 1, "logs": 1, "repeats with 'most'": 1, "the settings " + ", ".join(_SETTINGS): 1}
"""The minor version since which there is something, by its name."""


def _used(graph: Graph) -> Iterator[str]:
    """What of it a document uses."""
    runs, nodes = all_runs(graph), all_nodes(graph)
    if graph.edits or any(invoke.edits for run in runs for invoke in run.invokes):
        yield "edits"
    settings = (run.generate.model_fields_set for run in runs if run.generate is not None)
    if any(not found.isdisjoint(_SETTINGS) for found in settings):
        yield "the settings " + ", ".join(_SETTINGS)
    if graph.options.adapter is not None:
        yield "adapters"
    if any(isinstance(node, Log) for node in nodes):
        yield "logs"
    if any(isinstance(node, Repeat) and node.most is not None for node in nodes):
        yield "repeats with 'most'"


def needed(graph: Graph) -> tuple[int, int]:
    """The lowest version whose readers understand the whole document."""
    return PROTOCOL[0], max((SINCE[name] for name in _used(graph)), default=0)


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
        late = next(name for name in _used(graph) if SINCE[name] > graph.protocol[1])
        raise VersionError(
            f"the document says protocol {list(graph.protocol)}, and {late} are there since {list(version)}; "
            f"begin it with 'protocol': {list(version)}"
        )
