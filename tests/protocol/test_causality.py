"""Which reads and writes belong to which forward."""

from __future__ import annotations

import pytest

from telepatch_protocol.causality import Event, Schedule, schedule
from telepatch_protocol.errors import CausalLoop


def read(node: str, invoke: str, order: int, part: int = 0) -> Event:
    return Event(node, invoke, order, False, part)


def write(node: str, invoke: str, order: int, part: int = 0) -> Event:
    return Event(node, invoke, order, True, part)


def shape(plan: Schedule) -> list[tuple[tuple[str, ...], str]]:
    return [(one.invokes, " ".join(event.node for event in one.events)) for one in plan.passes]


def test_reads_without_writes_take_one_forward_in_firing_order():
    plan = schedule([read("late", "a", 9), read("early", "a", 1)], {"late": [], "early": []})
    assert shape(plan) == [(("a",), "early late")]
    assert plan.passes[0].stop == 9


def test_a_value_flows_to_a_later_site_of_another_invoke_in_the_same_forward():
    plan = schedule([read("h", "a", 2), write("w", "b", 3), read("out", "b", 9)], {"w": ["h"], "h": [], "out": []})
    assert shape(plan) == [(("a", "b"), "h w out")]


def test_a_value_flows_to_the_same_site_of_another_invoke_whichever_is_named_first():
    events = [write("w", "b", 3), read("out", "b", 9), read("h", "a", 3)]
    assert shape(schedule(events, {"w": ["h"], "h": [], "out": []})) == [(("b", "a"), "h w out")]


def test_a_late_value_written_early_in_another_invoke_takes_a_second_forward_of_that_invoke_alone():
    events = [read("h", "a", 8), write("w", "b", 3), read("first", "b", 1), read("out", "b", 9)]
    plan = schedule(events, {"w": ["h"], "h": [], "out": [], "first": []})
    assert shape(plan) == [(("a",), "h"), (("b",), "first w out")]


def test_values_may_zigzag_between_two_invokes():
    events = [
        read("a_late", "a", 8),
        write("b_early", "b", 3),
        read("b_mid", "b", 4),
        write("a_last", "a", 9),
        read("out", "a", 10),
    ]
    needs = {"a_late": [], "b_early": ["a_late"], "b_mid": [], "a_last": ["b_mid"], "out": []}
    assert shape(schedule(events, needs)) == [(("a",), "a_late"), (("a", "b"), "b_early b_mid a_last out")]


def test_computed_nodes_between_a_read_and_a_write_carry_the_dependence():
    events = [read("h", "a", 8), write("w", "b", 3), read("out", "b", 9)]
    needs = {"h": [], "double": ["h"], "w": ["double"], "out": []}
    assert [one.invokes for one in schedule(events, needs).passes] == [("a",), ("b",)]


def test_a_late_value_written_early_in_its_own_invoke_is_a_causal_loop_that_names_both():
    with pytest.raises(CausalLoop, match="second invoke") as caught:
        schedule([read("late", "a", 8), write("early", "a", 3)], {"late": [], "early": ["late"]})
    assert (caught.value.node, caught.value.parent) == ("early", "late")


def test_two_invokes_that_feed_each_other_early_from_late_are_a_causal_loop():
    events = [read("x", "a", 8), write("wa", "a", 3), read("y", "b", 8), write("wb", "b", 3)]
    with pytest.raises(CausalLoop):
        schedule(events, {"x": [], "y": [], "wa": ["y"], "wb": ["x"]})


def test_a_write_may_use_a_read_of_the_same_site_made_before_it():
    events = [read("h", "a", 3), write("w", "a", 3), read("out", "a", 3)]
    assert shape(schedule(events, {"h": [], "w": ["h"], "out": []})) == [(("a",), "h w out")]


def test_a_write_that_uses_a_read_of_the_same_site_made_after_it_is_a_causal_loop():
    with pytest.raises(CausalLoop):
        schedule([write("w", "a", 3), read("h", "a", 3)], {"h": [], "w": ["h"]})


def test_a_write_after_the_last_read_is_unseen_and_does_not_prolong_the_forward():
    plan = schedule([read("h", "a", 3), write("w", "a", 5)], {"h": [], "w": []})
    assert plan.unseen == ("w",)
    assert plan.passes[0].stop == 3


def test_a_starred_read_is_obtained_once_all_its_parts_are():
    events = [read("all", "a", 1, 0), read("all", "a", 5, 1), write("w", "b", 3), read("out", "b", 9)]
    plan = schedule(events, {"all": [], "w": ["all"], "out": []})
    assert [one.invokes for one in plan.passes] == [("a",), ("b",)]


