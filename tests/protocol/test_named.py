"""Named tensors held against what a model takes: names, shapes, numbers of rows, kinds of numbers."""

from __future__ import annotations

from typing import Any

import pytest

from telepatch_protocol.card import InputCard, ModelCard, Pixels
from telepatch_protocol.check import check
from telepatch_protocol.errors import BadArgument, DtypeError, GraphError, ShapeError, TooLarge, UnknownName
from telepatch_protocol.graph import Graph
from telepatch_protocol.inputs import Input
from telepatch_protocol.meta import Meta
from telepatch_protocol.price import price
from telepatch_protocol.sizes import Size

IMAGE = InputCard(axes=("row", 3, 8, 6), pixels=Pixels(mean=(0.5,) * 3, std=(0.5,) * 3))
SERIES = InputCard(axes=("row", "pos", 4))
CODES = InputCard(axes=("row", "pos"), dtype="int64", below=9, optional=True)


@pytest.fixture
def vision(card: ModelCard) -> ModelCard:
    return card.model_copy(update={"id": "eye", "kind": "vision", "inputs": {"pixel_values": IMAGE}, "tokenizer": None})


@pytest.fixture
def module(card: ModelCard) -> ModelCard:
    return card.model_copy(update={"id": "own", "kind": "module", "inputs": {"x": SERIES, "codes": CODES}})


def checked(card: ModelCard, inputs: dict[str, Any], **attached: Meta) -> Any:
    document = {
        "protocol": [1, 0],
        "model": {"id": card.id},
        "runs": [{"id": "r", "invokes": [{"id": "a", "inputs": inputs}]}],
        "nodes": [{"kind": "get", "id": "h", "site": "layers.0:output", "invoke": "a"}],
        "saves": {"h": "$h"},
    }
    return check(Graph.model_validate(document), card, attachment=attached)


def size(card: ModelCard, *shape: int, dtype: str = "float32") -> Input:
    (name, *_) = card.inputs
    return checked(card, {name: {"tensor": "t"}}, t=Meta(shape, dtype)).inputs["a"]


def test_an_image_has_rows_and_counts_as_one_position(vision: ModelCard):
    assert size(vision, 5, 3, 8, 6) == Input(5, 1)
    assert size(vision, 3, 8, 6) == Input(1, 1)
    assert size(vision, 5, 3, 8, 6, dtype="uint8") == Input(5, 1)
    assert size(vision, 5, 3, 8, 6, dtype="float64") == Input(5, 1)
    found = checked(vision, {"pixel_values": {"tensor": "t"}}, t=Meta((5, 3, 8, 6), "uint8"))
    assert price(found, vision).rows == 5
    assert price(found, vision).tokens == 5


def test_patches_of_an_image_count_in_its_price_alone(vision: ModelCard):
    patched = vision.model_copy(update={"inputs": {"pixel_values": IMAGE.model_copy(update={"positions": 12})}})
    found = checked(patched, {"pixel_values": {"tensor": "t"}}, t=Meta((5, 3, 8, 6), "uint8"))
    assert found.inputs["a"].length == 1
    assert price(found, patched).tokens == 5 * 13
    plain = checked(vision, {"pixel_values": {"tensor": "t"}}, t=Meta((5, 3, 8, 6), "uint8"))
    assert price(found, patched).peak_bytes == price(plain, vision).peak_bytes


def test_what_a_decoder_is_given_has_a_length_of_its_own(card: ModelCard):
    text = InputCard(axes=("row", "pos"), dtype="int64", below=9)
    own = InputCard(axes=("row", "target"), dtype="int64", below=9)
    both = card.model_copy(update={"kind": "module", "inputs": {"x": text, "y": own, "z": own}})
    ids = {name: {"tensor": name} for name in ("x", "y", "z")}
    metas = {"x": Meta((2, 7), "int64"), "y": Meta((2, 3), "int64")}
    found = checked(both, ids, **metas, z=Meta((2, 3), "int64"))
    assert found.inputs["a"] == Input(2, 7, 3)
    assert price(found, both).tokens == 2 * 10
    with pytest.raises(ShapeError, match="different numbers of target positions: 3 in 'y', 4 in 'z'"):
        checked(both, ids, **metas, z=Meta((2, 4), "int64"))
    with pytest.raises(ShapeError, match="gives the decoder has 4000 positions"):
        checked(both, ids, x=metas["x"], y=Meta((2, 4000), "int64"), z=Meta((2, 4000), "int64"))


def test_series_have_the_length_that_they_come_with(module: ModelCard):
    assert size(module, 2, 7, 4) == Input(2, 7)
    given = {"x": {"tensor": "x"}, "codes": {"tensor": "c"}}
    both = checked(module, given, x=Meta((2, 7, 4), "float32"), c=Meta((2, 7), "int16"))
    assert both.saves["h"].shape == (2, 7, 8)


