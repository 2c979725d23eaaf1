"""Loops let others go first: nobody's trace waits until somebody's loop has ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.worker.test_compound import repeat

from telepatch_worker.desk import Desk, Outcome, Settled, quiet, unkept, unseen
from telepatch_worker.engine import Engine, Task
from telepatch_worker.floor import Floor

MODEL = "gpt2-random"
STEPS = 60_000


class Room:
    """A floor, and how jobs on it ended, in order."""

    def __init__(self, engine: Engine, room: Callable[[], int] | None = None) -> None:
        self.ended: list[Outcome] = []
        desk = Desk(set, quiet, unseen, unkept, Settled(self.ended.append))
        if room is not None:
            desk = Desk(set, quiet, unseen, unkept, Settled(self.ended.append), room)
        self.floor = Floor(engine, desk)

    def until(self, count: int, turns: int = 100_000) -> int:
        """Turns until so many have ended."""
        for turn in range(turns):
            if len(self.ended) >= count:
                return turn
            self.floor.turn()
        raise AssertionError(f"after {turns} turns {len(self.ended)} have ended")


def looping(build: Any, steps: int = STEPS) -> Task:
    nodes = [build.call("half", "mul", "$y", 0.5), build.call("more", "add", "$half", 1.0)]
    node = repeat(steps, {"y": 0.0}, nodes, {"y": "$more"})
    return build.task(MODEL, {}, node, saves={"y": "$r.y"})


def trace(build: Any) -> Task:
    return build.task(MODEL, {"a": [5, 6, 7]}, build.get("l", "lm_head:output", [":", -1]))


def test_a_trace_does_not_wait_for_a_loop_without_forwards(gpt2: Engine, build: Any) -> None:
    room, loop, visitor = Room(gpt2), looping(build, 30_000), trace(build)
    room.floor.add([loop])
    room.floor.turn()
    room.floor.add([visitor])
    assert room.until(1) <= 2
    assert [one.id for one in room.ended] == [visitor.id]
    room.until(2)
    assert room.ended[1].saved is not None
    assert room.ended[1].saved["y"].item() == 2.0


def test_a_loop_over_what_was_read_waits_for_the_forward_to_be_over(gpt2: Engine, build: Any) -> None:
    nodes = [build.call("half", "mul", "$y", 0.5), build.call("more", "add", "$half", "$h")]
    loop = repeat(STEPS, {"y": "$h"}, nodes, {"y": "$more"})
    get = build.get("h", "blocks.1:resid_post", [":", -1])
    task = build.task(MODEL, {"a": [5, 6, 7]}, get, loop, saves={"y": "$r.y", "h": "$h"})
    room, visitor = Room(gpt2), trace(build)
    room.floor.add([task])
    room.floor.turn()
    room.floor.add([visitor])
    room.until(2)
    found = {one.id: one.saved for one in room.ended}
    assert [one.id for one in room.ended] == [visitor.id, task.id]
    torch.testing.assert_close(found[task.id]["y"], 2 * found[task.id]["h"])


def test_a_loop_that_a_write_of_the_same_forward_needs_runs_inside_it(gpt2: Engine, build: Any) -> None:
    nodes = [build.call("half", "mul", "$y", 0.5), build.call("more", "add", "$half", "$h")]
    loop = repeat(60, {"y": "$h"}, nodes, {"y": "$more"})
    get = build.get("h", "blocks.1:resid_post", [":", -1])
    put = build.set("blocks.1:resid_post", "$r.y", [":", -1])
    last = build.get("z", "blocks.1:resid_post", [":", -1])
    task = build.task(MODEL, {"a": [5, 6, 7]}, get, loop, put, last, saves={"z": "$z", "h": "$h"})
    [outcome] = gpt2.run([task])
    assert outcome.saved is not None, outcome.error
    torch.testing.assert_close(outcome.saved["z"], 2 * outcome.saved["h"])


def test_many_loops_share_the_time_of_a_turn(gpt2: Engine, build: Any) -> None:
    room = Room(gpt2)
    room.floor.add([looping(build, 100_000) for _ in range(20)])
    for _ in range(2):
        room.floor.turn()
    began = time.perf_counter()
    room.floor.turn()
    assert time.perf_counter() - began < 20 * 0.05


@pytest.mark.parametrize(("room", "forwards"), [(30, 10), (300, 1)])
def test_a_map_runs_as_many_elements_at_once_as_go_into_a_turn(
    gpt2: Engine, build: Any, monkeypatch: pytest.MonkeyPatch, room: int, forwards: int
) -> None:
    nodes = [build.get("z", "lm_head:output", [":", -1, 0], invoke="x")]
    body = {"nodes": nodes, "runs": [{"id": "rr", "invokes": [{"id": "x", "ids": "$p"}]}], "out": {"z": "$z"}}
    over = {"p": [[1 + at, 2, 3] for at in range(100)]}
    task = build.task(MODEL, {}, {"kind": "map", "id": "f", "over": over, "body": body}, saves={"z": "$f.z"})
    calls: list[int] = []
    forward = gpt2.model.forward

    def counted(inputs: dict[str, Any], *args: Any, **more: Any) -> None:
        calls.append(inputs["input_ids"].shape[0])
        forward(inputs, *args, **more)

    monkeypatch.setattr(gpt2.model, "forward", counted)
    found = Room(gpt2, lambda: room)
    found.floor.add([task])
    found.until(1)
    assert len(calls) == forwards
    assert found.ended[0].saved is not None
    assert found.ended[0].saved["z"].shape == (100, 1)
