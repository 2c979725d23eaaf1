"""Edits as documents: golden files, and what no edit can be."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telepatch_protocol import wire
from telepatch_protocol.card import ModelCard
from telepatch_protocol.errors import (
    BadArgument,
    GraphError,
    ProtocolError,
    TooLarge,
    UnknownName,
    UnknownSite,
    VersionError,
)
from telepatch_protocol.fragments import MAX_BYTES, MAX_NODES, Fragment
from telepatch_protocol.trial import check_edit

GOLDEN = Path(__file__).parents[1] / "wire" / "1.1"
EDIT = (GOLDEN / "edit.json").read_text()


def edit(**changes: Any) -> dict[str, Any]:
    return {**json.loads(EDIT), **changes}


def changed(at: int, **changes: Any) -> dict[str, Any]:
    """The golden edit with one node changed."""
    nodes = edit()["nodes"]
    nodes[at] |= changes
    return edit(nodes=nodes)


def test_the_golden_edit_survives_the_wire_unchanged():
    found = wire.decode_edit(EDIT)
    assert found.to_dict() == json.loads(EDIT)
    assert wire.edit_from_dict(found.to_dict()) == found


def test_the_golden_graph_that_applies_edits_survives_the_wire_unchanged():
    text = (GOLDEN / "edits.json").read_text()
    graph = wire.decode(text)
    assert json.loads(graph.to_json()) == json.loads(text)
    assert set(wire.edits_of(graph)) == {"clip-0.1"}


def test_a_document_with_edits_that_says_an_older_version_is_refused():
    document = json.loads((GOLDEN / "edits.json").read_text()) | {"protocol": [1, 0]}
    with pytest.raises(VersionError, match=r"edits are there since \[1, 1\]"):
        wire.from_dict(document)
    with pytest.raises(ProtocolError, match="since protocol"):
        wire.edit_from_dict(edit(protocol=[1, 0]))


def test_an_edit_that_a_document_brings_along_is_read_as_strictly_and_named():
    document = json.loads((GOLDEN / "edits.json").read_text())
    document["edits"]["clip-0.1"]["nodes"][0]["when"] = 1
    with pytest.raises(ProtocolError, match=r"edit 'clip-0.1': nodes\.0.*when"):
        wire.from_dict(document)


@pytest.mark.parametrize(
    ("document", "kind", "says"),
    [
        (edit(saves={"h": "$h"}), ProtocolError, "saves nothing, and has no 'saves'"),
        (edit(runs=[]), ProtocolError, "runs nothing, and has no 'runs'"),
        (edit(extra=1), ProtocolError, "extra"),
        (edit(protocol=[1, 2]), VersionError, "not spoken"),
        (edit(nodes=edit()["nodes"][:3]), BadArgument, "writes to no site"),
        (changed(0, invoke="a"), BadArgument, "leave out 'invoke'"),
        (changed(3, step=1), BadArgument, "leave out 'step'"),
        (changed(1, args=["$direction", "$other"]), UnknownName, r"'\$other' refers to nothing in the edit"),
        (changed(0, site="blocks.{other}:resid_post"), UnknownName, "other"),
        (changed(1, id="h"), BadArgument, "two things of the edit have the id 'h'"),
        (changed(1, id="scale"), BadArgument, "two things of the edit have the id 'scale'"),
        (changed(1, id="step"), BadArgument, "'step' stands for the count"),
        (edit(arguments={**edit()["arguments"], "bad": {"default": "$h"}}), BadArgument, "a default is a constant"),
        (changed(1, kind="grad", of="$h", wrt=["$h"], op=None), ProtocolError, "op"),
    ],
)
def test_what_is_no_edit_is_refused_by_name(document: dict[str, Any], kind: type[GraphError], says: str):
    with pytest.raises(kind, match=says):
        wire.edit_from_dict(document)


def test_an_edit_asks_for_no_gradients_and_runs_nothing_inside():
    grad = {"kind": "grad", "id": "g", "of": "$h", "wrt": ["$h"]}
    with pytest.raises(BadArgument, match="holds no 'grad'") as caught:
        wire.edit_from_dict(edit(nodes=[*edit()["nodes"], grad], lines={"g": "steering.py:9"}))
    assert (caught.value.node, caught.value.file, caught.value.line) == ("g", "steering.py", 9)
    body = {"runs": [{"id": "r", "invokes": [{"id": "x", "ids": [1]}]}], "out": {"a": 1}}
    loop = {"kind": "map", "id": "m", "over": {"k": [1, 2]}, "body": body}
    with pytest.raises(BadArgument, match="runs nothing"):
        wire.edit_from_dict(edit(nodes=[*edit()["nodes"], loop]))


def test_an_edit_has_limits():
    nodes = edit()["nodes"]
    many = [{"kind": "call", "id": f"n{at}", "op": "relu", "args": ["$h"]} for at in range(MAX_NODES)]
    with pytest.raises(TooLarge, match=f"at most {MAX_NODES}"):
        wire.edit_from_dict(edit(nodes=[*nodes, *many]))
    with pytest.raises(TooLarge, match="Tensors in it are uploads"):
        wire.decode_edit(json.dumps(edit(constants={"last": -1, "long": "x" * MAX_BYTES})))


def test_an_edit_is_checked_as_if_it_were_applied(card: ModelCard):
    check_edit(wire.decode_edit(EDIT), card)
    with pytest.raises(UnknownSite, match="layers") as caught:
        check_edit(wire.edit_from_dict(edit(arguments={**edit()["arguments"], "layer": {"default": 9}})), card)
    assert caught.value.node == "h"
    with pytest.raises(GraphError, match=r"cannot be written") as caught:
        check_edit(wire.edit_from_dict(changed(3, value=[1, 2, 3])), card)
    assert (caught.value.node, caught.value.file, caught.value.line) == ("w", "steering.py", 4)
    with pytest.raises(BadArgument, match="'layer' picks a module, so give it a default"):
        check_edit(wire.edit_from_dict(edit(arguments={**edit()["arguments"], "layer": {}})), card)
    with pytest.raises(BadArgument, match="revision"):
        check_edit(wire.edit_from_dict(edit(model={"id": "tiny", "revision": "r0"})), card)


def test_errors_of_a_check_speak_of_the_edits_own_nodes(card: ModelCard):
    with pytest.raises(GraphError) as caught:
        check_edit(wire.edit_from_dict(changed(2, args=["$push", "$w"])), card)
    assert caught.value.detail == "nodes 'w' and 'moved' need each other's values"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_any_json_inside_an_edit_checks_or_raises_an_error_of_ours(card: ModelCard, data: st.DataObject):
    document = edit()
    target = data.draw(st.sampled_from([document, *document["nodes"], document["arguments"]]))
    target[data.draw(st.sampled_from(sorted(target)))] = data.draw(json_values)
    with contextlib.suppress(GraphError):
        found = wire.edit_from_dict(document)
        assert isinstance(found, Fragment)
        check_edit(found, card)
