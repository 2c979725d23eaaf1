"""Logs: small values told as they are computed, wherever they stand."""

from __future__ import annotations

import pytest

from telepatch_protocol.errors import TooLarge
from telepatch_protocol.graph import Log
from telepatch_worker.engine import Task

GPT2 = "gpt2-random"
IDS = [5, 6, 7, 8]


def log(id: str, **values: object) -> dict:
    return {"kind": "log", "id": id, "values": values}


@pytest.fixture
def heard():
    """What jobs tell, as it comes."""
    return []


@pytest.fixture
def told(gpt2, build, heard):
    """What a job logs, and what it saves."""

    def of(*nodes: dict, inputs: dict | None = None, **more: object) -> tuple[list[dict], dict]:
        task = build.task(GPT2, {"a": IDS} if inputs is None else inputs, *nodes, **{"protocol": [1, 1], **more})
        [outcome] = gpt2.run([task], values=lambda job, values: heard.append(values))
        if outcome.error is not None:
            raise outcome.error
        return [one for one in heard if "log" in one], outcome.saved

    return of


def test_a_log_tells_values_with_its_line_while_the_forward_still_runs(told, heard, build, gpt2, monkeypatch):
    forward = gpt2.model.forward
    monkeypatch.setattr(gpt2.model, "forward", lambda *a, **k: (forward(*a, **k), heard.append("over")))
    h, norm = build.get("h", "blocks.0:resid_post", [":", -1]), build.call("n", "norm", "$h")
    _, saved = told(log("l", norm="$n", three=3), h, norm, saves={"n": "$n"}, lines={"l": "study.py:7"})
    values = {"norm": pytest.approx(float(saved["n"])), "three": 3}
    assert heard == [{"log": "l", "line": "study.py:7", "at": [], "values": values}, "over"]


def test_a_job_may_log_and_save_nothing(gpt2, build):
    h = build.get("h", "blocks.0:resid_post", [0, -1, [0, 1]])
    plain = build.task(GPT2, {"a": IDS}, h)
    graph = plain.graph.model_copy(update={"nodes": (*plain.graph.nodes, Log(id="l", values={"h": "$h"})), "saves": {}})
    found = []
    saved, none = gpt2.run([plain, Task("only", graph)], values=lambda job, values: found.append((job, values)))
    assert (none.error, none.saved) == (None, {})
    assert found == [("only", {"log": "l", "line": "", "at": [], "values": {"h": saved.saved["h"].tolist()}})]


def test_in_maps_repeats_and_choices_logs_say_which_element_and_time_they_are_of(told):
    body = {"nodes": [log("l", k="$k", step="$step", y="$y")], "out": {"y": "$y"}}
    twice = {"kind": "repeat", "id": "w", "n": 2, "carry": {"y": 0}, "body": body}
    odd = {"nodes": [log("odd", k="$k")], "out": {"value": "$k"}}
    choice = {"kind": "cond", "id": "c", "if": "$one", "then": odd, "else": 0}
    one = {"kind": "call", "id": "one", "op": "remainder", "args": ["$k", 2]}
    out = {"nodes": [twice, one, choice], "out": {"c": "$c"}}
    found, _ = told({"kind": "map", "id": "m", "over": {"k": [7, 8]}, "body": out}, inputs={}, saves={"c": "$m.c"})
    assert sorted((one["log"], one["at"], one["values"]["k"]) for one in found) == [
        ("l", [0, 0], 7), ("l", [0, 1], 7), ("l", [1, 0], 8), ("l", [1, 1], 8), ("odd", [0], 7),
    ]  # fmt: skip


def test_in_a_generation_logs_are_told_at_every_step_at_which_their_values_exist(told, build):
    late = build.get("late", "blocks.1:resid_post", [0, -1, 0], step="2:")
    nodes = [build.get("t", ":token"), log("l", token="$t"), late, log("some", h="$late")]
    run = {"id": "r", "invokes": [{"id": "a", "ids": IDS}], "generate": {"max_new_tokens": 4}, "each": {"nodes": nodes}}
    found, saved = told(inputs={}, runs=[run], saves={"t": "$r.tokens"})
    by = {name: [one["at"] for one in found if one["log"] == name] for name in ("l", "some")}
    assert by == {"l": [[0], [1], [2], [3]], "some": [[2], [3]]}
    assert [one["values"]["token"] for one in found if one["log"] == "l"] == [[t] for t in saved["t"][0].tolist()]


def test_a_value_that_turns_out_too_large_is_refused(told, build):
    h = build.get("h", "blocks.0:resid_post")
    nodes = [h, build.call("mask", "ge", "$h", -1e9), build.call("picked", "masked_select", "$h", "$mask")]
    with pytest.raises(TooLarge, match=r"'p' is (told|logged) with 1,536 numbers; at most 1,024 are"):
        told(*nodes, log("l", p="$picked"), inputs={"a": IDS * 8}, saves={"m": "$mask"})
