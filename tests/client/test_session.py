"""Sessions: several runs as one job, and what does not fit into one."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from telepatch.lab import Lab
from telepatch.model import Model
from telepatch_protocol.card import ModelCard
from telepatch_protocol.check import check
from telepatch_protocol.errors import CausalLoop, TraceError, UnknownName


def test_traces_of_a_session_are_runs_of_one_job_between_which_values_flow(model: Model, card: ModelCard) -> None:
    with model.session(exact=True) as s:
        with model.trace("Paris is the capital of") as first:
            clean = model.blocks[2].resid_post
        with model.trace("Rome is the capital of") as second:
            model.blocks[2].resid_post[:, -1] = clean[:, -1]
            logits = model.lm_head.output[:, -1].save("logits")
    assert first.job == second.job == s.job
    assert first.graph is second.graph is s.graph
    assert [run.id for run in s.graph.runs] == ["r0", "r1"]
    assert [invoke.id for run in s.graph.runs for invoke in run.invokes] == ["x0", "x1"]
    assert s.graph.options.exact
    assert {name: str(meta) for name, meta in check(s.graph, card).saves.items()} == {"logits": "float32 (1, 50)"}
    assert logits.shape == (1, 50)
    ids = [node.id for node in s.graph.nodes]
    assert len(set(ids)) == len(ids)


def test_a_job_runs_with_the_adapter_that_its_outermost_block_names(card: ModelCard) -> None:
    model = Model(card.model_copy(update={"adapters": ("french", "german")}))
    with model.session(adapter="french") as s:
        with model.trace("one", adapter="french"):
            model.lm_head.output.save()
        with model.trace("two"):
            model.lm_head.output.save()
    assert (s.graph.options.adapter, s.graph.protocol) == ("french", (1, 1))
    says = r"asks for the adapter 'german', and .* runs with none.*session\(adapter='german'"
    with pytest.raises(TraceError, match=says), model.sweep(layer=range(2)), model.trace("one", adapter="german"):
        pass
    with model.generate("one", max_new_tokens=2, adapter="german") as t:
        model.lm_head.output[:, -1].save()
    assert t.graph.options.adapter == "german"


def test_an_adapter_that_the_model_does_not_have_is_refused_where_it_is_asked_for(
    model: Model, card: ModelCard
) -> None:
    both = Model(card.model_copy(update={"adapters": ("french", "german")}))
    with pytest.raises(UnknownName, match="has no adapter 'frensh'; it has 'french', 'german'"):
        both.trace("one", adapter="frensh")
    for opened in (model.trace, model.session, model.scan):
        with pytest.raises(UnknownName, match="has no adapter 'french'; it has none"):
            opened(adapter="french")


def test_a_trace_of_a_session_may_have_several_inputs(model: Model, card: ModelCard) -> None:
    with model.session() as s:
        with model.trace() as t:
            with t.invoke("a"):
                one = model.blocks[0].output[:, -1]
            with t.invoke("b"):
                two = model.blocks[0].output[:, -1]
        with model.trace("c"):
            (model.blocks[1].output[:, -1] + one + two).save()
    assert [[invoke.id for invoke in run.invokes] for run in s.graph.runs] == [["x0", "x1"], ["x2"]]
    check(s.graph, card)


def test_a_site_of_one_trace_is_read_but_not_written_in_another(model: Model) -> None:
    with pytest.raises(TraceError, match="another trace"), model.session():
        with model.trace("a"):
            h = model.blocks[0].output
        with model.trace("b"):
            h.save()
            h[:, -1] = 0


def test_a_write_after_its_trace_is_refused(model: Model) -> None:
    with pytest.raises(TraceError, match="another trace"), model.session():
        with model.trace("a"):
            h = model.blocks[0].output
        h[:, -1] = 0


@pytest.mark.parametrize("inner", ["trace", "session"])
def test_what_cannot_stand_inside_a_trace_says_what_can(model: Model, inner: str) -> None:
    with pytest.raises(TraceError, match=r"session"), model.trace("x"), getattr(model, inner)():
        pass


def test_a_session_without_a_save_is_refused(model: Model) -> None:
    with pytest.raises(TraceError, match="session saves nothing"), model.session(), model.trace("x"):
        model.blocks[0].output.sum()


def test_an_invoke_of_a_finished_trace_is_refused(model: Model) -> None:
    with pytest.raises(TraceError, match="its own trace"), model.session():
        with model.trace() as t:
            pass
        with t.invoke("x"):
            pass


def test_a_circle_between_runs_is_refused_with_both_lines(model: Model) -> None:
    with pytest.raises(CausalLoop, match=r"test_session.py:\d+"), model.session():  # noqa: SIM117
        with model.trace("a"):
            late = model.blocks[3].resid_post[:, -1]
            model.blocks[0].resid_post[:, -1] = late
            model.lm_head.output.save()


def test_a_session_is_sent_when_it_ends_and_gives_lazy_values(lab: Lab, gateway: Any) -> None:
    model = lab.model("tiny")
    gateway.answer = lambda job, document: {name: np.full((2, 3), 4.0, np.float32) for name in document["saves"]}
    with model.session():
        with model.trace("a"):
            h = model.blocks[0].output[:, -1]
        with model.sweep(k=[1, 2]) as v:
            x = (h * v.k).save()
        assert gateway.posts == []
    assert np.array_equal(x, np.full((2, 3), 4.0))
    (post,) = gateway.posts
    (document,) = post["documents"].values() if isinstance(post["documents"], dict) else post["documents"]
    assert [node["kind"] for node in document["nodes"]] == ["get", "map"]
    with model.trace("b"):
        again = (model.blocks[1].output[:, -1, :3] + x[0]).save()  # a value of a session, in the next job
    assert again.numpy() is not None
    assert "result" in json.dumps(gateway.posts[-1])
