"""Blocks: what they build, when they refuse, and that nothing built is lost on the wire."""

from __future__ import annotations

import asyncio
import inspect
import json
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import telepatch
from telepatch.model import Model
from telepatch.trace import TraceWarning
from telepatch_protocol import wire
from telepatch_protocol.card import ModelCard
from telepatch_protocol.check import check
from telepatch_protocol.errors import BadArgument, CausalLoop, NotYetSupported, TelepatchError, TraceError
from telepatch_protocol.tensors import metas


def line() -> int:
    """The line that calls this."""
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return frame.f_back.f_lineno


def test_a_trace_is_the_document_it_should_be(model: Model) -> None:
    with model.trace("Paris is the capital of") as t:
        first = line() + 1
        h = model.blocks[2].resid_post[:, -1]
        model.blocks[3].resid_post[:, 0:2] = h * 2.0
        model.lm_head.output[:, -1].softmax(-1).topk(5).save("top")
    assert json.loads(t.graph.to_json()) == {
        "protocol": [1, 0],
        "model": {"id": "tiny", "revision": "abc"},
        "runs": [{"id": "r0", "invokes": [{"id": "x0", "text": "$c0"}]}],
        "nodes": [
            {"kind": "get", "id": "n0", "site": "blocks.{c2}:resid_post", "invoke": "x0", "index": [":", "$c1"]},
            {"kind": "call", "id": "n1", "op": "mul", "args": ["$n0", "$c3"]},
            {"kind": "set", "id": "n2", "site": "blocks.{c6}:resid_post", "invoke": "x0", "value": "$n1",
             "index": [":", "$c4:$c5"]},
            {"kind": "get", "id": "n3", "site": "lm_head:output", "invoke": "x0", "index": [":", "$c7"]},
            {"kind": "call", "id": "n4", "op": "softmax", "args": ["$n3", -1]},
            {"kind": "call", "id": "n5", "op": "topk", "args": ["$n4", 5]},
        ],
        "saves": {"top_values": "$n5.values", "top_indices": "$n5.indices"},
        "constants": {
            "c0": "Paris is the capital of", "c1": -1, "c2": 2, "c3": 2.0, "c4": 0, "c5": 2, "c6": 3, "c7": -1,
        },
        "lines": {
            "n0": f"test_trace.py:{first}", "n1": f"test_trace.py:{first + 1}", "n2": f"test_trace.py:{first + 1}",
            "n3": f"test_trace.py:{first + 2}", "n4": f"test_trace.py:{first + 2}", "n5": f"test_trace.py:{first + 2}",
        },
    }  # fmt: skip


def test_values_flow_between_invokes_in_any_direction(model: Model) -> None:
    with model.trace() as t:
        with t.invoke("Paris"):
            late = model.blocks[3].resid_post[:, -1]
        with t.invoke([5, 6, 7]):
            model.blocks[0].resid_post[:, -1] = late
            back = model.blocks[3].resid_post[:, -1]
        (late - back).save()
    invokes = t.graph.runs[0].invokes
    assert [invoke.form for invoke in invokes] == ["text", "ids"]


@pytest.mark.parametrize(
    ("prompt", "form", "constant"),
    [
        ("text", "text", "text"),
        (["a", "b"], "text", ["a", "b"]),
        ([1, 2], "ids", [1, 2]),
        ([[1, 2], [3, 4]], "ids", [[1, 2], [3, 4]]),
        (range(3), "ids", [0, 1, 2]),
        (np.array([[1, 2]], np.int32), "ids", [[1, 2]]),
        ([np.int64(4)], "ids", [4]),
    ],
)
def test_inputs_are_told_apart_by_their_form(model: Model, prompt: Any, form: str, constant: Any) -> None:
    with model.trace(prompt) as t:
        model.lm_head.output.save()
    (invoke,) = t.graph.runs[0].invokes
    assert invoke.form == form
    assert t.graph.constants["c0"] == constant


def test_an_input_may_be_a_value(model: Model) -> None:
    with model.trace() as t:
        with t.invoke([1, 2, 3]):
            best = model.lm_head.output.argmax(-1)
        with t.invoke(best):
            model.lm_head.output.save()
    assert t.graph.runs[0].invokes[1].ids == "$n1"


