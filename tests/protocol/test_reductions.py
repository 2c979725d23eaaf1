"""What the outputs of a map will be."""

from __future__ import annotations

from typing import Any

import pytest

from telepatch_protocol.errors import BadArgument, DtypeError, ShapeError
from telepatch_protocol.graph import Map, SubGraph
from telepatch_protocol.meta import Meta
from telepatch_protocol.reductions import Part, reduced
from telepatch_protocol.sizes import Size, most


def outputs(how: str | None, *parts: tuple[Meta, int], lead: tuple[int, ...] | None = None, **more: Meta) -> Any:
    reduce: Any = {} if how is None else {"v": how}
    node = Map(id="m", over={"k": [1]}, body=SubGraph(), reduce=reduce)
    made = [Part({"v": meta, **more}, count) for meta, count in parts]
    return reduced(node, made, lead or (sum(count for _, count in parts),))


def floats(*shape: Any, dtype: str = "float32") -> Meta:
    return Meta(shape, dtype)


def test_stacked_outputs_get_the_maps_axes_in_front():
    assert outputs(None, (floats(2, 3), 6))["v"] == floats(6, 2, 3)
    assert outputs("stack", (floats(2), 6), lead=(2, 3))["v"] == floats(2, 3, 2)


def test_concatenated_outputs_have_the_length_of_all_and_tell_each_ones():
    found = outputs("cat", (floats(2, 3), 4), (floats(5, 3), 1))
    assert found["v"] == floats(13, 3)
    assert found["v.lengths"] == floats(5, dtype="int64")


@pytest.mark.parametrize(
    ("how", "dtype", "becomes"),
    [
        ("sum", "bfloat16", "float32"),
        ("sum", "float64", "float64"),
        ("sum", "int32", "int64"),
        ("sum", "bool", "int64"),
        ("mean", "int64", "float32"),
        ("mean", "float64", "float64"),
        ("max", "bfloat16", "bfloat16"),
        ("min", "int32", "int32"),
    ],
)
def test_sums_and_means_count_in_dtypes_that_keep_their_digits(how: str, dtype: str, becomes: str):
    assert outputs(how, (floats(2, dtype=dtype), 3))["v"] == floats(2, dtype=becomes)


def test_masks_have_no_largest():
    with pytest.raises(DtypeError, match="mask"):
        outputs("max", (floats(2, dtype="bool"), 3))


@pytest.mark.parametrize("how", [None, "sum", "max"])
def test_elements_of_different_shapes_are_refused_where_they_have_to_be_alike(how: str | None):
    with pytest.raises(ShapeError, match=r"\(2,\) and \(3,\)"):
        outputs(how, (floats(2), 1), (floats(3), 1))


def test_values_without_axes_cannot_be_concatenated():
    with pytest.raises(ShapeError, match="has no axes"):
        outputs("cat", (floats(), 3))


def test_groups_whose_elements_differ_are_refused_or_promised_no_length():
    """An index sets the size: the least and the largest stand for all, and those between are not known."""
    node = Map(id="m", over={"k": [1]}, body=SubGraph(), reduce={"v": "cat"})
    parts = [Part({"v": floats(1)}, 3), Part({"v": floats(4)}, 3, first=False)]
    total = reduced(node, parts, (3,))["v"].shape[0]  # type: ignore[index]
    assert isinstance(total, Size)
    assert (most(total) or 0) >= 3 * 4
    stack = node.model_copy(update={"reduce": {}})
    with pytest.raises(ShapeError, match=r"\(1,\) and \(4,\)"):
        reduced(stack, parts, (3,))


def test_samples_that_give_the_same_say_nothing_new():
    node = Map(id="m", over={"k": [1]}, body=SubGraph(), reduce={"v": "cat"})
    parts = [Part({"v": floats(2)}, 3), Part({"v": floats(2)}, 3, first=False)]
    assert reduced(node, parts, (3,))["v"] == floats(6)


def test_a_weighted_output_needs_a_weight_of_one_number():
    assert outputs("weighted", (floats(2), 3), weight=floats())["v"] == floats(2)
    with pytest.raises(BadArgument, match="no output 'weight'"):
        outputs("weighted", (floats(2), 3))
    with pytest.raises(ShapeError, match=r"one number; found float32 \(2\)"):
        outputs("weighted", (floats(2), 3), weight=floats(2))


def test_a_reduction_of_nothing_is_refused_with_what_there_is():
    node = Map(id="m", over={"k": [1]}, body=SubGraph(), reduce={"w": "sum"})
    with pytest.raises(BadArgument, match="'w', which is no output; there are: v"):
        reduced(node, [Part({"v": floats(2)}, 3)], (3,))


def test_elements_of_different_dtypes_have_none_that_is_known():
    assert outputs(None, (floats(2), 1), (floats(2, dtype="int64"), 1))["v"] == Meta((2, 2), None)
