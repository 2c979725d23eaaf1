"""Inputs that are the same share their rows as long as they are, and nobody can tell from the numbers."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from families import FAMILIES

from telepatch_worker.engine import Engine, Passes
from telepatch_worker.load import load
from telepatch_worker.seating import AT_ONCE, NEVER, seated

GPT2 = "gpt2-random"
A, B = [5, 6, 7, 8, 9], [20, 21, 22]


@contextmanager
def rows_seen(engine: Engine) -> Iterator[dict[int, list[int]]]:
    """With how many rows the attention of each block was called."""
    seen: dict[int, list[int]] = defaultdict(list)
    path = engine.card.aliases.modules["blocks.*.attn"]
    depth = sum(path.replace("*", str(at)) in engine.card.by_path for at in range(9))

    def look(at: int) -> Any:
        return lambda module, args, given: seen[at].append((args[0] if args else given["hidden_states"]).shape[0])

    handles = [
        engine.loaded.module.get_submodule(path.replace("*", str(at))).register_forward_pre_hook(
            look(at), with_kwargs=True
        )
        for at in range(depth)
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def close(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], engine: Engine) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        bound = engine.card.tolerance * float(value.abs().max())
        torch.testing.assert_close(found[name], value, rtol=engine.card.tolerance, atol=bound)


def patched(build: Any, site: str, ids: list[int] = A, value: float = 0.5) -> Any:
    """A job that writes at one place, and reads the last block's output."""
    return build.task(GPT2, {"a": ids}, build.set(site, value, [":", -1]), build.get("h", "blocks.3:resid_post"))


def test_reads_of_one_prompt_are_one_row(gpt2: Engine, build: Any, saved: Any):
    jobs = [build.task(GPT2, {"a": A}, build.get("h", f"blocks.{at % 4}:resid_post")) for at in range(20)]
    with rows_seen(gpt2) as seen:
        found = saved(gpt2, *jobs)
    assert all(rows == [1] for rows in seen.values())
    for task, one in zip(jobs, found, strict=True):
        close(one, saved(gpt2, task), gpt2)


def test_a_row_joins_where_it_is_first_written_to(gpt2: Engine, build: Any, saved: Any):
    sites = ["embed:output", "blocks.0.attn:output", "blocks.1:resid_post", "blocks.2.mlp:output", "blocks.3:resid_pre"]
    jobs = [patched(build, site) for site in sites] + [patched(build, "blocks.2.attn:output", B)]
    with rows_seen(gpt2) as seen:
        found = saved(gpt2, *jobs)
    # from the beginning: embedding, host (the last site), other prompt; then one in block 0, after block 1, in block 2
    assert [seen[at] for at in range(4)] == [[4], [4], [6], [6]]
    for task, one in zip(jobs, found, strict=True):
        close(one, saved(gpt2, task), gpt2)


def test_the_clean_run_and_its_patches_are_what_they_are_alone(gpt2: Engine, build: Any, saved: Any):
    jobs = [patched(build, f"blocks.{at}:resid_post", value=0.1 * at) for at in range(4)]
    jobs += [build.task(GPT2, {"a": A}, build.get("z", ":output")), patched(build, "blocks.1:resid_post", B)]
    each = [saved(gpt2, task) for task in jobs]
    for one, other in zip(each, saved(gpt2, *jobs), strict=True):
        close(other, one, gpt2)


def test_inputs_of_one_job_share_too_and_values_flow_between_them(gpt2: Engine, build: Any, saved: Any):
    nodes = [
        build.get("h", "blocks.1:resid_post", [":", -1], invoke="a"),
        build.set("blocks.1:resid_post", "$h", [":", 0], invoke="b"),
        build.get("x", "blocks.3:resid_post", invoke="b"),
        build.get("y", "blocks.3:resid_post", invoke="a"),
    ]
    job = build.task(GPT2, {"a": A, "b": A}, *nodes)
    exact = build.task(GPT2, {"a": A, "b": A}, *nodes, options={"exact": True})
    with rows_seen(gpt2) as seen:
        found = saved(gpt2, job)
    assert [seen[at] for at in range(4)] == [[1], [1], [2], [2]]
    close(found, saved(gpt2, exact), gpt2)


