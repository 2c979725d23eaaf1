"""Those who come while a job trains go on in the pauses of its steps, and neither changes what comes of the other."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from tests.worker.test_backward import leaf
from tests.worker.test_fit import PROMPTS, normal
from tests.worker.training import call, fit, get, put, runs, task, trained

from telepatch_protocol.jobs import new_job_id
from telepatch_worker import visitors as module
from telepatch_worker.desk import Desk, Outcome, Settled, quiet, unkept, unseen
from telepatch_worker.engine import Engine, Task
from telepatch_worker.floor import Floor
from telepatch_worker.long import Turns
from telepatch_worker.pauses import Pauses, during_backward
from telepatch_worker.visitors import Visitors

ALL = PROMPTS * 4


def steering(steps: int = 2) -> Task:
    """A fit through the model, in steps of all examples."""
    nodes = [get("h", "blocks.0:resid_post"), call("n", "add", "$h", "$v"), put("w", "blocks.0:resid_post", "$n")]
    nodes += [get("z", "lm_head:output"), call("m", "logsumexp", "$z", -1), call("l", "sum", "$m")]
    one = fit({"ids": "$all"}, nodes, {"v": {"init": "$v0"}}, {"loss": "$l"}, runs=runs(x="$ids"), steps=steps)
    constants = {"all": ALL, "v0": normal(48)}
    return task(one | {"batch_size": len(ALL)}, saves={"v": "$f.v", "loss": "$f.loss"}, constants=constants)


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


class Hall:
    """A job that trains, and a floor for those who come meanwhile."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "_LEAST_SECONDS", 0.0)
        monkeypatch.setattr(module, "_MOST_SECONDS", 0.0)
        self.ended: dict[str, Outcome] = {}
        self.order: list[str] = []
        desk = Desk(set, quiet, unseen, unkept, Settled(self._settled))
        self.floor = Floor(engine, desk)
        self.visitors = Visitors(lambda: self.floor, engine.model.aside)
        self.visitors.seen()
        self.turns = Turns(engine, desk, self.visitors)

    def _settled(self, outcome: Outcome) -> None:
        self.ended[outcome.id] = outcome
        self.order.append(outcome.id)

    def saved(self, id: str) -> dict[str, torch.Tensor]:
        assert self.ended[id].error is None, self.ended[id].error
        return self.ended[id].saved


@pytest.fixture
def hall(gpt2: Engine, monkeypatch: pytest.MonkeyPatch) -> Hall:
    return Hall(gpt2, monkeypatch)


@pytest.fixture
def trace(build: Any, gpt2: Engine) -> Any:
    def made() -> Task:
        graph = build.graph("gpt2-random", {"a": [5, 6, 7]}, build.get("l", "lm_head:output", [":", -1]))
        return Task(new_job_id(), graph)

    return made


def test_a_trace_ends_in_the_middle_of_a_step_and_both_have_their_values(gpt2: Engine, hall: Hall, trace: Any):
    alone, visit = trained(gpt2, fitted := steering(1)), trace()
    [expected] = gpt2.run([visit])
    hall.turns.add(fitted)
    hall.visitors.come([visit])
    while fitted.id not in hall.ended:
        hall.turns.turn(0.05)
    assert hall.order == [visit.id, fitted.id]
    same(hall.saved(visit.id), expected.saved)
    same(hall.saved(fitted.id), alone)


def test_there_are_pauses_at_the_sites_of_forwards_and_in_the_backward_pass(gpt2: Engine, hall: Hall, monkeypatch: Any):
    offered: list[bool] = []
    plain = torch.autograd.grad
    inside = [False]

    def watched(*given: Any, **more: Any) -> Any:
        inside[0] = True
        try:
            return plain(*given, **more)
        finally:
            inside[0] = False

    monkeypatch.setattr(torch.autograd, "grad", watched)
    monkeypatch.setattr(hall.visitors, "offer", lambda: offered.append(inside[0]))
    hall.turns.add(fitted := steering(1))
    while fitted.id not in hall.ended:
        hall.turns.turn(0.05)
    assert offered.count(False) > 10
    assert offered.count(True) > 20


