"""Documents that are read a second time are the same as if they were read for the first."""

from __future__ import annotations

import json

import pytest
from tests.wire.golden import compact

from telepatch_protocol import reading, wire
from telepatch_protocol.errors import ProtocolError
from telepatch_protocol.reading import Reader

DOCUMENT = {
    "protocol": [1, 0],
    "model": {"id": "tiny"},
    "runs": [{"id": "r", "invokes": [{"id": "x", "ids": "$ids"}]}],
    "nodes": [{"kind": "get", "id": "h", "site": "blocks.{layer}:resid_post"}],
    "saves": {"out": "$h"},
    "constants": {"ids": [1, 2], "layer": 0},
    "lines": {"h": "a.py:1"},
}


def variant(**constants: object) -> str:
    return compact(DOCUMENT | {"constants": DOCUMENT["constants"] | constants})


def test_a_structure_is_looked_at_once_and_every_document_has_its_own_constants(monkeypatch: pytest.MonkeyPatch):
    read: list[object] = []
    monkeypatch.setattr(reading, "from_dict", lambda found: read.append(found) or wire.from_dict(found))
    reader = Reader()
    for layer in range(5):
        text = variant(layer=layer)
        assert reader.decode(text) == wire.decode(text)
        assert reader.decode(text).structure_key == wire.decode(text).structure_key
    assert len(read) == 1


@pytest.mark.parametrize("change", [{"lines": {"h": "b.py:2"}}, {"saves": {"other": "$h"}}, {"model": {"id": "big"}}])
def test_another_structure_is_another_document(change: dict):
    reader = Reader()
    reader.decode(compact(DOCUMENT))
    assert reader.decode(compact(DOCUMENT | change)) == wire.decode(compact(DOCUMENT | change))


def test_other_names_of_constants_are_looked_at_like_everything_else():
    reader = Reader()
    reader.decode(compact(DOCUMENT))
    with pytest.raises(ProtocolError, match="constants"):
        reader.decode(variant(**{"no name": 1}))
    assert reader.decode(variant(other=1)).structure_key != reader.decode(variant()).structure_key


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch):
    read: list[object] = []
    monkeypatch.setattr(reading, "from_dict", lambda found: read.append(found) or wire.from_dict(found))
    reader = Reader(characters=700)
    for name in "abcdabcd":
        reader.decode(compact(DOCUMENT | {"saves": {name: "$h"}}))
    assert len(read) == 8


def test_a_document_is_written_as_it_came_with_its_own_constants():
    reader = Reader()
    for layer in range(3):
        graph = reader.decode(variant(layer=layer))
        assert json.loads(reading.text_of(graph)) == json.loads(variant(layer=layer))
        assert wire.decode(reading.text_of(graph)) == graph
    moved = graph.model_copy(update={"saves": {"other": "$h"}})
    assert wire.decode(reading.text_of(moved)) == moved
