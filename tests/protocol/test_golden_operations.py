"""The golden documents of operations, a promise to other languages: how each is written, and what it gives."""

from __future__ import annotations

import pytest
from tests.wire.golden import FOLDER, compact, file_of, read, sizes, written

from telepatch_protocol import wire
from telepatch_protocol.card import ModelCard
from telepatch_protocol.check import check
from telepatch_protocol.graph import Call, Graph
from telepatch_protocol.meta import Meta
from telepatch_protocol.ops import GROUPS, OPS


def calls(graph: Graph) -> list[Call]:
    return [node for node in graph.nodes if isinstance(node, Call)]


def test_the_golden_files_hold_the_operations_of_the_table_each_once_under_its_heading():
    assert {file.name for file in FOLDER.iterdir()} == {file_of(group).name for group in GROUPS}
    for group, ops in GROUPS.items():
        names = sorted((op.name for op in ops), key=str.lower)
        found = [entry["op"] for entry in read(file_of(group))]
        assert found == names, "write what is missing: python -m tests.worker.golden_operations"


@pytest.mark.parametrize("group", GROUPS)
def test_a_file_of_operations_survives_the_wire_byte_for_byte(group: str):
    entries = read(file_of(group))
    assert file_of(group).read_text() == written(entries)
    for entry in entries:
        assert wire.decode(compact(entry["document"])).to_json() == compact(entry["document"])


@pytest.mark.parametrize("group", GROUPS)
def test_a_golden_document_gives_every_argument_of_its_operation(group: str):
    for entry in read(file_of(group)):
        graph, op = wire.from_dict(entry["document"]), OPS[entry["op"]]
        assert {call.op for call in calls(graph)} == {op.name}
        assert len(calls(graph)) == len(graph.nodes)
        params = [param.name for param in op.params]
        given = {name for call in calls(graph) for name in (*params[: len(call.args)], *call.kwargs)}
        assert given == set(params), op


@pytest.mark.parametrize("group", GROUPS)
def test_a_golden_document_passes_the_check_and_gives_the_shapes_and_dtypes_that_stand_beside_it(
    group: str, card: ModelCard
):
    for entry in read(file_of(group)):
        attachment = {name: Meta(tuple(one["shape"]), one["dtype"]) for name, one in entry["attachment"].items()}
        saves = check(wire.from_dict(entry["document"]), card, attachment=attachment).saves
        assert {name: sizes(meta) for name, meta in saves.items()} == entry["gives"], entry["op"]
