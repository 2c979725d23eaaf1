"""Steps as they come from the service, whatever happens to the connection."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from telepatch.lab import Lab
from telepatch_protocol.errors import ExecutionError


def entry(step: int, run: str = "r0", **values: Any) -> dict[str, Any]:
    """What a worker tells of a step."""
    told = {"run": run, "step": step, "tokens": [step + 10], "text": [f"<{step}>"]}
    return told | ({"values": values} if values else {})


END = {"run": "r0", "lengths": [5], "reasons": ["length"]}


def answering(gateway: Any, *parts: list[dict[str, Any]], gates: tuple[threading.Event, ...] = ()) -> None:
    """Have the gateway's jobs stream these entries, each part once its gate is open."""

    def answer(job: str, document: dict[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
        for at, part in enumerate(parts):
            if at < len(gates):
                gates[at].wait(20)
            gateway.happen("values", job, {"values": part})
        return {name: np.ones((1, 5), np.int64) for name in document["saves"]}

    gateway.answer = answer


def test_steps_come_while_the_job_runs_and_end_with_it(gateway: Any, lab: Lab) -> None:
    gate = threading.Event()
    begun = threading.Event()
    begun.set()
    answering(gateway, [entry(0, score=0.5), entry(1, score=0.25)], [entry(2), END], gates=(begun, gate))
    model = lab.model("tiny")
    with model.generate("Hello", max_new_tokens=5) as t:
        pass
    steps = iter(t.stream())
    first, second = next(steps), next(steps)
    assert (first.step, first.token, first.text, first.score) == (0, 10, "<0>", 0.5)
    assert second.values == {"score": 0.25}
    assert lab.status(t).state == "queued"  # it has not ended
    gate.set()
    assert [event.step for event in steps] == [2]


def test_a_stream_survives_connections_that_end(gateway: Any, lab: Lab) -> None:
    gateway.cut_streams = 4
    answering(gateway, *([entry(at)] for at in range(5)), [END])
    model = lab.model("tiny")
    with model.generate("Hello", max_new_tokens=5) as t:
        pass
    assert [event.step for event in t.stream()] == [0, 1, 2, 3, 4]
    assert len(gateway.places) > 1


def test_steps_that_are_told_again_by_another_worker_come_once(gateway: Any, lab: Lab) -> None:
    answering(gateway, [entry(0), entry(1)], [entry(0), entry(1), entry(2), END])
    model = lab.model("tiny")
    with model.generate("Hello", max_new_tokens=5) as t:
        pass
    assert [event.step for event in t.stream()] == [0, 1, 2]


def test_a_stream_is_of_its_own_generation(gateway: Any, lab: Lab) -> None:
    answering(gateway, [entry(0), entry(0, "r1"), entry(1, "r1"), {**END, "run": "r1"}, END])
    model = lab.model("tiny")
    with model.generate(max_new_tokens=5) as t:
        with t.invoke("one") as a:
            pass
        with t.invoke("two") as b:
            pass
    assert ([event.step for event in a.stream()], [event.step for event in b.stream()]) == ([0], [0, 1])


def test_a_stream_of_a_job_that_fails_raises_why(gateway: Any, lab: Lab) -> None:
    gateway.answer = lambda job, document: {"code": "execution_error", "detail": "it broke"}
    model = lab.model("tiny")
    with model.generate("Hello", max_new_tokens=5) as t:
        pass
    with pytest.raises(ExecutionError, match="it broke"):
        list(t.stream())
