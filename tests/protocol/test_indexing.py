"""Indices as data: how they read from the wire, and what shape they give."""

from __future__ import annotations

import pytest
from pydantic import JsonValue

from telepatch_protocol import refs
from telepatch_protocol.errors import BadArgument, GraphError
from telepatch_protocol.indexing import Slice, parse, refs_of, result_shape
from telepatch_protocol.meta import Meta
from telepatch_protocol.sizes import Dim, Size, most

N = Size.symbol("n")
KNOWN: dict[str, object] = {
    "i": 3,
    "part": "1:-1",
    "several": [0, 2],
    "n": N,
    "size": Meta((), "int64", N),
    "computed": Meta((), "int64"),
    "mask": Meta((4,), "bool"),
    "float": Meta((4,), "float32"),
    "byte": Meta((4,), "uint8"),
    "half": 0.5,
    "yes": True,
    "self": "$i",
}


def lookup(ref: refs.Ref) -> object:
    return KNOWN[ref.id]


@pytest.mark.parametrize(
    ("item", "element"),
    [
        (0, 0),
        (-1, -1),
        (None, None),
        ("...", ...),
        (":", Slice()),
        ("1:", Slice(1)),
        (":-1", Slice(None, -1)),
        ("0:8:2", Slice(0, 8, 2)),
        ("$i:$n", Slice(3, N)),
        (":$size", Slice(None, N)),
        ([0, 2], [0, 2]),
        ([[0], [1]], [[0], [1]]),
        ([True, False], [True, False]),
        ("$i", 3),
        ("$part", Slice(1, -1)),
        ("$several", [0, 2]),
        ("$mask", KNOWN["mask"]),
    ],
)
def test_an_element_of_an_index_reads_from_json(item: JsonValue, element: object) -> None:
    assert parse([item], lookup) == (element,)


@pytest.mark.parametrize(
    ("item", "match"),
    [
        (True, "True is no index"),
        (1.5, "1.5 is no index"),
        ("all", "'all' is no index"),
        ("1:2:3:4", "is no index"),
        ("1:a", "is no index"),
        ([0, True], "only integers or only booleans"),
        ([0, 1.5], "only integers or only booleans"),
        (["$i"], "only integers or only booleans"),
        ([[0], [1, 2]], "ragged"),
        ({"range": [0, 2]}, "is no index"),
        ("$float", r"a float32 value is no index; convert it with .to\('int64'\)"),
        ("$byte", "a uint8 value is no index"),
        ("$half", "0.5 is no index"),
        ("$yes", "True is no index"),
        ("$self", "refers to nothing"),
        ("$mask:", "the end of a slice is one integer; found bool"),
        (":$half", "the end of a slice is one integer; found 0.5"),
    ],
)
def test_what_is_no_index_is_refused(item: JsonValue, match: str) -> None:
    with pytest.raises(GraphError, match=match):
        parse([item], lookup)


def test_references_inside_an_index_are_found_in_order() -> None:
    found = refs_of([0, "$a", "$b.values:$c", [1, 2], None, "::$d"])
    assert [str(ref) for ref in found] == ["$a", "$b.values", "$c", "$d"]
    assert refs_of(None) == []


def test_the_end_of_a_slice_that_is_computed_is_unknown() -> None:
    (found,) = parse([":$computed"], lookup)
    assert isinstance(found, Slice)
    assert isinstance(found.stop, Size)


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([0], (N, 8)),
        ([":", -1], (4, 8)),
        ([":", "1:"], (4, N - 1, 8)),
        ([":", "1:-1"], (4, N - 2, 8)),
        ([":", "-1:"], (4, 1, 8)),
        ([":", ":1"], (4, 1, 8)),
        ([":", [0, 1, 2]], (4, 3, 8)),
        (["...", [0, 1], [2, 3]], (4, 2)),
        ([[0, 1], ":", [2, 3]], (2, N)),
        ([0, ":", [2, 3]], (N, 2)),
        ([None, "...", None], (1, 4, N, 8, 1)),
        ([[True, False, True, True]], (3, N, 8)),
        ([[]], (0, N, 8)),
    ],
)
def test_the_shape_that_an_index_gives_follows_where_a_length_is_unknown(
    items: list[JsonValue], expected: tuple[Dim, ...]
) -> None:
    assert result_shape((4, N, 8), parse(items, lookup), "x") == expected


@pytest.mark.parametrize(("item", "bound"), [(":5", 5), ("-5:", 5), ("-5:-2", 3), ("2:5", 3), ("::2", 7)])
def test_a_slice_that_may_reach_past_a_short_input_is_bounded_but_not_known(item: str, bound: int) -> None:
    (found,) = result_shape((N,), parse([item], lookup), "x")
    assert isinstance(found, Size)
    assert most(found, {"n": 7}) == bound


def test_a_slice_backwards_is_refused_with_what_works() -> None:
    with pytest.raises(BadArgument, match="steps are positive \\(use flip to reverse\\)"):
        result_shape((4,), (Slice(None, None, -1),), "x")
