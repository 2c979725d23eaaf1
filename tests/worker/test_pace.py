"""How much goes into a turn follows from how long turns have taken."""

from __future__ import annotations

from telepatch_worker.pace import BEGIN_TOKENS, LEAST_TOKENS, Pace


def test_it_begins_with_little_and_grows_while_full_turns_are_short() -> None:
    pace = Pace(4096, 0.5)
    assert pace.room == BEGIN_TOKENS
    for _ in range(4):
        pace.took(pace.room, 0.01)
    assert pace.room == 4096


def test_a_turn_that_takes_too_long_makes_the_next_as_much_smaller() -> None:
    pace = Pace(4096, 0.5)
    pace.took(512, 2.0)
    assert pace.room == 128
    pace.took(100, 0.25)
    assert pace.room == 257, "and one that was over early twice as large"


def test_it_settles_where_a_turn_takes_as_long_as_it_may() -> None:
    pace = Pace(4096, 0.5)
    for _ in range(20):
        pace.took(pace.room, 0.02 + pace.room / 1000)
    assert 430 < pace.room < 500


def test_a_turn_with_little_in_it_says_nothing_of_a_full_one() -> None:
    pace = Pace(4096, 0.5)
    for _ in range(5):
        pace.took(16, 0.01)
        pace.took(0, 5.0)
    assert pace.room == BEGIN_TOKENS


def test_something_always_goes_into_a_turn() -> None:
    for most in (4096, 10):
        pace = Pace(most, 0.5)
        for _ in range(5):
            pace.took(pace.room, 60.0)
        assert pace.room == min(LEAST_TOKENS, most)
