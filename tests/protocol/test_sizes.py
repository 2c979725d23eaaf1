"""Sizes that are not known yet: arithmetic, bounds, and how they broadcast."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telepatch_protocol.sizes import Dim, Size, broadcast, fits_into, least, most, most_elements, product, substitute

N, M = Size.symbol("n"), Size.symbol("m")
bounded = settings(max_examples=100, deadline=None, derandomize=True, database=None)


@bounded
@given(st.integers(1, 9), st.integers(1, 9), st.integers(-3, 3), st.integers(-3, 3), st.integers(-3, 3))
def test_arithmetic_on_sizes_is_arithmetic_on_what_they_stand_for(n: int, m: int, a: int, b: int, c: int) -> None:
    found = N * a + M * b + Size.symbol("other") - Size.symbol("other") - c + N - 1
    a, c = a + 1, c + 1
    if isinstance(found, int):
        assert found == -c
        return
    assert substitute(found, {"n": n, "m": m}) == max(0, n * a + m * b - c)
    assert most(found, {"n": n, "m": m}) == max(0, n * a + m * b - c)


def test_sizes_that_cancel_leave_a_number() -> None:
    assert N - N == 0
    assert 5 - (N - N) == 5
    assert (N + 3) - N == 3
    assert N * 0 == 0


def test_equal_expressions_are_equal_sizes() -> None:
    assert N + M - 1 == M - 1 + N
    assert N != M
    assert Size.unknown() != Size.unknown()


@pytest.mark.parametrize(
    ("size", "text"),
    [(N, "n"), (N - 1, "n-1"), (N * 2 + M, "m+2*n"), (M - N, "m-n"), (-N, "-n"), (Size.unknown(), "?")],
)
def test_a_size_reads_as_its_expression(size: Dim, text: str) -> None:
    assert repr(size) == text


def test_a_named_length_is_at_least_one_and_one_that_depends_on_data_may_be_zero() -> None:
    assert least(N) == 1
    assert least(N + 2) == 3
    assert least(N - 2) == 0
    assert least(M - N) == 0
    assert least(Size.unknown(4) + 1) == 1


def test_what_a_mask_picks_is_bounded_by_what_it_picks_from() -> None:
    picked = Size.unknown(N, 4)
    assert most(picked) is None
    assert most(picked, {"n": 3}) == 12
    assert most(picked * 2 + 1, {"n": 3}) == 25
    assert most(Size.unknown()) is None


def test_elements_are_bounded_even_where_one_axis_is_empty() -> None:
    assert most_elements((Size.unknown(), 0)) == 0
    assert most_elements((N, 2)) is None
    assert most_elements((N, 2), {"n": 5}) == 10


def test_the_product_of_two_unknown_sizes_keeps_their_bounds() -> None:
    assert most(product((N, M, 2)), {"n": 3, "m": 5}) == 30


def test_part_of_the_lengths_may_be_put_in() -> None:
    assert substitute(N + M - 1, {"n": 4}) == M + 3


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        (((N, 1), (4,)), (N, 4)),
        (((N, 3), (1, 3)), (N, 3)),
        (((N,), (5,)), (5,)),
        (((2, 3), (2, 4)), None),
        (((0,), (1,)), (0,)),
        ((), ()),
    ],
)
def test_shapes_broadcast(shapes: tuple[tuple[Dim, ...], ...], expected: tuple[Dim, ...] | None) -> None:
    assert broadcast(*shapes) == expected


def test_two_different_unknown_sizes_broadcast_to_one_that_is_bounded() -> None:
    found = broadcast((N,), (M,))
    assert found is not None
    assert most(found[0], {"n": 1, "m": 7}) == 7


@pytest.mark.parametrize(
    ("shape", "region", "fits"),
    [
        ((), (2, 3), True),
        ((3,), (2, 3), True),
        ((1, 1, 3), (2, 3), True),
        ((2, 1), (2, 3), True),
        ((N, 3), (2, 3), True),
        ((2,), (2, 3), False),
        ((4, 2, 3), (2, 3), False),
        ((2, 3), (1, 3), False),
    ],
)
def test_a_value_fits_into_a_region_if_it_broadcasts_to_it(
    shape: tuple[Dim, ...], region: tuple[Dim, ...], fits: bool
) -> None:
    assert fits_into(shape, region) is fits
