"""Modules applied to values: once for all that wait, and each as if it were applied by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from telepatch_worker import applying
from telepatch_worker.engine import Engine, Passes

GPT2, LLAMA = "gpt2-random", "llama-random"
IDS = [5, 6, 7, 8]


@contextmanager
def rows_of(engine: Engine, site: str) -> Iterator[list[int]]:
    """How many rows a module is given, call by call."""
    seen: list[int] = []
    module = engine.loaded.module.get_submodule(engine.card.aliases.modules[site])
    handle = module.register_forward_pre_hook(lambda module, args: seen.append(args[0].numel() // args[0].shape[-1]))
    try:
        yield seen
    finally:
        handle.remove()


def lens(build: Any, model: str, layers: int, index: list[Any], ids: list[int] = IDS, **more: Any) -> Any:
    nodes: list[Any] = []
    for layer in range(layers):
        nodes += [
            build.get(f"h{layer}", f"blocks.{layer}:resid_post", index),
            build.module(f"n{layer}", "final_norm", f"$h{layer}"),
            build.module(f"u{layer}", "unembed", f"$n{layer}"),
        ]
    return build.task(model, {"a": ids}, *nodes, saves={f"u{layer}": f"$u{layer}" for layer in range(layers)}, **more)


def alike(engine: Engine, saved: Any, *tasks: Any) -> None:
    """The same as one by one."""
    found = saved(engine, *tasks)
    passes, engine._passes = engine._passes, Passes(apply=False)
    try:
        wanted = saved(engine, *tasks)
    finally:
        engine._passes = passes
    for one, other in zip(*((given if isinstance(given, list) else [given]) for given in (found, wanted)), strict=True):
        assert one.keys() == other.keys()
        for name in one:
            torch.testing.assert_close(one[name], other[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("model", [GPT2, LLAMA])
@pytest.mark.parametrize("index", [[":", -1], [0], [0, "1:3"]])
def test_the_lens_of_all_layers_goes_over_the_head_once(engines: Any, build: Any, saved: Any, model: str, index: Any):
    engine = engines(model)
    layers = len([path for path in engine.card.by_path if path.rpartition(".")[2].isdigit()])
    task = lens(build, model, layers, index)
    with rows_of(engine, "unembed") as head, rows_of(engine, "final_norm") as norm:
        saved(engine, task)
    rows = {":": 1, "1:3": 2}.get(index[-1], 1) if len(index) > 1 else len(IDS)
    assert head == [layers * rows]
    assert norm == [layers * rows]
    alike(engine, saved, task)


def test_jobs_of_many_people_go_over_the_head_together(gpt2: Engine, build: Any, saved: Any):
    tasks = [lens(build, GPT2, 2, [":", -1], ids) for ids in ([1, 2, 3], [4, 5], [6, 7, 8, 9])]
    with rows_of(gpt2, "unembed") as head:
        saved(gpt2, *tasks)
    assert head == [6]
    alike(gpt2, saved, *tasks)


def test_a_value_that_is_written_later_in_the_forward_is_computed_there(gpt2: Engine, build: Any, saved: Any):
    task = build.task(
        GPT2,
        {"a": IDS},
        build.get("h", "blocks.0:resid_post"),
        build.module("n", "final_norm", "$h"),
        build.set("blocks.1:resid_post", "$n"),
        build.get("z", "unembed:output", [":", -1]),
    )
    alike(gpt2, saved, task)


def test_what_is_computed_of_it_comes_after_it_and_waits_for_nothing_else(gpt2: Engine, build: Any, saved: Any):
    task = build.task(
        GPT2,
        {"a": IDS},
        build.get("h", "blocks.0:resid_post", [":", -1]),
        build.module("n", "final_norm", "$h"),
        build.module("u", "unembed", "$n"),
        build.call("likeliest", "argmax", "$u", dim=-1),
        build.call("z", "add", "$likeliest", 1),
    )
    alike(gpt2, saved, task)


def test_where_much_waits_it_goes_in_parts(gpt2: Engine, build: Any, saved: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(applying, "TOGETHER_BYTES", 3 * 4 * gpt2.card.vocabulary)
    nodes: list[Any] = []
    for at in range(8):
        nodes += [
            build.get(f"h{at}", f"blocks.{at % 2}:resid_post", [":", at // 2]),
            build.module(f"n{at}", "final_norm", f"$h{at}"),
            build.module(f"u{at}", "unembed", f"$n{at}"),
            build.call(f"z{at}", "argmax", f"$u{at}", dim=-1),
        ]
    task = build.task(GPT2, {"a": IDS}, *nodes, saves={f"z{at}": f"$z{at}" for at in range(8)})
    with rows_of(gpt2, "unembed") as head:
        saved(gpt2, task)
    assert head == [3, 3, 2]
    alike(gpt2, saved, task)


def test_an_exact_job_applies_its_modules_one_by_one(gpt2: Engine, build: Any, saved: Any):
    with rows_of(gpt2, "unembed") as head:
        saved(gpt2, lens(build, GPT2, 2, [":", -1], options={"exact": True}))
    assert head == [1, 1]


def test_a_module_that_looks_at_other_rows_is_applied_by_itself(gpt2: Engine, build: Any, saved: Any):
    task = build.task(
        GPT2,
        {"a": IDS},
        build.get("h", "blocks.0:resid_pre"),
        build.module("one", "blocks.0.mlp", "$h"),
        build.module("z", "blocks.1.mlp", "$h"),
    )
    alike(gpt2, saved, task)
