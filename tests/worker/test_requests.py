"""Works that need requests fulfilled, side by side."""

from __future__ import annotations

import gc

import pytest

from telepatch_worker.requests import at_once, together


def asking(name, times, log):
    """Work that asks so often, for its own name and the number of the time."""
    try:
        for at in range(times):
            yield [f"{name}{at}"]
        log.append(f"{name} done")
        return name
    finally:
        log.append(f"{name} closed")


def rounds(work):
    return list(work)


def test_works_side_by_side_ask_at_once_and_drop_out_as_they_end():
    log: list[str] = []
    assert rounds(together([asking("a", 2, log), asking("b", 1, log), asking("c", 0, log)])) == [["a0", "b0"], ["a1"]]
    assert [one for one in log if one.endswith("done")] == ["c done", "b done", "a done"]


def test_a_round_in_which_nobody_asks_for_anything_is_passed_on_so_that_others_can_go_first():
    def idle():
        yield []
        yield ["x"]

    assert rounds(together([idle()])) == [[], ["x"]]


def test_a_work_that_fails_closes_those_beside_it():
    log: list[str] = []

    def failing():
        yield ["f"]
        raise ValueError("no")

    work = together([asking("a", 5, log), failing()])
    assert next(work) == ["a0", "f"]
    with pytest.raises(ValueError, match="no"):
        next(work)
    gc.collect()
    assert log == ["a closed"]


def test_works_that_are_given_up_are_closed():
    log: list[str] = []
    work = together([asking("a", 5, log), asking("b", 5, log)])
    next(work)
    work.close()
    gc.collect()
    assert sorted(log) == ["a closed", "b closed"]


def test_the_result_of_work_that_needs_nothing_is_had_at_once():
    assert at_once(asking("a", 0, [])) == "a"
    with pytest.raises(AssertionError, match="asked for another forward"):
        at_once(asking("a", 1, []))