@pytest.mark.parametrize("wrong", [3.5, {1: 2}, [], object()])
def test_what_is_no_input_is_refused(model: Model, wrong: Any) -> None:
    with pytest.raises((BadArgument, NotYetSupported, TelepatchError)), model.trace(wrong):
        model.lm_head.output.save()


def test_named_tensors_are_refused_where_the_model_takes_tokens(model: Model) -> None:
    with pytest.raises(BadArgument, match="takes token ids"), model.trace({"pixel_values": np.ones(3)}):
        pass


def test_two_inputs_at_once_are_refused(model: Model) -> None:
    with pytest.raises(BadArgument, match=r"ids, prompt"):
        model.trace("x", ids=[1])


def test_an_exception_in_the_block_submits_nothing_and_goes_on(model: Model) -> None:
    with pytest.raises(ZeroDivisionError), model.trace("x"):
        h = model.lm_head.output.save()
        _ = 1 / 0
    with pytest.raises(TraceError, match=r"never submitted.*ZeroDivisionError"):
        h.numpy()
    with model.trace("y"):
        model.lm_head.output.save()


def test_the_traceback_of_a_refusal_ends_at_the_authors_line(model: Model) -> None:
    with pytest.raises(TelepatchError) as caught:  # noqa: SIM117
        with model.trace("x"):
            wrong = line() + 1
            model.blocks[0].resid_post[:, 5, 99].save()
    last = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert (last.filename, last.lineno) == (__file__, wrong)
    assert (caught.value.file, caught.value.line) == (__file__, wrong)


def test_a_trace_inside_a_trace_is_refused_with_the_line_of_the_first(model: Model) -> None:
    with model.trace("x"):
        opened = line() - 1
        model.lm_head.output.save()
        with pytest.raises(TraceError, match=f"test_trace.py:{opened}"), model.trace("y"):
            pass
    with model.trace("z"):
        model.lm_head.output.save()


def test_a_trace_is_used_once(model: Model) -> None:
    with model.trace("x") as t:
        model.lm_head.output.save()
    with pytest.raises(TraceError, match="before"), t:
        pass


def test_a_trace_without_a_save_is_refused(model: Model) -> None:
    with pytest.raises(TraceError, match="saves nothing") as caught, model.trace("x"):
        model.blocks[0].resid_post[:, -1] = 0
    assert caught.value.line == line() - 2


def test_a_circle_is_refused_at_the_line_of_the_write(model: Model) -> None:
    with pytest.raises(CausalLoop) as caught:  # noqa: SIM117
        with model.trace("x"):
            late = model.blocks[3].resid_post[:, -1]
            wrote = line() + 1
            model.blocks[0].resid_post[:, -1] = late
            model.lm_head.output.save()
    assert (caught.value.file, caught.value.line) == (__file__, wrote)
    assert f"(test_trace.py:{wrote})" in caught.value.detail
    assert f"(test_trace.py:{wrote - 2})" in caught.value.detail


def test_a_stack_that_would_feed_its_own_modules_is_answered_with_a_loop(model: Model) -> None:
    with pytest.raises(CausalLoop) as caught, model.trace("x"):
        model.blocks[:].resid_post *= 0.5
        model.lm_head.output.save()
    assert caught.value.detail.endswith("for one in model.blocks: one.resid_post = one.resid_post * 0.5")
    with model.trace("x"):
        for one in model.blocks:
            one.resid_post = one.resid_post * 0.5
        model.lm_head.output.save()


def test_a_write_that_nothing_sees_is_warned_of_at_its_line(model: Model) -> None:
    def trace() -> int:
        with model.trace("x"):
            model.blocks[0].resid_post.save()
            model.lm_head.output[:, -1] = 0
            return line() - 1

    with pytest.warns(TraceWarning, match="no effect") as caught:
        where = trace()
    assert caught[0].lineno == where
    assert caught[0].filename == __file__


def test_a_warning_that_is_raised_submits_nothing(model: Model) -> None:
    with pytest.raises(TraceWarning), model.trace("x"):
        h = model.blocks[0].resid_post.save()
        model.lm_head.output[:, -1] = 0
    with pytest.raises(TraceError, match="never submitted"):
        h.numpy()


