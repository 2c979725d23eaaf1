"""`model.generate`: what its block becomes, what comes out, and what is refused at which line."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

import telepatch
from telepatch.model import Model
from telepatch_protocol import tensors
from telepatch_protocol.card import ModelCard
from telepatch_protocol.check import check
from telepatch_protocol.errors import BadArgument, NotSaved, ShapeError, TraceError
from telepatch_protocol.graph import Get, Set


def line() -> int:
    """The line that calls this."""
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return frame.f_back.f_lineno


def saved(t: Any, card: ModelCard) -> dict[str, str]:
    attached = {name: tensor.meta for name, tensor in tensors.decode(t.attachment).items()} if t.attachment else {}
    return {name: str(meta) for name, meta in check(t.graph, card, attachment=attached).saves.items()}


ALWAYS = {"tokens": "int64 (1, ?)", "lengths": "int64 (1)", "reasons": "int64 (1)"}


def test_a_generation_sends_its_settings_and_always_brings_its_tokens_back(model: Model, card: ModelCard) -> None:
    later = {"min_p": 0.1, "repetition_penalty": 1.5, "no_repeat_ngram_size": 2, "min_new_tokens": 4}
    with model.generate("Hello", max_new_tokens=9, temperature=0.5, top_p=0.9, top_k=5, seed=3, stop=7, **later) as t:
        pass
    (run,) = t.graph.runs
    assert run.generate is not None
    found = {name: t.graph.constants[str(value)[1:]] for name, value in dict(run.generate).items()}
    assert found == {"max_new_tokens": 9, "temperature": 0.5, "top_p": 0.9, "top_k": 5, "seed": 3, "stop": 7} | later
    assert t.graph.protocol == (1, 1)
    assert run.each is None
    assert saved(t, card) == ALWAYS


def test_the_block_is_what_happens_at_every_step(model: Model, card: ModelCard) -> None:
    w, v = np.ones(8, np.float32), np.ones(8, np.float32)
    with model.generate("Hello", max_new_tokens=20) as t:
        fired = t.state(False)
        since = t.state(0)
        with t.steps() as step:
            h = model.blocks[2].resid_post
            score = h[:, -1] @ w
            t.emit(score=score)
            fired.set(fired | (score > 0.8).any())
            since.set(since + fired)
            h[:, -1] = telepatch.where(fired, h[:, -1] - 6 * v, h[:, -1])
            t.stop_if(since > 4)
            late = (step.index * 2).save("late")
        score.save("score")
        since.save("since")
    (run,) = t.graph.runs
    assert run.each is not None
    assert set(run.each.state) == set(run.each.carry)
    assert set(run.each.emit) == {"score"}
    assert run.each.stop is not None
    assert t.graph.nodes == ()
    found = saved(t, card)
    assert found == {**ALWAYS, "score": "float32 (?, 1)", "since": "int64 ()", "late": "int64 (?)"}
    assert score.ndim == 2
    assert late.ndim == 1
    text = t.graph.to_json()
    assert telepatch.errors is not None
    assert len(text) < 3000


def test_a_state_stands_for_what_it_was_set_to(model: Model, card: ModelCard) -> None:
    with model.generate("Hello", max_new_tokens=4) as t:
        count = t.state(0)
        before = (count * 1).save("before")
        count.set(count + 1)
        after = (count * 1).save("after")
    (run,) = t.graph.runs
    assert run.each is not None
    nodes = {node.id: node for node in run.each.nodes}
    first, second = (
        nodes[run.each.out[ref.split(".")[1]][1:]] for ref in (t.graph.saves["before"], t.graph.saves["after"])
    )
    (wire,) = run.each.state
    assert first.args[0] == f"${wire}"
    assert second.args[0] == run.each.carry[wire]
    assert before.ndim == after.ndim == 1


def test_chosen_steps(model: Model, card: ModelCard) -> None:
    with model.generate("Hello", max_new_tokens=8) as t:
        with t.steps(2, 5):
            model.blocks[1].output[:, -1] = 0
            part = model.blocks[2].output[:, -1].save("part")
        with t.step(0):
            prompt = model.blocks[2].output.save("prompt")
        with t.steps(1):
            twice = (model.blocks[3].output * 2).save("twice")
    found = saved(t, card)
    assert found["part"] == "float32 (?, 1, 8)"
    assert found["prompt"].startswith("float32 (1, 1, len(")
    assert found["twice"] == "float32 (?, 1, 1, 8)"
    assert (part.ndim, prompt.ndim, twice.ndim) == (3, 4, 4)
    (run,) = t.graph.runs
    assert run.each is not None
    spans = [node.step for node in run.each.nodes if isinstance(node, Get | Set)]
    values = {name: value for name, value in t.graph.constants.items() if isinstance(value, int)}
    shown = [str(span).replace("$", "") for span in spans]
    assert [":".join(str(values.get(part, part)) for part in span.split(":")) for span in shown] == [
        "2:5",
        "2:5",
        "0",
        "1:",
    ]


def test_tokens_are_read_and_forced(model: Model, card: ModelCard) -> None:
    with model.generate(ids=[1, 2, 3], max_new_tokens=4) as t:
        sampled = t.token.save("sampled")
        t.token = 5
        forced = t.token.save("forced")
    assert saved(t, card)["sampled"] == saved(t, card)["forced"] == "int64 (?, 1)"
    (run,) = t.graph.runs
    assert run.each is not None
    assert [(node.kind, node.site) for node in run.each.nodes] == [
        ("get", ":token"),
        ("set", ":token"),
        ("get", ":token"),
    ]
    assert sampled.ndim == forced.ndim == 2


def test_several_invokes_are_generations_of_one_job_with_settings_of_their_own(model: Model, card: ModelCard) -> None:
    with model.generate(max_new_tokens=8) as t:
        with t.invoke("one") as a:
            model.blocks[0].output[:, -1] = 0
        with t.invoke("two, longer", temperature=0.7, max_new_tokens=3) as b:
            b.generated.save("b")
    assert len(t.graph.runs) == 2
    assert set(saved(t, card)) == {"tokens", "lengths", "reasons", "b", "lengths_r1", "reasons_r1"}
    assert a.generated.ndim == b.generated.ndim == 2
    with pytest.raises(TraceError, match="is of one generation, and this block has 2"):
        _ = t.generated


def test_a_generation_is_a_run_of_a_session(model: Model, card: ModelCard) -> None:
    with model.session() as s:
        with model.trace("first"):
            v = model.blocks[1].output[:, -1]
        with model.generate("Hello", max_new_tokens=6) as t:
            model.blocks[1].output[:, -1] = v
            seen = model.blocks[3].output[:, -1]
        with model.trace(t.generated):
            model.lm_head.output[:, -1].save("next")
        seen.mean(0).save("mean")
    assert saved(s, card)["next"] == "float32 (1, 50)"
    assert saved(s, card)["mean"] == "float32 (1, 8)"


def test_a_sweep_holds_generations(model: Model, card: ModelCard) -> None:
    with (
        model.sweep(warm=[0.0, 0.5, 1.0]) as v,
        model.generate("Hello", max_new_tokens=6, temperature=v.warm, seed=1) as t,
    ):
        t.lengths.save("n")
        model.blocks[1].output *= v.warm
        last = model.blocks[1].output[:, -1]
        v.mean(last.mean()).save("mean") if False else None
    assert saved(v, card) == {"n": "int64 (3, 1)"}
    with pytest.raises((NotSaved, TraceError)):
        _ = t.result


def test_what_does_not_belong_together_is_refused_at_its_line(model: Model) -> None:
    with pytest.raises(TraceError, match="runs no forward") as found, model.generate("Hello", max_new_tokens=2):
        at = line() + 1
        with model.trace("x"):
            pass
    assert found.value.line == at
    with (
        pytest.raises(TraceError, match="a trace is open"),
        model.trace("x"),
        model.generate("Hello", max_new_tokens=2),
    ):
        pass
    one, two = (model.generate("Hello", max_new_tokens=2) for _ in range(2))
    with pytest.raises(TraceError, match="begin it before, or after"), one, two:
        pass
    with pytest.raises(TraceError, match="a state begins before"), model.generate("Hello", max_new_tokens=2) as t:
        t.state(model.blocks[0].output[:, -1])
    with pytest.raises(TraceError, match="has no input"), model.generate(max_new_tokens=2):
        pass
    with pytest.raises(BadArgument, match="needs max_new_tokens"), model.generate("Hello"):
        pass
    with pytest.raises(BadArgument, match="no setting 'warmth'"), model.generate(max_new_tokens=2) as t:
        t.invoke("x", warmth=1)
    with (
        pytest.raises(BadArgument, match="steps count from 0"),
        model.generate("Hello", max_new_tokens=2) as t,
        t.steps(-1),
    ):
        pass
    with (
        pytest.raises(TraceError, match="chosen already"),
        model.generate("x", max_new_tokens=9) as t,
        t.steps(1),
        t.step(2),
    ):
        pass
    with pytest.raises(TraceError, match="given up"):
        t.state(0)
    with model.generate("Hello", max_new_tokens=2) as t:
        pass
    with pytest.raises(TraceError, match="belongs inside the block"):
        t.state(0)


def test_what_cannot_be_at_some_step_names_the_line(model: Model) -> None:
    with pytest.raises(ShapeError, match=r"'\[:, -1\]'") as found, model.generate("Hello", max_new_tokens=4):
        at = line() + 1
        model.blocks[0].output.save()
    assert found.value.line == at
    with (
        pytest.raises(BadArgument, match="temperature is -1") as found,
        model.generate("Hello", max_new_tokens=4, temperature=-1),
    ):
        pass
    assert found.value.file is not None


def test_nothing_is_looked_at_before_it_ran(model: Model) -> None:
    with model.generate("Hello", max_new_tokens=4) as t:
        with pytest.raises(TraceError, match="nothing has run yet"):
            _ = t.result
        with pytest.raises(TraceError, match="goes on after the block"):
            t.stream()
    with pytest.raises(TraceError, match="exported"):
        _ = t.result