def test_parts_read_before_a_write_that_waits_are_not_read_again():
    events = [read("h", "a", 8), read("all", "b", 1, 0), write("w", "b", 3), read("all", "b", 5, 1), read("z", "b", 2)]
    needs = {"h": [], "all": [], "w": ["h"], "z": []}
    read_events = [event for one in schedule(events, needs).passes for event in one.events if event.node == "all"]
    assert sorted(event.part for event in read_events) == [0, 1]


def test_one_invoke_a_forward_when_not_together_and_the_giver_goes_first():
    events = [write("w", "b", 3), read("out", "b", 9), read("h", "a", 3)]
    plan = schedule(events, {"w": ["h"], "h": [], "out": []}, together=False)
    assert shape(plan) == [(("a",), "h"), (("b",), "w out")]


def test_a_read_whose_index_comes_from_another_invoke_waits_for_it():
    events = [read("h", "a", 2), read("pos", "b", 8)]
    plan = schedule(events, {"h": ["pos"], "pos": []})
    assert shape(plan) == [(("b",), "pos"), (("a",), "h")] or shape(plan) == [(("a", "b"), "pos"), (("a",), "h")]


def test_a_graph_without_events_takes_no_forward():
    assert schedule([], {"x": [], "y": ["x"]}).passes == ()


def test_a_chain_of_many_invokes_is_planned_without_recursion():
    events, needs = [], {}
    for number in range(40):
        events += [write(f"w{number}", f"i{number}", 1), read(f"r{number}", f"i{number}", 5)]
        needs |= {f"w{number}": [f"r{number - 1}"] if number else [], f"r{number}": []}
    assert [one.invokes for one in schedule(events, needs).passes] == [(f"i{number}",) for number in range(40)]


def tracked(node: str, invoke: str, order: int) -> Event:
    return Event(node, invoke, order, False, 0, True)


def test_what_happens_between_forwards_feeds_the_next_one_only():
    events = [read("h", "a", 1), write("w", "a", 8), read("out", "a", 9)]
    needs = {"h": [], "g": ["h"], "w": ["g"], "out": []}
    assert shape(schedule(events, needs)) == [(("a",), "h w out")]
    assert shape(schedule(events, needs, between=["g"])) == [(("a",), "h"), (("a",), "w out")]


def test_what_needs_no_forward_happens_before_the_first():
    events = [write("w", "a", 1), read("out", "a", 9)]
    assert shape(schedule(events, {"g": [], "w": ["g"], "out": []}, between=["g"])) == [(("a",), "w out")]


def test_nodes_between_forwards_may_need_each_other():
    events = [read("h", "a", 1), read("out", "b", 9), write("w", "b", 2)]
    needs = {"h": [], "two": ["one"], "one": ["h"], "w": ["two"], "out": []}
    plan = schedule(events, needs, between=["two", "one"])
    assert shape(plan) == [(("a",), "h"), (("b",), "w out")]


def test_an_input_that_is_computed_runs_once_it_is_known():
    events = [read("z", "a", 9), read("y", "b", 9)]
    needs = {"z": [], "ids": ["z"], "y": []}
    plan = schedule(events, needs, starts={"b": ["ids"]})
    assert shape(plan) == [(("a",), "z"), (("b",), "y")]


def test_an_input_computed_from_its_own_run_is_a_causal_loop():
    with pytest.raises(CausalLoop, match="input of invoke 'a' needs the value of 'ids'") as caught:
        schedule([read("z", "a", 9)], {"z": [], "ids": ["z"]}, starts={"a": ["ids"]})
    assert (caught.value.node, caught.value.parent) == ("a", "ids")


def test_a_tracked_read_comes_by_again_in_every_forward_of_its_input_before_what_that_reads():
    events = [tracked("h", "a", 1), read("mid", "a", 3), write("w", "a", 5), read("out", "a", 9)]
    plan = schedule(events, {"h": [], "mid": [], "g": ["mid", "h"], "w": ["g"], "out": []}, between=["g"])
    assert shape(plan) == [(("a",), "h mid"), (("a",), "h w out")]
    assert [event.again for event in plan.passes[1].events] == [True, False, False]


def test_a_tracked_read_after_the_last_one_that_counts_need_not_come_by_again():
    events = [tracked("h", "a", 8), write("w", "b", 1), read("out", "b", 9), tracked("late", "b", 10)]
    plan = schedule(events, {"h": [], "w": ["h"], "out": [], "late": []})
    assert shape(plan) == [(("a",), "h"), (("b",), "w out late")]
    assert not any(event.again for one in plan.passes for event in one.events)


def test_a_read_that_is_not_tracked_happens_once():
    events = [read("h", "a", 1), read("mid", "a", 3), write("w", "a", 5), read("out", "a", 9)]
    plan = schedule(events, {"h": [], "mid": [], "g": ["mid"], "w": ["g"], "out": []}, between=["g"])
    assert shape(plan) == [(("a",), "h mid"), (("a",), "w out")]
