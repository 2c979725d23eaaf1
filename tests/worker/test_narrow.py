"""Logits are computed of the positions that somebody looks at, and nobody can tell from the numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from telepatch_worker.engine import Engine, Passes

GPT2, LLAMA = "gpt2-random", "llama-random"
A, B = [5, 6, 7, 8, 9, 10, 11], [20, 21, 22, 23, 24]


@contextmanager
def widths(engine: Engine) -> Iterator[list[tuple[int, int]]]:
    """Rows and positions of what the head is given."""
    seen: list[tuple[int, int]] = []
    head = engine.loaded.module.get_output_embeddings()
    handle = head.register_forward_pre_hook(lambda module, args: seen.append(tuple(args[0].shape[:2])))
    try:
        yield seen
    finally:
        handle.remove()


def reading(build: Any, index: list[Any] | None, ids: list[int] = A, site: str = "lm_head:output", **more: Any) -> Any:
    return build.task(more.pop("model", GPT2), {"a": ids}, build.get("z", site, index), **more)


def alike(engine: Engine, saved: Any, *tasks: Any) -> None:
    """The same as without."""
    found = saved(engine, *tasks)
    passes, engine._passes = engine._passes, Passes(narrow=False, share=False)
    try:
        wanted = saved(engine, *tasks)
    finally:
        engine._passes = passes
    for one, other in zip(*((given if isinstance(given, list) else [given]) for given in (found, wanted)), strict=True):
        torch.testing.assert_close(one["z"], other["z"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("index", "wide"),
    [([":", -1], 1), ([0, "2:4", 3], 2), ([":", 0, [1, 2]], 1), ([":", "-2:"], 2), ([":", "::3"], 3), (["...", -1], 7)],
)
@pytest.mark.parametrize("site", ["lm_head:output", ":output"])
def test_only_the_positions_that_are_read_have_logits(
    gpt2: Engine, build: Any, saved: Any, index, wide: int, site: str
):
    with widths(gpt2) as seen:
        saved(gpt2, reading(build, index, site=site))
    assert seen == [(1, wide)]
    alike(gpt2, saved, reading(build, index, site=site))


@pytest.mark.parametrize("name", [GPT2, LLAMA])
def test_each_row_has_positions_of_its_own(engines: Any, build: Any, saved: Any, name: str):
    engine = engines(name)
    jobs = [reading(build, [":", at], ids, model=name) for ids in (A, B) for at in (0, -1)]
    jobs.append(reading(build, [":", "1:2"], B, model=name))
    with widths(engine) as seen:
        saved(engine, *jobs)
    [(rows, positions)] = seen
    assert (rows, positions) == (2, 3)
    alike(engine, saved, *jobs)


def test_positions_come_along_when_rows_join(gpt2: Engine, build: Any, saved: Any):
    jobs = [
        build.task(
            GPT2, {"a": ids}, build.set(f"blocks.{at}:resid_post", 0.2, [":", at]), build.get("z", ":output", [":", at])
        )
        for ids in (A, B)
        for at in range(4)
    ]
    with widths(gpt2) as seen:
        saved(gpt2, *jobs)
    assert seen == [(8, 1)]
    alike(gpt2, saved, *jobs)


def test_numbers_that_a_constant_or_a_sweep_gives_count(gpt2: Engine, build: Any, saved: Any):
    job = reading(build, [":", "$at"], constants={"at": 2})
    with widths(gpt2) as seen:
        saved(gpt2, job)
    assert seen == [(1, 1)]


@pytest.mark.parametrize("index", [None, [":"], [[0], -1], [":", [0, 1]]])
def test_where_any_position_may_be_read_all_have_logits(gpt2: Engine, build: Any, saved: Any, index):
    with widths(gpt2) as seen:
        saved(gpt2, reading(build, index))
    assert seen == [(1, len(A))]


def test_a_stranger_who_reads_all_positions_gets_them(gpt2: Engine, build: Any, saved: Any):
    jobs = [reading(build, [":", -1]), reading(build, None, B)]
    with widths(gpt2) as seen:
        saved(gpt2, *jobs)
    assert seen == [(2, len(A))]
    alike(gpt2, saved, *jobs)


def test_a_write_to_logits_keeps_them_all(gpt2: Engine, build: Any, saved: Any):
    nodes = [build.set("lm_head:output", 3.0, [":", -1]), build.get("z", ":output", [":", -1])]
    with widths(gpt2) as seen:
        assert torch.all(saved(gpt2, build.task(GPT2, {"a": A}, *nodes))["z"] == 3)
    assert seen == [(1, len(A))]


def test_an_index_that_the_forward_brings_keeps_them_all(gpt2: Engine, build: Any, saved: Any):
    nodes = [
        build.get("h", "blocks.0:resid_post", [0, -1]),
        build.call("at", "argmax", "$h"),
        build.call("p", "remainder", "$at", 5),
        build.get("z", "lm_head:output", [":", "$p"]),
    ]
    with widths(gpt2) as seen:
        saved(gpt2, build.task(GPT2, {"a": A}, *nodes, saves={"z": "$z"}))
    assert seen == [(1, len(A))]


def test_exact_jobs_compute_all_logits(gpt2: Engine, build: Any, saved: Any):
    with widths(gpt2) as seen:
        saved(gpt2, reading(build, [":", -1], options={"exact": True}))
    assert seen == [(1, len(A))]


def test_the_switch_turns_it_off(gpt2: Engine, build: Any, saved: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gpt2, "_passes", Passes(narrow=False))
    with widths(gpt2) as seen:
        saved(gpt2, reading(build, [":", -1]))
    assert seen == [(1, len(A))]