def test_sizes_that_are_not_known_yet_stay_open(module: ModelCard):
    rows, length = Size.symbol("n"), Size.symbol("m")
    found = checked(module, {"x": {"tensor": "t"}}, t=Meta((rows, length, 4), "float32")).inputs["a"]
    assert (found.rows, found.length) == (rows, length)
    unknown = checked(module, {"x": {"tensor": "t"}}, t=Meta(None, None)).inputs["a"]
    assert isinstance(unknown.rows, Size)


def test_lists_of_numbers_are_tensors_too(module: ModelCard):
    assert checked(module, {"x": [[[1, 2, 3, 4]], [[0, 0.5, 0, 0]]]}).inputs["a"] == Input(2, 1)
    assert checked(module, {"x": [[[1, 2, 3, 4]]]}).inputs["a"] == Input(1, 1)


@pytest.mark.parametrize(
    ("shape", "dtype", "kind", "says"),
    [
        ((5, 3, 8, 7), "float32", ShapeError, r"'pixel_values' has shape \(rows, 3, 8, 6\), found \(5, 3, 8, 7\)$"),
        ((5, 8, 6, 3), "uint8", ShapeError, r"found \(5, 8, 6, 3\); channels come before .*transpose\(0, 3, 1, 2\)"),
        ((8, 6, 3), "uint8", ShapeError, r"transpose\(2, 0, 1\)"),
        ((8, 6), "uint8", ShapeError, r"found \(8, 6\)$"),
        ((0, 3, 8, 6), "uint8", ShapeError, "is empty"),
        ((5, 3, 8, 6), "int64", DtypeError, r"as uint8 \(0 to 255, which are normalised\) or as floats .*found int64"),
        ((5, 3, 8, 6), "bool", DtypeError, "takes float32, found bool; convert it to floating point"),
        ((5000, 3, 8, 6), "uint8", TooLarge, "5000 rows; the limit is"),
    ],
)
def test_images_that_the_model_cannot_take_are_refused(
    vision: ModelCard, shape: tuple[int, ...], dtype: str, kind: type[GraphError], says: str
):
    with pytest.raises(kind, match=says):
        size(vision, *shape, dtype=dtype)


@pytest.mark.parametrize(
    ("inputs", "kind", "says"),
    [
        ({"y": [[[1.0] * 4]]}, UnknownName, "model 'own' takes no 'y'; it takes x float32"),
        ({"code": [[1]], "x": [[[1.0] * 4]]}, UnknownName, r"did you mean 'codes'\?"),
        ({"codes": [[1]]}, BadArgument, r"lacks 'x'; model 'own' takes x float32 \(rows, length, 4\), codes int64"),
        ({}, BadArgument, "gives no tensor; model 'own' takes x float32"),
        ({"x": 3.5}, BadArgument, r"'x' is a tensor of shape \(rows, length, 4\); found 3.5"),
        ({"x": "hello"}, BadArgument, "found 'hello'"),
        ({"x": [[[1.0] * 4], [[1.0] * 3]]}, BadArgument, "ragged"),
        ({"x": [[[1.0] * 4]], "codes": [[1], [2]]}, ShapeError, "different numbers of rows: 1 in 'x', 2 in 'codes'"),
        ({"x": [[[1.0] * 4]], "codes": [[1, 2]]}, ShapeError, "numbers of positions: 1 in 'x', 2 in 'codes'"),
        ({"x": [[[1.0] * 4]], "codes": [[1.5]]}, DtypeError, "'codes' takes int64, found float32"),
        ({"x": "$nowhere"}, UnknownName, "refers to nothing"),
        ({"x": [[[1.0] * 4] * 65]}, ShapeError, "has 65 positions; model 'own' takes 1 to 64"),
    ],
)
def test_named_tensors_that_do_not_fit_are_refused(
    module: ModelCard, inputs: dict[str, Any], kind: type[GraphError], says: str
):
    with pytest.raises(kind, match=says):
        checked(module, inputs)


def test_tokens_and_named_tensors_each_belong_to_their_own_models(card: ModelCard, vision: ModelCard):
    with pytest.raises(BadArgument, match=r"invoke 'a' gives named tensors; model 'tiny' takes t"):
        checked(card, {"pixel_values": [[1.0]]})
    document = {
        "protocol": [1, 0],
        "model": {"id": "eye"},
        "runs": [{"id": "r", "invokes": [{"id": "a", "text": "hello"}]}],
        "nodes": [{"kind": "get", "id": "h", "site": "layers.0:output", "invoke": "a"}],
        "saves": {"h": "$h"},
    }
    with pytest.raises(BadArgument, match=r"gives text; model 'eye' takes pixel_values float32 \(rows, 3, 8, 6\)"):
        check(Graph.model_validate(document), vision)
