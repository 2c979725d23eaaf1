"""Text of others, as it may reach a terminal or a log."""

from __future__ import annotations

import unicodedata

import pytest

from telepatch_protocol.printable import MOST, printable, short


def test_every_control_but_tab_and_line_feed_is_spelled_out() -> None:
    for code in range(0xA0):
        found = printable(chr(code))
        assert (found == chr(code)) is (unicodedata.category(chr(code)) != "Cc" or chr(code) in "\t\n"), code
    assert printable("\x1b[2J\x9b\x7f") == "\\x1b[2J\\x9b\\x7f"


@pytest.mark.parametrize(
    "mark", ["\u202a", "\u202e", "\u2066", "\u2069", "\u200e", "\u200f", "\u061c", "\u200b", "\ufeff", "\ud800"]
)
def test_marks_that_turn_text_round_or_cannot_be_seen_are_spelled_out(mark: str) -> None:
    assert printable(f"a{mark}b") == f"a\\u{ord(mark):04x}b"


def test_one_line_stays_one() -> None:
    assert printable("a\nb\tc", lines=False) == "a\\nb\\tc"
    assert printable("a\r\nb\u2028c\x85d").count("\n") == 1


def test_a_long_text_is_cut_where_nobody_reads_on() -> None:
    assert short("x" * MOST) == "x" * MOST
    assert short("x" * (MOST + 1)).endswith("x...")
    assert len(short("x" * 10**6)) == MOST
