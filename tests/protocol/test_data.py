"""Columns of uploads as a graph sees them: tensors are values, the others only rows."""

from __future__ import annotations

from typing import Any

import pytest

from telepatch_protocol.card import ModelCard
from telepatch_protocol.check import Checked, check
from telepatch_protocol.data import Column, Columns, Upload
from telepatch_protocol.errors import BadArgument, GraphError, ShapeError, UnknownName
from telepatch_protocol.meta import Meta
from telepatch_protocol.sizes import Size
from telepatch_protocol.wire import from_dict

PAIRS, ONE, IDS = "a" * 64, "b" * 64, "c" * 64
TENSOR = Column(kind="tensor", rows=3, dtype="float32", tail=(8,))
RAGGED = Column(kind="ragged", rows=3, dtype="int64", longest=5, total=9)
TEXT = Column(kind="text", rows=3, longest=12, total=20)
DATA = {
    PAIRS: Columns({"x": TENSOR, "ids": RAGGED, "text": TEXT}),
    ONE: Columns({"x": TENSOR}),
    IDS: Columns({"i": RAGGED}),
}


def checked(card: ModelCard, *arguments: Any, constants: dict[str, Any] | None = None, **changes: Any) -> Checked:
    """A graph that adds these."""
    document = {
        "protocol": [1, 0],
        "model": {"id": card.id},
        "constants": constants or {"pairs": {"data": PAIRS}, "one": {"data": ONE}, "ids": {"data": IDS}},
        "runs": [],
        "nodes": [{"kind": "call", "id": "n", "op": "add", "args": list(arguments)}],
        "saves": {"n": "$n"},
        "lines": {"n": "study.py:7"},
        **changes,
    }
    return check(from_dict(document), card, data=DATA)


def test_one_column_is_the_constant_and_several_are_its_outputs(card: ModelCard):
    assert checked(card, "$one", "$pairs.x").saves["n"] == Meta((3, 8), "float32")
    assert checked(card, {"data": ONE}, 1).saves["n"] == Meta((3, 8), "float32")
    assert checked(card, "$one", 1, saves={"x": "$pairs.x"}).saves["x"] == Meta((3, 8), "float32")
    found = checked(card, "$one", 1).values
    assert found["ids"] == RAGGED
    assert found["pairs"] == {"x": Meta((3, 8), "float32"), "ids": RAGGED, "text": TEXT}


@pytest.mark.parametrize(
    ("argument", "error", "said"),
    [
        ("$ids", BadArgument, "ragged int64 column of 3 rows.*map or fit.*a tensor"),
        ("$pairs.text", BadArgument, "text column of 3 rows.*map or fit.*a text"),
        (["$pairs.ids"], BadArgument, "map or fit"),
        ({"data": IDS}, BadArgument, "map or fit"),
        ({"data": PAIRS}, BadArgument, r"several columns: x, ids, text.*\$name.column"),
        ("$pairs", UnknownName, r"\$pairs.x, \$pairs.ids, \$pairs.text"),
        ("$pairs.y", UnknownName, r"\$pairs.x"),
        ("$one.x", UnknownName, "no output 'x'"),
        ({"data": "d" * 64}, UnknownName, "PUT /v1/data/d{64}"),
        ({"data": "D" * 64}, BadArgument, "64 of 0-9 a-f"),
        ({"data": 5}, BadArgument, "found 5"),
    ],
)
def test_what_is_no_tensor_is_refused_at_its_line(card: ModelCard, argument: Any, error: type[GraphError], said: str):
    with pytest.raises(error, match=said) as caught:
        checked(card, argument, 1)
    assert (caught.value.file, caught.value.line) == ("study.py", 7)


@pytest.mark.parametrize(
    "changes",
    [
        {"saves": {"x": "$ids"}},
        {"nodes": [{"kind": "call", "id": "n", "op": "index", "args": ["$one", ["$ids"]]}]},
        {"runs": [{"id": "r", "invokes": [{"id": "a", "ids": "$ids"}]}]},
        {"runs": [{"id": "r", "invokes": [{"id": "a", "text": "$pairs.text"}]}]},
    ],
)
def test_saves_indices_and_inputs_take_no_such_column_either(card: ModelCard, changes: dict[str, Any]):
    with pytest.raises(BadArgument, match="map or fit"):
        checked(card, "$one", 1, **changes)


def test_the_shape_of_a_column_is_held_against_what_it_meets(card: ModelCard):
    with pytest.raises(ShapeError):
        checked(card, "$one", [1, 2, 3])


def test_a_row_is_described_without_its_values():
    assert (len(TENSOR), TENSOR.row()) == (3, Meta((8,), "float32"))
    assert (RAGGED.row(), RAGGED.row(2)) == (Meta((5,), "int64"), Meta((2,), "int64"))
    assert RAGGED.row(Size.symbol("len(row)")) == Meta((Size.symbol("len(row)"),), "int64")
    assert (TEXT.row(), TEXT.whole, RAGGED.whole) == (None, None, None)


def test_descriptions_cross_the_wire_as_json():
    upload = Upload(sha256=PAIRS, bytes=100, received=100, columns=DATA[PAIRS], created=1.0)
    back = Upload.model_validate_json(upload.model_dump_json(exclude_none=True))
    assert back == upload
    assert back.columns is not None
    assert (back.columns.names, back.columns.rows, back.columns["ids"]) == (("x", "ids", "text"), 3, RAGGED)
