"""Jobs on the floor: traces run between tokens, generations join those on their way, and none takes another along."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from tests.worker.generating import ids, plain
from tests.worker.test_generations import TOKENS, run, task

from telepatch_protocol.errors import ExecutionError, OutOfMemory, TooLarge
from telepatch_worker import evaluate
from telepatch_worker.desk import Desk, Outcome, Settled, always, quiet, unkept, unseen
from telepatch_worker.engine import BatchLimits
from telepatch_worker.floor import Floor
from telepatch_worker.past_price import past_bytes


class Watched:
    """A floor, how jobs on it ended, and the rows of every forward that generates."""

    def __init__(self, engine: Any, monkeypatch: pytest.MonkeyPatch, lost: set[str], proceed: Any = always) -> None:
        self.ended: dict[str, Outcome] = {}
        self.rows: list[int] = []
        whole = engine.model.whole

        def counted(inputs: Any, *args: Any, **kwargs: Any) -> Any:
            self.rows.append(inputs["input_ids"].shape[0])
            return whole(inputs, *args, **kwargs)

        monkeypatch.setattr(engine.model, "whole", counted)
        settled = Settled(lambda outcome: self.ended.__setitem__(outcome.id, outcome))
        self.floor = Floor(engine, Desk(lambda: lost, quiet, unseen, unkept, settled), proceed)

    def turns(self, count: int) -> None:
        for _ in range(count):
            self.floor.turn()

    def finish(self) -> None:
        while self.floor.busy:
            self.floor.turn()

    def tokens(self, id: str) -> list[list[int]]:
        assert self.ended[id].error is None
        return self.ended[id].saved["tokens"].tolist()


@pytest.fixture
def lost() -> set[str]:
    return set()


@pytest.fixture
def watched(gpt2: Any, monkeypatch: pytest.MonkeyPatch, lost: set[str]) -> Watched:
    return Watched(gpt2, monkeypatch, lost)


def generation(id, length=5, new=8, **settings):
    return task([run(ids(length), new, **settings)], TOKENS, id=id)


def test_a_trace_runs_between_the_tokens_of_a_generation(gpt2, build, watched):
    trace = build.task("gpt2-random", {"a": ids(6)[0]}, build.get("l", "lm_head:output", [":", -1]), id="trace")
    watched.floor.add([generation("long", new=30)])
    watched.turns(4)
    watched.floor.add([trace])
    watched.turns(1)
    assert list(watched.ended) == ["trace"]
    torch.testing.assert_close(watched.ended["trace"].saved["l"], plain(gpt2, ids(6), 1)[1][0], rtol=1e-4, atol=1e-4)
    assert watched.floor.jobs == ["long"]
    watched.finish()
    assert watched.tokens("long") == plain(gpt2, ids(5), 30)[0]


def test_a_generation_joins_those_on_their_way_and_leaves_before_them(gpt2, watched):
    watched.floor.add([generation("first", 5, 12)])
    watched.turns(3)
    watched.floor.add([generation("second", 9, 4)])
    watched.finish()
    assert list(watched.ended) == ["second", "first"]
    assert watched.rows == [1, 1, 1, 1, 1, 2, 2, 2] + [1] * 5
    assert watched.tokens("first") == plain(gpt2, ids(5), 12)[0]
    assert watched.tokens("second") == plain(gpt2, ids(9), 4)[0]


def test_exact_generations_and_those_under_eager_attention_take_turns_with_the_others(gpt2, watched):
    pattern = {"kind": "get", "id": "p", "site": "blocks.0:pattern", "invoke": "x", "step": ":"}
    exact = task([run(ids(6), 5)], TOKENS, id="exact", options={"exact": True})
    eager = task([run(ids(7), 5)], TOKENS | {"p": "$p"}, [{**pattern, "index": [":", ":", -1, 0]}], id="eager")
    watched.floor.add([exact, eager, generation("plain", 8, 5)])
    watched.finish()
    assert watched.rows == [1] * 15
    for id, length in (("exact", 6), ("eager", 7), ("plain", 8)):
        assert watched.tokens(id) == plain(gpt2, ids(length), 5)[0]
    assert gpt2.loaded.module.config._attn_implementation == "sdpa"


def test_what_a_shared_forward_raises_fails_only_the_job_that_is_the_cause(gpt2, watched, monkeypatch):
    counted = gpt2.model.whole

    def whole(inputs, *args, **kwargs):
        if (inputs["input_ids"] == 251).any():
            raise ValueError("a bad prompt")
        return counted(inputs, *args, **kwargs)

    monkeypatch.setattr(gpt2.model, "whole", whole)
    watched.floor.add([generation("early", 5, 12)])
    watched.turns(2)
    watched.floor.add([task([run([[251, 3]])], TOKENS, id="bad"), generation("a", 6), generation("b", 7)])
    watched.finish()
    assert isinstance(watched.ended["bad"].error, ExecutionError)
    assert "a bad prompt" in str(watched.ended["bad"].error)
    for id, length, new in (("early", 5, 12), ("a", 6, 8), ("b", 7, 8)):
        assert watched.tokens(id) == plain(gpt2, ids(length), new)[0]
    assert watched.rows[:5].count(1) >= 4  # the one on its way was never begun again


def test_a_trace_that_lacks_memory_beside_a_generation_runs_once_the_floor_is_empty(gpt2, build, watched, monkeypatch):
    run_op, free = evaluate.run_op, []

    def hungry(name, *args, **kwargs):
        if name == "exp" and watched.floor.jobs != ["trace"]:
            raise torch.OutOfMemoryError("out of memory")
        free.append(name)
        return run_op(name, *args, **kwargs)

    monkeypatch.setattr(evaluate, "run_op", hungry)
    nodes = build.get("h", "blocks.0:resid_post"), build.call("x", "exp", "$h")
    watched.floor.add([generation("long", new=10)])
    watched.turns(2)
    watched.floor.add([build.task("gpt2-random", {"a": [1, 2, 3]}, *nodes, id="trace")])
    watched.finish()
    assert list(watched.ended) == ["long", "trace"]
    assert watched.ended["trace"].error is None
    assert free == ["exp"]


def test_a_step_that_lacks_memory_is_taken_in_smaller_companies_down_to_one(gpt2, watched, monkeypatch):
    counted = gpt2.model.whole

    def whole(inputs, *args, **kwargs):
        if inputs["input_ids"].shape[0] > 2:
            raise torch.OutOfMemoryError("out of memory")
        return counted(inputs, *args, **kwargs)

    monkeypatch.setattr(gpt2.model, "whole", whole)
    several = task([run(ids(4, rows=3))], TOKENS, id="several")
    watched.floor.add([generation("a", 5), generation("b", 6), several, generation("c", 7)])
    watched.finish()
    assert isinstance(watched.ended["several"].error, OutOfMemory)
    for id, length in (("a", 5), ("b", 6), ("c", 7)):
        assert watched.tokens(id) == plain(gpt2, ids(length), 8)[0]


def test_a_cancelled_generation_leaves_and_one_that_waits_for_room_is_let_in(gpt2, watched, lost, monkeypatch):
    monkeypatch.setattr(gpt2, "limits", BatchLimits(rows=1))
    watched.floor.add([generation("long", new=60), generation("next", 6)])
    watched.turns(3)
    assert watched.rows == [1, 1, 1]
    lost.add("long")
    watched.finish()
    assert watched.ended["long"].error is not None
    assert watched.tokens("next") == plain(gpt2, ids(6), 8)[0]


def test_time_on_the_floor_counts_only_while_a_job_takes_part(gpt2, build, watched, monkeypatch):
    forward = gpt2.model.forward

    def slow(*args, **kwargs):
        time.sleep(0.2)
        return forward(*args, **kwargs)

    monkeypatch.setattr(gpt2.model, "forward", slow)
    watched.floor.add([generation("long", new=4)])
    watched.turns(1)
    watched.floor.add([build.task("gpt2-random", {"a": [1, 2]}, build.get("l", "lm_head:output"), id="trace")])
    watched.finish()
    assert watched.ended["trace"].seconds >= 0.2 > watched.ended["long"].seconds > 0


def test_caches_stay_within_their_bytes_and_what_will_never_fit_is_refused_with_the_numbers(gpt2, watched, monkeypatch):
    one = past_bytes(gpt2.loaded.module.config, torch.float32, 1, 5 + 8)
    monkeypatch.setattr(gpt2, "cache_bytes", 2 * one)
    watched.floor.add([generation("huge", 5, 200), *(generation(f"g{at}") for at in range(3))])
    huge = past_bytes(gpt2.loaded.module.config, torch.float32, 1, 5 + 200)
    assert isinstance(watched.ended["huge"].error, TooLarge)
    assert f"{huge:,}" in str(watched.ended["huge"].error)
    assert f"{2 * one:,}" in str(watched.ended["huge"].error)
    watched.finish()
    assert max(watched.rows) == 2
    assert [watched.tokens(f"g{at}") for at in range(3)] == [plain(gpt2, ids(5), 8)[0]] * 3


def test_a_computed_prompt_that_does_not_fit_is_refused_as_it_comes(gpt2, watched, monkeypatch):
    most = past_bytes(gpt2.loaded.module.config, torch.float32, 1, 20)
    monkeypatch.setattr(gpt2, "cache_bytes", most)
    double = {"kind": "call", "id": "p", "op": "cat", "args": [["$q.tokens", "$q.tokens", "$q.tokens"], 1]}
    chain = [run(ids(4), 8, id="q", invoke="y"), run("$p", 2)]
    watched.floor.add([task(chain, TOKENS, [double])])
    watched.finish()
    assert isinstance(watched.ended["job"].error, TooLarge)
    assert "take" in str(watched.ended["job"].error)
    assert watched.rows == [1] * 8