def test_a_replaced_module_is_left_out_for_those_who_have_joined(gpt2: Engine, build: Any, saved: Any):
    jobs = [
        build.task(GPT2, {"a": A}, build.set("blocks.2:resid_post", at), build.get("h", ":output")) for at in (1, 2)
    ]
    each = [saved(gpt2, task) for task in jobs]
    for one, other in zip(each, saved(gpt2, *jobs), strict=True):
        close(other, one, gpt2)


@pytest.mark.parametrize("options", [{"exact": True}, {"isolate": True}])
def test_exact_jobs_share_nothing(gpt2: Engine, build: Any, saved: Any, options: dict[str, bool]):
    reads = [build.get(name, "blocks.1:resid_post", invoke=name) for name in ("a", "b")]
    inputs = {"a": A, "b": A}
    reads = [{**one, "id": f"h{at}"} for at, one in enumerate(reads)]
    job = build.task(GPT2, inputs, *reads, options=options)
    with rows_seen(gpt2) as seen:
        saved(gpt2, job)
    assert sum(seen[0]) == 2


def test_gradients_share_nothing(gpt2: Engine, build: Any, saved: Any):
    nodes = [
        build.get("h", "blocks.1:resid_post"),
        build.get("z", ":output"),
        build.call("s", "sum", "$z"),
        {"kind": "grad", "id": "g", "of": "$s", "wrt": ["$h"]},
    ]
    with rows_seen(gpt2) as seen:
        saved(gpt2, *(build.task(GPT2, {"a": A}, *nodes, saves={"g": "$g.0"}) for _ in range(2)))
    assert seen[0] == [2]


def test_the_switch_turns_it_off(gpt2: Engine, build: Any, saved: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gpt2, "_passes", Passes(share=False))
    with rows_seen(gpt2) as seen:
        saved(gpt2, *(build.task(GPT2, {"a": A}, build.get("h", "blocks.1:resid_post")) for _ in range(3)))
    assert seen[0] == [3]


@pytest.mark.parametrize("name", ["llama-random", "bert-random"])
def test_strangers_of_other_lengths_change_nothing(engines: Any, build: Any, saved: Any, name: str):
    """Rotary tables and masks come from outside of the blocks, and go along with the rows."""
    engine = engines(name)
    jobs = [
        build.task(name, {"a": ids}, build.set(f"blocks.{at}:resid_post", 0.3, [":", 0]), build.get("z", ":output"))
        for ids in (A, B)
        for at in (0, 1, 1)
    ]
    jobs += [build.task(name, {"a": A}, build.get("z", ":output"))]
    with rows_seen(engine) as seen:
        found = saved(engine, *jobs)
    assert seen[0] == [2]
    for task, one in zip(jobs, found, strict=True):
        close(one, saved(engine, task), engine)


OTHERS = [one for one in FAMILIES if one.type not in ("gpt2", "llama", "bert")]


@pytest.mark.parametrize("family", OTHERS, ids=lambda family: family.id)
def test_every_family_lets_rows_join(tmp_path: Path, one_thread: None, build: Any, saved: Any, family: Any):
    engine = Engine(load(family.card(), cache=tmp_path))
    read = build.get("z", "blocks.2:resid_post")
    jobs = [
        build.task(family.id, {"a": ids}, build.set(f"blocks.{at}.mlp:output", 0.3, [":", 0]), read)
        for ids in (A, [4, *A])
        for at in range(3)
    ]
    try:
        with rows_seen(engine) as seen:
            found = saved(engine, *jobs)
        assert [seen[at] for at in range(3)] == [[4], [6], [6]]
        for task, one in zip(jobs, found, strict=True):
            close(one, saved(engine, task), engine)
    finally:
        engine.close()


def test_the_host_is_the_one_that_differs_last():
    found = seated(dict.fromkeys("abcd", 0) | {"e": 1}, {"a": 2, "b": AT_ONCE, "c": 5, "d": 5, "e": 3})
    assert found.first == ("b", "c", "e")
    assert found.hosts == {"a": "c", "d": "c"}
    found = seated(dict.fromkeys("abc", 0), {"a": 2, "b": NEVER, "c": NEVER})
    assert (found.first, found.gates) == (("b",), {"a": 2, "c": NEVER})
