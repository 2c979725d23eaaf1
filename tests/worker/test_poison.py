"""Jobs that want too much memory, never end, give no numbers or break the forward: they end alone, and others right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from telepatch_protocol.errors import ExecutionError, OutOfMemory, TimeLimit, TooLarge
from telepatch_worker.engine import Engine, Outcome, Task

MODEL = "gpt2-random"
PROMPTS = [[5, 6, 7, 8], [9, 10, 11], [12, 13], [14, 15, 16, 17, 18]]


@pytest.fixture
def generous(gpt2: Engine) -> Callable[..., Engine]:
    """An engine with other limits of its card, at the door and while jobs run."""

    def make(**limits: Any) -> Engine:
        changed = gpt2.card.limits.model_copy(update=limits)
        card = gpt2.card.model_copy(update={"limits": changed})
        return Engine(replace(gpt2.loaded, card=card))

    return make


@pytest.fixture
def neighbour(build: Any) -> Callable[[list[int]], Task]:
    """A job like others: writes, reads, and saves logits."""

    def make(ids: list[int]) -> Task:
        return build.task(
            MODEL,
            {"a": ids},
            build.set("blocks.1:resid_post", 0.5, [":", -1]),
            build.get("l", "lm_head:output", [":", -1]),
        )

    return make


def beside(engine: Engine, neighbour: Callable[[list[int]], Task], bad: Task) -> Outcome:
    """What becomes of a job in the middle of others, which come to the same values as each alone."""
    others = [neighbour(ids) for ids in PROMPTS]
    alone = [engine.run([neighbour(ids)])[0].saved for ids in PROMPTS]
    outcomes = engine.run([*others[:2], bad, *others[2:]])
    for outcome, wanted in zip([*outcomes[:2], *outcomes[3:]], alone, strict=True):
        assert outcome.error is None
        assert outcome.saved is not None
        assert wanted is not None
        torch.testing.assert_close(outcome.saved["l"], wanted["l"], rtol=1e-4, atol=1e-5)
    return outcomes[2]


def test_a_value_that_no_memory_holds_ends_its_own_job(gpt2: Engine, generous: Any, neighbour: Any, build: Any) -> None:
    nodes = (
        build.get("h", "blocks.1:resid_post", [":", -1]),
        build.call("z", "zeros", [2**22, 2**22]),
        build.call("s", "sum", "$z"),
        build.call("y", "add", "$h", "$s"),
    )
    bad = build.task(MODEL, {"a": PROMPTS[0]}, *nodes, saves={"y": "$y"}, lines={"z": "study.py:12"})
    assert isinstance(beside(gpt2, neighbour, bad).error, TooLarge)
    engine = generous(max_bytes=2**62)
    found = beside(engine, neighbour, bad)
    assert isinstance(found.error, OutOfMemory)
    assert (found.error.node, found.error.file, found.error.line) == ("z", "study.py", 12)


def test_a_loop_that_does_not_end_is_over_with_its_time(generous: Any, neighbour: Any, build: Any) -> None:
    engine = generous(max_seconds=0.5, max_elements=10**9)
    body = {"nodes": [build.call("n", "add", "$c", 1.0)], "out": {"c": "$n"}, "runs": []}
    loop = {"kind": "repeat", "id": "loop", "n": 4 * 10**6, "carry": {"c": "$h"}, "body": body}
    bad = build.task(
        MODEL, {"a": PROMPTS[0]}, build.get("h", "blocks.1:resid_post", [":", -1]), loop, saves={"y": "$loop.c"}
    )
    found = beside(engine, neighbour, bad)
    assert isinstance(found.error, TimeLimit), found.error


def test_values_that_are_no_numbers_stay_with_their_own_job(gpt2: Engine, neighbour: Any, build: Any) -> None:
    bad = build.task(
        MODEL,
        {"a": PROMPTS[0]},
        build.set("blocks.0:resid_post", "nan"),
        build.get("l", "lm_head:output", [":", -1]),
    )
    found = beside(gpt2, neighbour, bad)
    assert found.saved is not None
    assert torch.isnan(found.saved["l"]).all()


def test_what_breaks_the_shared_forward_ends_the_job_that_breaks_it(
    gpt2: Engine, neighbour: Any, build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = gpt2.model.forward

    def break_on_77(inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if (inputs["input_ids"] == 77).any():
            raise RuntimeError("CUDA error: device-side assert triggered")
        return forward(inputs, *args, **kwargs)

    monkeypatch.setattr(gpt2.model, "forward", break_on_77)
    bad = build.task(MODEL, {"a": [77, 5]}, build.get("l", "lm_head:output", [":", -1]))
    found = beside(gpt2, neighbour, bad)
    assert isinstance(found.error, ExecutionError)
    assert "device-side assert" in found.error.detail
