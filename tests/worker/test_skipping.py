"""Modules whose outputs everyone replaces do not run, and nobody can tell from the numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from telepatch_worker.engine import Engine, Passes

GPT2, LLAMA = "gpt2-random", "llama-random"
A, B = [5, 6, 7, 8, 9], [20, 21, 22]


@contextmanager
def calls(engine: Engine) -> Iterator[Counter[str]]:
    """How often each module's own forward is done; a module that is left out has no part that is."""
    seen: Counter[str] = Counter()
    handles = [
        module.register_forward_pre_hook(lambda m, a, path=path: seen.update([path]))
        for path, module in engine.loaded.module.named_modules()
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@pytest.fixture
def thorough(gpt2: Engine, monkeypatch) -> Engine:
    """The same engine without skips."""
    monkeypatch.setattr(gpt2, "_passes", Passes(skip=False))
    return gpt2


def job(build, ids, *writes, read="blocks.3:resid_post", **more):
    return build.task(GPT2, {"a": ids}, *writes, build.get("h", read), **more)


def test_a_module_whose_output_is_replaced_does_not_run(gpt2, build, saved):
    with calls(gpt2) as seen:
        saved(gpt2, job(build, A, build.set("blocks.1.mlp:output", 0.5)))
    assert seen["transformer.h.1.mlp.c_fc"] == 0
    assert seen["transformer.h.1.attn.c_attn"] == seen["transformer.h.2.mlp.c_fc"] == 1


def test_the_numbers_are_those_of_an_exact_run_in_which_everything_runs(gpt2, build, saved):
    writes = [
        build.get("x", "blocks.1:resid_pre"),
        build.set("blocks.1:resid_post", "$x"),
        build.set("blocks.2.mlp:output", 0.25),
    ]
    with calls(gpt2) as seen:
        exact = saved(gpt2, job(build, A, *writes, read=":output", options={"exact": True}))
    assert seen["transformer.h.1.attn.c_attn"] == seen["transformer.h.2.mlp.c_fc"] == 1
    with calls(gpt2) as seen:
        quick = saved(gpt2, job(build, A, *writes, read=":output"))
    assert seen["transformer.h.1.attn.c_attn"] == seen["transformer.h.2.mlp.c_fc"] == 0
    assert torch.equal(quick["h"], exact["h"])


def test_a_module_runs_where_a_stranger_in_the_batch_needs_it(gpt2, build, saved):
    one = job(build, A, build.set("blocks.1.mlp:output", 0.5))
    other = job(build, B)
    alone = saved(gpt2, job(build, B, options={"isolate": True}))["h"]
    with calls(gpt2) as seen:
        found = saved(gpt2, one, other)
    assert seen["transformer.h.1.mlp.c_fc"] == 1
    torch.testing.assert_close(found[1]["h"], alone)


def test_it_does_not_run_where_everyone_replaces_it_or_is_done_before_it(gpt2, build, saved):
    jobs = [
        job(build, A, build.set("blocks.1.mlp:output", 0.5)),
        job(build, B, build.set("blocks.1.mlp:output", -2.0)),
        job(build, B, read="blocks.0:resid_post"),
    ]
    wanted = [saved(gpt2, job(build, A, build.set("blocks.1.mlp:output", 0.5), options={"exact": True}))]
    wanted += [saved(gpt2, job(build, B, build.set("blocks.1.mlp:output", -2.0), options={"exact": True}))]
    wanted += [saved(gpt2, job(build, B, read="blocks.0:resid_post", options={"exact": True}))]
    with calls(gpt2) as seen:
        found = saved(gpt2, *jobs)
    assert seen["transformer.h.1.mlp"] == seen["transformer.h.2.mlp.c_fc"] == 1
    assert seen["transformer.h.1.mlp.c_fc"] == 0
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one["h"], other["h"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "more",
    [
        pytest.param(lambda b: [b.set("blocks.1.mlp:output", 0, [":", 1])], id="a part is written"),
        pytest.param(
            lambda b: [b.get("old", "blocks.1.mlp:output"), b.set("blocks.1.mlp:output", 0)], id="the old value is read"
        ),
        pytest.param(
            lambda b: [b.get("in", "blocks.1.mlp.act:output"), b.set("blocks.1.mlp:output", 0)], id="its inside is read"
        ),
    ],
)
def test_it_runs_where(gpt2, build, saved, more):
    nodes = more(build)
    with calls(gpt2) as seen:
        found = saved(gpt2, job(build, A, *nodes))
    assert seen["transformer.h.1.mlp.c_fc"] == 1
    exact = saved(gpt2, job(build, A, *nodes, options={"exact": True}))
    assert all(torch.equal(found[name], exact[name]) for name in exact)


def test_what_was_written_is_read_at_the_place_of_a_module_that_did_not_run(gpt2, build, saved):
    found = saved(gpt2, job(build, A, build.set("blocks.1:resid_post", 3.0), read="blocks.1:resid_post"))
    assert torch.equal(found["h"], torch.full((1, 5, 48), 3.0))


def test_its_input_is_there_and_may_be_what_is_written(gpt2, build, saved):
    nodes = [build.get("x", "blocks.1:resid_pre"), build.set("blocks.1:resid_post", "$x")]
    with calls(gpt2) as seen:
        found = saved(gpt2, job(build, A, *nodes, build.get("y", "blocks.2:resid_pre")))
    assert seen["transformer.h.1.mlp"] == 0
    assert torch.equal(found["x"], found["y"])


def test_values_from_another_invoke_of_the_job_replace_it_in_both(gpt2, build, saved):
    nodes = [
        build.get("x", "blocks.1:resid_pre", invoke="b"),
        build.set("blocks.1:resid_post", "$x", invoke="a"),
        build.set("blocks.1:resid_post", "$x", invoke="b"),
        build.get("h", "blocks.3:resid_post", invoke="a"),
    ]
    pair = {"a": [5, 6, 7], "b": B}
    with calls(gpt2) as seen:
        found = saved(gpt2, build.task(GPT2, pair, *nodes))
    assert seen["transformer.h.1.mlp"] == 0
    exact = saved(gpt2, build.task(GPT2, pair, *nodes, options={"exact": True}))
    torch.testing.assert_close(found["h"], exact["h"], rtol=1e-5, atol=1e-5)


def test_gradients_go_through_modules_that_run(gpt2, build, saved):
    nodes = [
        build.get("x", "blocks.1:resid_pre"),
        build.set("blocks.1.mlp:output", 0.5),
        build.get("z", "blocks.3:resid_post"),
        build.call("number", "sum", "$z"),
        {"kind": "grad", "id": "g", "of": "$number", "wrt": ["$x"]},
    ]
    with calls(gpt2) as seen:
        found = saved(gpt2, build.task(GPT2, {"a": A}, *nodes, saves={"g": "$g.0"}))
    assert seen["transformer.h.1.mlp.c_fc"] == 1
    assert found["g"].abs().sum() > 0


def test_the_switch_turns_it_off(thorough, build, saved):
    with calls(thorough) as seen:
        saved(thorough, job(build, A, build.set("blocks.1.mlp:output", 0.5)))
    assert seen["transformer.h.1.mlp.c_fc"] == 1


def test_llama_blocks_are_skipped_with_their_attention(engines, build, saved):
    engine = engines(LLAMA)
    nodes = [build.get("x", "blocks.2:resid_pre"), build.set("blocks.2:resid_post", "$x"), build.get("z", ":output")]
    with calls(engine) as seen:
        found = saved(engine, build.task(LLAMA, {"a": A}, *nodes))
    assert seen["model.layers.2.self_attn"] == 0
    exact = saved(engine, build.task(LLAMA, {"a": A}, *nodes, options={"exact": True}))
    assert torch.equal(found["z"], exact["z"])