def test_saved_names_are_chosen_or_made_up_and_never_taken_twice(model: Model) -> None:
    with model.trace("x") as t:
        model.blocks[0].resid_post.save("mine")
        model.blocks[1].resid_post.save()
        with pytest.raises(BadArgument, match="mine"):
            model.blocks[2].resid_post.save("mine")
        for wrong in ("not a name", 3, "x" * 65):
            with pytest.raises(BadArgument, match="identifier"):
                model.blocks[2].resid_post.save(wrong)  # type: ignore[arg-type]
        twice = model.blocks[3].resid_post.save()
        twice.save()
    assert len(t.graph.saves) == 3


def test_saving_after_the_block_is_refused(model: Model) -> None:
    with model.trace("x"):
        h = (model.lm_head.output * 2).save()
        other = h + 1
    with pytest.raises(TraceError, match="over"):
        other.save()


def test_options_reach_the_document(model: Model) -> None:
    with model.trace("x", exact=True, aligned=True) as t:
        model.lm_head.output.save()
    assert t.graph.options.exact
    assert t.graph.options.aligned
    assert not t.graph.options.isolate


async def test_blocks_are_asynchronous_too(model: Model) -> None:
    async def one(prompt: str) -> telepatch.Trace:
        async with model.trace() as t:
            await asyncio.sleep(0)
            async with t.invoke(prompt):
                await asyncio.sleep(0)
                model.lm_head.output.save()
        return t

    traces = await asyncio.gather(*(one(f"prompt {at}") for at in range(5)))
    assert [t.graph.constants["c0"] for t in traces] == [f"prompt {at}" for at in range(5)]
    assert all(len(t.graph.nodes) == 1 for t in traces)


def test_a_value_of_an_exported_trace_has_no_numbers(model: Model) -> None:
    with model.trace("x"):
        h = model.lm_head.output.save()
        lost = h * 2
        where = line() - 1
    with pytest.raises(TraceError, match="exported"):
        h.numpy()
    with pytest.raises(telepatch.NotSaved) as caught:
        lost.numpy()
    assert (Path(caught.value.file or "").name, caught.value.line) == ("test_trace.py", where)


def test_repr_tells_how_far_a_trace_is(model: Model) -> None:
    t = model.trace("x")
    assert "new" in repr(t)
    with t:
        assert "open" in repr(t)
        model.lm_head.output.save("z")
    assert "submitted, saves z" in repr(t)


numbers = st.one_of(st.integers(-(2**62), 2**62), st.floats(allow_nan=True, allow_infinity=True, width=32))
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=30)
bounds = st.one_of(st.none(), st.integers(0, 6))
elements = st.one_of(st.builds(slice, bounds, bounds), st.just(slice(None)), st.just(Ellipsis), st.none())
arrays = st.sampled_from([np.float32(1), np.ones(8), np.zeros((1, 1, 8), np.float16).astype(np.float32), [0.5] * 8])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_graph_that_can_be_built_survives_the_wire(card: ModelCard, data: st.DataObject) -> None:
    model = Model(card)
    prompts = data.draw(
        st.lists(st.one_of(texts, st.lists(st.integers(0, 49), min_size=7, max_size=9)), min_size=1, max_size=3)
    )
    t = model.trace(exact=data.draw(st.booleans()))
    with t:
        for prompt in prompts:
            with t.invoke(prompt):
                _some_statements(model, data)
    graph = wire.decode(t.graph.to_json())
    assert graph == t.graph
    check(graph, card, attachment=metas(t.attachment) if t.attachment else {})


def _some_statements(model: Model, data: st.DataObject) -> None:
    """A few reads, operations and writes, in the order of the model so that no circle arises."""
    for layer in sorted(data.draw(st.sets(st.integers(0, 3), min_size=1))):
        site = data.draw(st.sampled_from([model.blocks[layer].resid_pre, model.blocks[layer].attn.output]))
        value = site
        for step in range(data.draw(st.integers(0, 3))):
            operand = data.draw(st.one_of(numbers, arrays))
            value = value + operand if step == 0 else operand * value if step == 1 else value.softmax(-1) - operand
        index = tuple(data.draw(st.lists(elements, max_size=2)))
        kept = value[index] if index.count(Ellipsis) < 2 else value
        kept.save()
        if data.draw(st.booleans()):
            site[:, -1] = data.draw(numbers)
    model.lm_head.output.save()
