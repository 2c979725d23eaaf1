"""Ranges of bytes."""

from __future__ import annotations

import pytest

from telepatch_server.ranges import Unsatisfiable, matches, part_of


@pytest.mark.parametrize(
    ("header", "part"),
    [
        (None, None), ("bytes=0-0", (0, 1)), ("bytes=2-", (2, 10)), ("bytes=2-99", (2, 10)), ("bytes=-3", (7, 10)),
        ("bytes=-99", (0, 10)), ("bytes = 1 - 2", (1, 3)), ("bytes=5-2", None), ("bytes=0-1,3-4", None),
        ("bytes=-", None), ("lines=1-2", None), ("bytes=a-b", None),
    ],
)  # fmt: skip
def test_a_range_is_read_as_the_rfc_says(header: str | None, part: tuple[int, int] | None) -> None:
    assert part_of(header, 10) == part


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=10-12", "bytes=-0"])
def test_a_range_outside_is_unsatisfiable(header: str) -> None:
    with pytest.raises(Unsatisfiable):
        part_of(header, 10)


def test_of_an_empty_body_there_is_no_part() -> None:
    with pytest.raises(Unsatisfiable):
        part_of("bytes=0-", 0)


@pytest.mark.parametrize(
    ("header", "found"),
    [(None, False), ('"a"', True), ('W/"a"', True), ('"b", "a"', True), ("*", True), ('"b"', False)],
)
def test_a_body_is_known_by_its_name(header: str | None, found: bool) -> None:
    assert matches(header, '"a"') is found
    assert matches(header, 'W/"a"') is found
