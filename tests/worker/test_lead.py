"""Rank 0 leads and the other follows: the same steps, the same ends, and whatever depends on clock or chance agreed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.worker.pairs import Left, beside, two_ranks
from tests.worker.test_fit import DATA, SAVED, probe
from tests.worker.training import task as fit_task

from telepatch_protocol.errors import Cancelled, OutOfMemory, TimeLimit
from telepatch_worker import kernels, results, task_frames
from telepatch_worker.data import decode as columns
from telepatch_worker.desk import Desk, Outcome, Settled, quiet, unkept, unseen
from telepatch_worker.engine import BatchLimits, Engine, Task
from telepatch_worker.floor import Floor
from telepatch_worker.follow import Follower
from telepatch_worker.lead import Lead
from telepatch_worker.load import load
from telepatch_worker.long import Turns

GPT2 = "gpt2-random"
MODELS = Path(__file__).parents[2] / "models"
IDS = [5, 6, 7, 8, 9]


@dataclass
class Both:
    """Two engines that take the same steps, and what came of the jobs on each.

    Attributes:
        floor, turns: of rank 0.
        led, followed: how jobs ended on rank 0 and on rank 1.
        left: why a rank would have ended.
        gone: jobs that somebody has cancelled.
    """

    floor: Floor
    turns: Turns
    led: list[Outcome] = field(default_factory=list)
    followed: list[Outcome] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    gone: set[str] = field(default_factory=set)

    def run(self, *tasks: Task) -> None:
        """Run jobs to their ends."""
        self.floor.add(tasks)
        while self.floor.busy:
            self.floor.turn()

    @property
    def ended(self) -> list[tuple[Outcome, Outcome]]:
        """How jobs ended on both; known once both are over."""
        return list(zip(self.led, self.followed, strict=True))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return [load(MODELS / f"{GPT2}.toml", cache=tmp_path_factory.mktemp("cache")) for _ in range(2)]


@pytest.fixture
def both(loaded: list[Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    @contextmanager
    def made(expected: str | None = None, **limits: Any) -> Iterator[Both]:
        with two_ranks(monkeypatch) as (zero, one, left):
            sizes = BatchLimits(**limits)
            first, second = (Engine(each, sizes, accord=rank) for each, rank in zip(loaded, (zero, one), strict=True))
            found = Both(None, None, left=left)  # type: ignore[arg-type]
            desk = Desk(lambda: found.gone, quiet, unseen, unkept, Settled(found.led.append))
            lead = Lead(zero)
            follower = Follower(second, one, found.followed.append)
            with beside(follower.run) as raised:
                found.floor, found.turns = lead.floor(first, desk), lead.turns(first, desk)
                try:
                    yield found
                finally:
                    zero.end()
            first.close()
            second.close()
        assert [type(error) for error in raised] == ([] if expected is None else [Left])
        assert (expected is None and left == []) or any(expected in why for why in left)

    return made


def generation(build: Any, **settings: Any) -> Task:
    run = {"id": "r", "generate": {"max_new_tokens": 8, **settings}, "invokes": [{"id": "x", "ids": [IDS]}]}
    return build.task(GPT2, {}, runs=[run], saves={"tokens": "$r.tokens", "seed": "$r.seed"})


def test_both_ranks_run_the_same_jobs_and_rank_0_hands_them_in(both, build):
    tasks = [
        build.task(GPT2, {"a": [IDS]}, build.get("h", "transformer.h.1:output")),
        build.task(GPT2, {"a": [IDS[:3]]}, build.get("h", "transformer.h.1:output", [0, 7])),
        generation(build),
    ]
    with both() as found:
        found.run(*tasks)
    ended = found.ended
    assert len(ended) == 3
    for mine, other in ended:
        assert mine.id == other.id
        assert (mine.error is None) == (other.error is None)
        for name, value in (mine.saved or {}).items():
            assert torch.equal(other.saved[name], value)
    assert sum(mine.error is not None for mine, _ in ended) == 1


def test_tokens_drawn_without_a_seed_are_drawn_alike(both, build):
    with both() as found:
        found.run(generation(build, temperature=3.0))
    [(mine, other)] = found.ended
    assert mine.saved["seed"].item() == other.saved["seed"].item() >= 0
    assert mine.saved["tokens"].tolist() == other.saved["tokens"].tolist()


def test_a_cancellation_that_rank_0_alone_has_heard_of_stops_the_job_on_both(both, build):
    task = build.task(GPT2, {"a": [IDS]}, build.get("h", "transformer.h.1:output"))
    with both() as found:
        found.gone.add(task.id)
        found.run(task)
    [(mine, other)] = found.ended
    assert isinstance(mine.error, Cancelled)
    assert isinstance(other.error, Cancelled)


def test_time_is_over_when_it_is_over_on_rank_0(both, build, monkeypatch):
    task = generation(build)
    with both() as found:
        found.floor.add([task])
        found.floor.turn()
        [place] = found.floor._places
        place.run.limit = 0.0
        while found.floor.busy:
            found.floor.turn()
    [(mine, other)] = found.ended
    assert isinstance(mine.error, TimeLimit)
    assert isinstance(other.error, TimeLimit)


def test_a_rank_that_alone_lacks_memory_ends_the_process_and_nothing_is_handed_in(both, build, monkeypatch):
    plain, calls = kernels.KERNELS["sigmoid"], []

    def short(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise OutOfMemory("no room here")
        return plain(*args, **kwargs)

    monkeypatch.setitem(kernels.KERNELS, "sigmoid", short)
    task = build.task(GPT2, {"a": [IDS]}, build.get("h", "transformer.h.1:output"), build.call("s", "sigmoid", "$h"))
    with both("failed") as found, pytest.raises(Left):
        found.run(task)
    assert found.led == []


def test_a_fit_takes_the_same_steps_on_both_and_can_be_put_down(both):
    given = fit_task(probe(steps=300), saves=SAVED, constants=DATA)
    with both() as found:
        found.turns.add(given)
        job = found.turns.turn(0.005)
        found.turns.ask(job)
        while not job.ready:
            found.turns.turn(0.005)
        found.turns.another_slice(job)
        while found.turns.turn(1.0) is not None:
            pass
        assert len(found.turns) == 0
        again = fit_task(probe(steps=4000), saves=SAVED, constants=DATA)
        found.turns.add(again)
        found.turns.remove(found.turns.turn(0.005))
        found.turns.add(again)
        found.turns.turn(0.005)
        found.turns.put_down(5.0)
        assert len(found.turns) == 0
    [(mine, other)] = found.ended
    assert torch.equal(mine.saved["W"], other.saved["W"])
    assert int(mine.saved["steps"]) == 300


def test_jobs_are_handed_on_with_all_that_they_have(build):
    graph = build.graph(GPT2, {"a": [IDS]}, build.get("h", "transformer.h.1:output"))
    given = Task(
        "job-1",
        graph,
        tokens={"hello": [1, 2]},
        attachment={"v": torch.arange(3.0, dtype=torch.bfloat16), "w": torch.tensor(True)},
        results={("job-0", "x"): torch.ones(2, 3)[:, 1]},
        data={"ab": columns(_columns())},
        checkpoint=b"\x00\x01",
        spent=2.5,
    )
    words, body = task_frames.encode([given, Task("job-2", graph)])
    found, bare = task_frames.decode(words, body)
    assert (found.id, found.graph, found.tokens, found.checkpoint, found.spent) == (
        given.id,
        given.graph,
        given.tokens,
        given.checkpoint,
        given.spent,
    )
    assert torch.equal(found.attachment["v"], given.attachment["v"])
    assert found.attachment["w"].item() is True
    assert found.results["job-0", "x"].tolist() == [1.0, 1.0]
    for name, rows in given.data["ab"].items():
        mine = found.data["ab"][name]
        assert mine.column == rows.column
        assert [str(mine[at]) for at in range(len(rows))] == [str(rows[at]) for at in range(len(rows))]
    assert bare == Task("job-2", graph)


def _columns() -> bytes:
    text = b"onetwo"
    return results.encode(
        {
            "x": torch.arange(6.0).reshape(2, 3),
            "t.utf8": torch.frombuffer(bytearray(text), dtype=torch.uint8),
            "t.lengths": torch.tensor([3, 3]),
        }
    )
