"""What was used last stays."""

from __future__ import annotations

from telepatch_protocol.newest import Newest


def test_what_was_used_longest_ago_goes_first_and_use_makes_young():
    newest: Newest[str, int] = Newest(2)
    newest.put("a", 1)
    newest.put("b", 2)
    assert newest.get("a") == 1
    newest.put("c", 3)
    assert [newest.get(key) for key in "abc"] == [1, None, 3]


def test_values_count_by_their_weight_and_one_that_is_too_heavy_is_not_kept():
    newest: Newest[str, int] = Newest(10)
    newest.put("a", 1, 4)
    newest.put("b", 2, 5)
    newest.put("huge", 3, 11)
    assert [newest.get(key) for key in ("a", "b", "huge")] == [1, 2, None]
    newest.put("c", 4, 6)
    assert [newest.get(key) for key in "abc"] == [None, None, 4]


def test_a_key_again_takes_the_place_of_the_earlier_value():
    newest: Newest[str, int] = Newest(3)
    for value in range(5):
        newest.put("a", value, 2)
    newest.put("b", 7)
    newest.drop("a")
    newest.put("c", 8, 2)
    assert [newest.get(key) for key in "abc"] == [None, 7, 8]
