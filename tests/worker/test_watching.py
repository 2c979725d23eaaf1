"""What a worker tells of itself: where the time of jobs goes, what shares forwards, and nothing of what is in them."""

from __future__ import annotations

from typing import Any

import torch

from telepatch_broker.jobs import TakenJob
from telepatch_protocol.errors import TimeLimit
from telepatch_worker.desk import Outcome
from telepatch_worker.engine import Engine
from telepatch_worker.meter import Forward
from telepatch_worker.watching import Watching

MODEL = "gpt2-random"
A, B = [5, 6, 7, 8, 9], [20, 21, 22]


class Heard(Watching):
    """Remembers forwards."""

    def __init__(self) -> None:
        super().__init__()
        self.forwards: list[Forward] = []

    def forward(self, forward: Forward) -> None:
        self.forwards.append(forward)
        super().forward(forward)


def taken(id: str, waited: float | None = 0.25) -> TakenJob:
    return TakenJob(
        id, "ada", MODEL, b"{}", b"", b"", None, {}, 1, False, "", 1, 0.0, waited=waited, origin={"request": "r1"}
    )


def phases(watching: Watching) -> dict[str, tuple[int, float]]:
    found = watching.snapshot()["telepatch_worker_job_seconds"]
    return {phase: (sum(told["counts"]), told["sum"]) for phase, told in found.items()}


def test_the_time_of_a_job_is_told_by_phase():
    watching = Watching()
    watching.taken([taken("one")])
    watching.read("one", 0.5)
    watching.planned("one", 0.125)
    outcome = Outcome("one", {"x": torch.zeros(3)}, seconds=2.0)
    watching.ended(outcome)
    watching.handed_in(outcome)
    found = phases(watching)
    assert [found[phase] for phase in ("queued", "reading", "planning", "running")] == [
        (1, 0.25),
        (1, 0.5),
        (1, 0.125),
        (1, 2.0),
    ]
    assert found["handing_in"][0] == 1
    told = watching.snapshot()
    assert told["telepatch_worker_jobs_total"] == {"completed": 1}
    assert told["telepatch_worker_result_bytes_total"] == {"": 12}


def test_jobs_in_hand_are_those_that_were_taken_and_have_not_left():
    watching = Watching()
    watching.taken([taken("one"), taken("two", None), taken("three")])
    assert watching.snapshot()["telepatch_worker_jobs_in_hand"] == {"": 3}
    watching.forget("one")
    watching.handed_in(Outcome("two", None, TimeLimit("too long")))
    told = watching.snapshot()
    assert told["telepatch_worker_jobs_in_hand"] == {"": 1}
    assert told["telepatch_worker_jobs_total"] == {"time_limit": 1}


def test_a_result_that_somebody_else_has_handed_in_counts_as_lost():
    watching = Watching()
    watching.taken([taken("one")])
    watching.handed_in(Outcome("one", {"x": torch.zeros(3)}), lost=True)
    told = watching.snapshot()
    assert told["telepatch_worker_jobs_total"] == {"lost": 1}
    assert told["telepatch_worker_result_bytes_total"] == {"": 0}


def test_gauges_are_asked_whenever_somebody_looks():
    now = {"telepatch_worker_cache_bytes": {"used": 1.0}}
    watching = Watching(lambda: now)
    assert watching.snapshot()["telepatch_worker_cache_bytes"] == {"used": 1.0}
    now["telepatch_worker_cache_bytes"]["used"] = 2.0
    assert watching.snapshot()["telepatch_worker_cache_bytes"] == {"used": 2.0}


def test_a_forward_that_two_jobs_share_is_one_of_two_jobs(gpt2: Engine, build: Any):
    node = build.get("l", "lm_head:output", [":", -1])
    tasks = [build.task(MODEL, {"a": A}, node), build.task(MODEL, {"a": B}, node)]
    heard = gpt2.meter = Heard()
    gpt2.run(tasks)
    [forward] = heard.forwards
    assert set(forward.jobs) == {task.id for task in tasks}
    assert (forward.rows, forward.tokens) == (2, 2 * len(A))
    assert 0 < forward.seconds < 60
    assert phases(heard)["planning"][0] == 2


def test_every_step_of_a_generation_is_a_forward(gpt2: Engine, build: Any):
    run = {"id": "r", "generate": {"max_new_tokens": 4}, "invokes": [{"id": "a", "ids": A}]}
    task = build.task(MODEL, {}, runs=[run], saves={"tokens": "$r.tokens"})
    heard = gpt2.meter = Heard()
    gpt2.run([task])
    assert [one.tokens for one in heard.forwards][:2] == [len(A), 1]
    assert len(heard.forwards) == 4
    assert {one.jobs for one in heard.forwards} == {(task.id,)}