def test_a_trace_that_asks_for_gradients_does_not_disturb_a_backward_pass(gpt2: Engine, hall: Hall, build: Any):
    nodes = [
        build.get("h", "blocks.1:resid_post"),
        build.get("z", "lm_head:output", [":", -1]),
        build.call("s", "sum", "$z"),
        {"kind": "grad", "id": "g", "of": "$s", "wrt": ["$h"]},
    ]
    visit = Task(new_job_id(), build.graph("gpt2-random", {"a": [5, 6, 7]}, *nodes, saves={"g": "$g.0"}))
    [expected] = gpt2.run([visit])
    alone, fitted = trained(gpt2, steering(1)), steering(1)
    hall.turns.add(fitted)
    with DuringBackward(hall.visitors):
        hall.visitors.come([visit])
        while fitted.id not in hall.ended:
            hall.turns.turn(0.05)
    same(hall.saved(visit.id), expected.saved)
    same(hall.saved(fitted.id), alone)


def test_what_goes_wrong_with_the_floor_is_not_the_fault_of_the_job_that_trains(
    hall: Hall, trace: Any, monkeypatch: pytest.MonkeyPatch
):
    def broken() -> None:
        raise RuntimeError("of ours")

    monkeypatch.setattr(hall.floor, "turn", broken)
    hall.turns.add(fitted := steering(1))
    hall.visitors.come([trace()])
    while fitted.id not in hall.ended:
        hall.turns.turn(0.05)
    assert hall.ended[fitted.id].error is None
    assert str(hall.visitors.fault) == "of ours"


def test_pauses_are_no_time_of_the_job_that_makes_them(hall: Hall, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hall.visitors, "offer", lambda: time.sleep(0.02))
    hall.turns.add(fitted := steering(1))
    began = time.perf_counter()
    while fitted.id not in hall.ended:
        hall.turns.turn(0.05)
    whole = time.perf_counter() - began
    assert hall.ended[fitted.id].seconds < whole / 2


def test_a_step_goes_on_for_as_long_as_the_others_had_before_it_pauses_again(hall: Hall, trace: Any, monkeypatch: Any):
    monkeypatch.setattr(module, "_MOST_SECONDS", 100.0)
    hall.visitors._last = 50.0
    hall.visitors._since = time.perf_counter()
    hall.visitors.come([trace()])
    hall.visitors.offer()
    assert len(hall.visitors) == 1
    hall.visitors._since -= 60.0
    hall.visitors.offer()
    assert len(hall.visitors) == 0


def test_nobody_is_expected_once_nobody_has_come_for_a_while(hall: Hall, monkeypatch: pytest.MonkeyPatch):
    assert hall.visitors.likely
    monkeypatch.setattr(module, "_LIKELY_SECONDS", 0.0)
    assert not hall.visitors.likely


def test_a_backward_pass_with_pauses_gives_the_same_gradients_and_leaves_no_hooks_behind():
    class Counted(Pauses):
        likely = True
        count = 0

        def offer(self) -> None:
            self.count += 1

    pauses, value = Counted(), leaf(1.0, 2.0)
    total = (value**3).sum()
    for _ in range(2):
        with during_backward(total, pauses):
            [found] = torch.autograd.grad(total, [value], retain_graph=True)
    assert found.tolist() == [3.0, 12.0]
    assert pauses.count == 2 * 2
    torch.autograd.grad(total, [value])
    assert pauses.count == 2 * 2


class DuringBackward:
    """No pause but in backward passes."""

    def __init__(self, visitors: Visitors) -> None:
        self._visitors, self._plain, self._grad = visitors, visitors.offer, torch.autograd.grad
        self._inside = False

    def __enter__(self) -> None:
        def grad(*given: Any, **more: Any) -> Any:
            before, self._inside = self._inside, True
            try:
                return self._grad(*given, **more)
            finally:
                self._inside = before

        torch.autograd.grad = grad
        self._visitors.offer = lambda: self._plain() if self._inside else None

    def __exit__(self, *ended: Any) -> None:
        torch.autograd.grad = self._grad
