"""Documents: golden files of every kind, and bytes that are no documents."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telepatch_protocol import PROTOCOL, wire
from telepatch_protocol.card import ModelCard
from telepatch_protocol.check import check
from telepatch_protocol.data import Column, Columns
from telepatch_protocol.errors import ProtocolError, TelepatchError, VersionError
from telepatch_protocol.graph import EXECUTED, KINDS, Graph
from telepatch_protocol.meta import Meta

WIRE = Path(__file__).parents[1] / "wire"
GOLDEN = WIRE / "1.0"
LATER = WIRE / "1.1" / "repeat_most.json"
FILES = [*sorted(GOLDEN.glob("*.json")), WIRE / "1.1" / "log.json", LATER]
RUN_HERE = {"get", "set", "call", "module", "log", "grad", "map", "repeat", "cond", "fit"}
BASE = Column(kind="text", rows=64, longest=20, total=900)
LABEL = Column(kind="tensor", rows=64, dtype="int64", tail=(1,))
DATA = {"1" * 64: Columns({"base": BASE, "label": LABEL})}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


def text_of(name: str) -> str:
    return next(file for file in FILES if file.stem == name).read_text()


def golden(name: str) -> Graph:
    return wire.decode(text_of(name))


def test_a_field_that_is_wrong_is_told_with_the_authors_line():
    document = {"protocol": [1, 0], "model": {"id": "m"}, "saves": {}, "nodes": [{"kind": "get", "id": "h", "site": 5}]}
    with pytest.raises(ProtocolError) as refusal:
        wire.from_dict({**document, "lines": {"h": "study.py:7"}})
    assert (refusal.value.node, refusal.value.file, refusal.value.line) == ("h", "study.py", 7)
    for lines in (5, None, {"h": 5}, {"h": "study.py:²"}):
        with pytest.raises(ProtocolError):
            wire.from_dict({**document, "lines": lines})


def test_there_is_a_golden_file_for_every_kind_of_node():
    assert set(KINDS) <= {file.stem for file in FILES}
    for kind in KINDS:
        assert kind in {node.kind for node in golden(kind).nodes}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_golden_file_survives_the_wire_unchanged(file: Path):
    graph = wire.decode(file.read_bytes())
    assert json.loads(graph.to_json()) == json.loads(file.read_text())
    assert wire.decode(graph.to_json()) == graph


@pytest.mark.parametrize("name", ["map_nested", "map_data", "grad_edit", "input_computed"])
def test_a_golden_file_of_a_kind_in_company_passes_the_check(name: str, card: ModelCard):
    prompts = Column(kind="ragged", rows=4, dtype="int64", longest=9)
    labels = Column(kind="tensor", rows=4, dtype="int64")
    data = {"ab" * 32: Columns({"prompts": prompts, "labels": labels})}
    assert set(check(golden(name), card, data=data).saves) == set(golden(name).saves)


@pytest.mark.parametrize("name", sorted(RUN_HERE))
def test_a_golden_file_of_an_executed_kind_passes_the_check(name: str, card: ModelCard):
    assert name in EXECUTED
    assert set(check(golden(name), card, data=DATA).saves) == set(golden(name).saves)


def test_a_document_with_most_says_the_version_that_has_it(card: ModelCard):
    document = json.loads(LATER.read_text())
    assert set(check(wire.from_dict(document), card).saves) == {"y"}
    with pytest.raises(VersionError, match=r"repeats with 'most' are there since \[1, 1\]"):
        wire.from_dict({**document, "protocol": [1, 0]})


def test_the_golden_generation_passes_the_check(card: ModelCard):
    card = card.model_copy(update={"tokenizer": "0" * 64})
    saves = check(golden("generate"), card, attachment={"w": Meta((8,), "float32")}).saves
    assert set(saves) == set(golden("generate").saves)


def test_the_structure_key_ignores_constants_and_lines_and_sees_everything_else():
    graph = golden("get")
    same = graph.model_copy(update={"constants": {**graph.constants, "layer": 3, "prompt": "other"}, "lines": {}})
    assert same.structure_key == graph.structure_key
    other = graph.model_copy(update={"saves": {"h": "$h"}})
    assert other.structure_key != graph.structure_key


@pytest.mark.parametrize("version", [None, [1], [2, 0], [1, PROTOCOL[1] + 1], "1.0", [1, -1], [True, 0], [1.0, 0]])
def test_a_version_that_is_not_spoken_is_refused(version: object):
    document = {**json.loads((GOLDEN / "get.json").read_text()), "protocol": version}
    with pytest.raises(VersionError, match="protocol"):
        wire.from_dict(document)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"nodes": [{"kind": "gett", "id": "a"}]}, "kinds: get, set"),
        ({"nodes": [{"kind": "get", "id": "a b", "site": "x:output"}]}, r"nodes\.0"),
        ({"nodes": [{"kind": "get", "id": "a", "site": "x:output", "when": 1}]}, "when"),
        ({"extra": 1}, "extra"),
        ({"runs": [{"id": "r", "invokes": [{"id": "x"}]}]}, "exactly one of text, ids"),
        ({"runs": [{"id": "r", "invokes": [{"id": "x", "text": "a", "ids": [1]}]}]}, "found text, ids"),
        ({"model": {"id": ""}}, "model"),
    ],
)
def test_what_is_wrong_with_a_document_is_named(change: dict, says: str):
    document = {**json.loads((GOLDEN / "get.json").read_text()), **change}
    with pytest.raises(ProtocolError, match=says):
        wire.from_dict(document)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "NaN",
        '{"a": NaN}',
        '{"a": Infinity}',
        '{"a":1,"a":2}',
        "[" * 5000,
        '{"a":' * 300 + "1" + "}" * 300,
        "9" * 5000,
        "\ud800",
    ],
)
def test_text_that_is_no_document_raises_a_protocol_error(text: str):
    with pytest.raises(ProtocolError):
        wire.decode(text)


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_no_bytes_make_the_decoder_do_anything_but_refuse(data: bytes):
    with pytest.raises(ProtocolError):
        wire.decode(data)


@given(
    st.sampled_from(FILES),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=4),
)
@settings(max_examples=300, deadline=None)
def test_a_document_with_changed_bytes_is_a_graph_or_a_protocol_error(file: Path, changes: list[tuple[int, int]]):
    data = bytearray(file.read_bytes())
    for place, byte in changes:
        data[place % len(data)] = byte
    with contextlib.suppress(ProtocolError):
        assert isinstance(wire.decode(bytes(data)), Graph)


@given(
    st.sampled_from(FILES),
    st.sampled_from(["runs", "nodes", "saves", "constants", "options", "model", "lines"]),
    json_values,
)
@settings(max_examples=300, deadline=None)
def test_a_document_with_any_json_in_a_field_is_a_graph_that_checks_or_is_refused_by_name(
    file: Path, field: str, value: object
):
    document = {**json.loads(file.read_text()), field: value}
    try:
        graph = wire.from_dict(document)
    except ProtocolError:
        return
    assert isinstance(graph, Graph)


@given(st.sampled_from(sorted(RUN_HERE)), st.data())
@settings(max_examples=300, deadline=None)
def test_a_document_with_any_json_inside_a_node_checks_or_raises_an_error_of_ours(
    card: ModelCard, name: str, data: st.DataObject
):
    document = json.loads(text_of(name))
    node = data.draw(st.sampled_from(document["nodes"]))
    field = data.draw(st.sampled_from(sorted(node)))
    node[field] = data.draw(json_values)
    with contextlib.suppress(TelepatchError):
        check(wire.from_dict(document), card)
