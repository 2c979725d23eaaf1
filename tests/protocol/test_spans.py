"""What a map goes over, and which of its elements are planned alike."""

from __future__ import annotations

import pytest

from telepatch_protocol.data import Column
from telepatch_protocol.errors import BadArgument, ShapeError
from telepatch_protocol.meta import Meta
from telepatch_protocol.sizes import Size
from telepatch_protocol.spans import Group, Span, groups, key_of, places, span_of

MOST = 1000


def grouped(*lists: object, grid: bool = False, holes: str = "", **lengths: int) -> list[Group]:
    spans = [span_of(name, found) for name, found in zip("abc", lists, strict=False)]
    return groups(spans, grid, frozenset(holes), lengths, MOST)


@pytest.mark.parametrize(
    ("found", "count", "element"),
    [
        (Meta((3, 4, 5), "float32"), 3, Meta((4, 5), "float32")),
        (Meta((3,), "int64"), 3, Meta((), "int64")),
        ([7, 8], 2, 7),
        (Column(kind="text", rows=9, longest=80), 9, ""),
    ],
)
def test_lists_values_and_data_are_taken_apart_along_their_first_axis(found: object, count: int, element: object):
    span = span_of("a", found)
    assert (span.count, span.at(0)) == (count, element)


def test_rows_of_a_ragged_column_have_a_length_of_their_own():
    element = span_of("a", Column(kind="ragged", rows=9, dtype="int64", longest=12)).element
    assert isinstance(element, Meta)
    assert element.shape is not None
    assert isinstance(element.shape[0], Size)


@pytest.mark.parametrize(
    ("found", "error", "match"),
    [
        ([], BadArgument, "empty list"),
        (5, BadArgument, "goes over a list"),
        ("text", BadArgument, "goes over a list"),
        (Meta((), "float32"), ShapeError, "has no axes"),
        (Meta((0, 4), "float32"), ShapeError, "has no elements"),
    ],
)
def test_what_has_no_elements_is_refused(found: object, error: type[Exception], match: str):
    with pytest.raises(error, match=match):
        span_of("a", found)


def test_numbers_as_indices_are_planned_alike_and_the_least_and_the_largest_stand_for_all():
    [group] = grouped([3, 9, 1, 4])
    assert group.count == 4
    assert group.samples == ((0,), (2,), (1,))


def test_numbers_in_sites_are_planned_each_for_itself():
    assert [group.count for group in grouped([0, 1, 1, 2], holes="a")] == [1, 2, 1]


def test_inputs_are_planned_alike_where_they_are_equally_long():
    assert [group.count for group in grouped([[1, 2], [3, 4], [5]])] == [2, 1]
    assert [group.count for group in grouped(["aa", "bb", "ccc"], aa=2, bb=2, ccc=3)] == [2, 1]


def test_numbers_of_different_dtypes_are_planned_apart():
    """The second element would be taken for an integer otherwise, and its digits be lost."""
    assert [group.count for group in grouped([1, 0.5, 2, True])] == [2, 1, 1]
    assert [group.count for group in grouped([[1, 2], [1.5, 2.5], [3, 4]])] == [2, 1]


def test_each_element_that_a_map_inside_goes_over_is_planned_for_itself():
    assert len(grouped([[0, 1], [2, 3], [0, 1]], holes="a")) == 2


def test_whatever_stands_in_a_site_can_be_told_apart():
    assert len({key_of(one, hole=True, lengths={}) for one in (1, True, "1", [1], 1.0)}) == 5


def test_a_grid_takes_every_combination():
    found = grouped([0, 1], [[1], [2, 3], [4]], grid=True, holes="a")
    assert [(group.key[0], group.count) for group in found] == [(0, 2), (0, 1), (1, 2), (1, 1)]


def test_the_ends_of_each_index_of_a_grid_are_looked_at_beside_the_first_of_the_others():
    [group] = grouped([5, 3], [7, 9], grid=True)
    assert set(group.samples) == {(0, 0), (1, 0), (0, 1)}


def test_lists_taken_together_are_looked_at_where_any_of_them_is_least_or_largest():
    [group] = grouped([5, 3, 4], [7, 9, 8])
    assert set(group.samples) == {(0, 0), (1, 1)}


def test_a_value_of_unknown_length_beside_a_list_has_the_lists_length():
    [group] = grouped(Meta((Size.unknown(), 4), "float32"), [1, 2, 3])
    assert group.count == 3


def test_a_value_of_unknown_length_counts_as_often_as_it_can_be():
    assert [group.count for group in grouped(Meta((Size.unknown(5),), "float32"))] == [5]
    assert [group.count for group in grouped(Meta((Size.unknown(),), "float32"))] == [MOST]


def test_places_go_side_by_side_or_through_all_combinations():
    assert list(places([2, 2], grid=False)) == [(0, 0), (1, 1)]
    assert list(places([2, 2], grid=True)) == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_only_whole_numbers_have_ends():
    assert Span("a", 2, [1, 2]).numbers
    assert not Span("a", 2, [1, True]).numbers
    assert not Span("a", 2, [1, 0.5]).numbers
