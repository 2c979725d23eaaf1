"""What the structure tells is found out once for a graph and its variants, and is not taken along to another one."""

from __future__ import annotations

from telepatch_protocol import wire
from telepatch_protocol.graph import Graph, SubGraph
from telepatch_protocol.structural import structural
from telepatch_protocol.subgraphs import all_nodes

DOCUMENT = {
    "protocol": [1, 0],
    "model": {"id": "tiny"},
    "runs": [{"id": "r", "invokes": [{"id": "x", "ids": "$ids"}]}],
    "nodes": [{"kind": "get", "id": "h", "site": "blocks.0:resid_post"}],
    "saves": {"out": "$h"},
    "constants": {"ids": [1, 2]},
}


def test_variants_share_what_was_found_and_other_structures_do_not():
    asked: list[Graph | SubGraph] = []

    @structural
    def count(graph: Graph | SubGraph) -> int:
        asked.append(graph)
        return len(graph.nodes)

    graph = wire.from_dict(DOCUMENT)
    variant = graph.with_constants({"ids": [3, 4, 5]})
    assert [count(graph), count(variant), count(variant.with_constants({"ids": [6]}))] == [1, 1, 1]
    assert len(asked) == 1
    longer = variant.model_copy(update={"nodes": (*variant.nodes, *variant.nodes)})
    assert [count(longer), count(variant)] == [2, 1]
    assert len(asked) == 2
    assert count(graph.with_constants({"ids": [1], "more": 2})) == 1
    assert len(asked) == 3, "other names of constants are another structure"


def test_sub_graphs_are_looked_at_each_time():
    graph = wire.from_dict(DOCUMENT)
    body = SubGraph(nodes=graph.nodes)
    assert all_nodes(body) == all_nodes(graph) == graph.nodes


def test_what_was_found_makes_no_difference_between_graphs():
    graph, same = wire.from_dict(DOCUMENT), wire.from_dict(DOCUMENT)
    assert all_nodes(graph)
    assert graph == same
    assert graph.to_dict() == same.to_dict()
