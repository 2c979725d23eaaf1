"""Logits are computed of the tokens that somebody looks at, and nobody can tell from the numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from tests.worker.test_narrow import GPT2, LLAMA, A, B, alike

from telepatch_worker import columns
from telepatch_worker.blank import blank
from telepatch_worker.engine import Engine


@contextmanager
def tokens() -> Iterator[list[int]]:
    """How many tokens were computed, in each forward that left out the head."""
    seen: list[int] = []

    def noted(shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
        seen.append(like.shape[-1])
        return blank(shape, like)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "blank", noted)
        yield seen


def difference(build: Any, first: int, second: int, ids: list[int] = A, at: int = -1, **more: Any) -> Any:
    return build.task(
        more.pop("model", GPT2),
        {"a": ids},
        build.get("last", "unembed:output", [":", at]),
        build.call("one", "index", "$last", [":", first]),
        build.call("other", "index", "$last", [":", second]),
        build.call("z", "sub", "$one", "$other"),
        **{"saves": {"z": "$z"}, **more},
    )


@pytest.mark.parametrize("name", [GPT2, LLAMA])
def test_a_logit_difference_takes_two_tokens_and_the_head_stays_out(engines: Any, build: Any, saved: Any, name: str):
    engine = engines(name)
    jobs = [difference(build, 3, -1, A, model=name), difference(build, 3, 9, B, at=0, model=name)]
    with tokens() as seen:
        saved(engine, *jobs)
    assert seen == [3]
    alike(engine, saved, *jobs)


@pytest.mark.parametrize(
    ("index", "count"),
    [([0, -1, 5], 1), ([":", "2:4", [5, -7]], 2), ([0, "...", 5], 1), ([0, ":", [[1, 2], [3, 4]]], None)],
)
@pytest.mark.parametrize("site", ["unembed:output", ":output"])
def test_an_index_into_the_logits_picks_tokens_too(
    gpt2: Engine, build: Any, saved: Any, index: Any, count: int | None, site: str
):
    read = build.task(GPT2, {"a": A}, build.get("z", site, index))
    with tokens() as seen:
        saved(gpt2, read)
    assert seen == ([] if count is None else [count])
    alike(gpt2, saved, read)


def test_the_tokens_of_all_jobs_are_there_when_rows_join(gpt2: Engine, build: Any, saved: Any):
    jobs = [
        build.task(
            GPT2,
            {"a": A},
            build.set(f"blocks.{at % 2}:resid_post", 0.2, [":", at]),
            build.get("z", "unembed:output", [":", -1, at]),
        )
        for at in range(6)
    ]
    with tokens() as seen:
        saved(gpt2, *jobs)
    assert seen == [6]
    alike(gpt2, saved, *jobs)


@pytest.mark.parametrize(
    "more",
    [
        {"saves": {"z": "$z", "all": "$last"}},
        {
            "nodes": [{"kind": "call", "id": "most", "op": "amax", "args": ["$last"]}],
            "saves": {"z": "$z", "m": "$most"},
        },
    ],
)
def test_where_all_are_wanted_all_are_there(gpt2: Engine, build: Any, saved: Any, more: dict[str, Any]):
    nodes = more.pop("nodes", [])
    task = build.task(
        GPT2,
        {"a": A},
        build.get("last", "unembed:output", [":", -1]),
        build.call("z", "index", "$last", [":", 4]),
        *nodes,
        **more,
    )
    with tokens() as seen:
        saved(gpt2, task)
    assert seen == []
    alike(gpt2, saved, task)


def test_a_neighbour_who_wants_all_gets_all(gpt2: Engine, build: Any, saved: Any):
    jobs = [difference(build, 3, 9), build.task(GPT2, {"a": B}, build.get("z", "unembed:output", [":", -1]))]
    with tokens() as seen:
        saved(gpt2, *jobs)
    assert seen == []
    alike(gpt2, saved, *jobs)


def test_a_token_that_is_computed_may_be_any(gpt2: Engine, build: Any, saved: Any):
    task = build.task(
        GPT2,
        {"a": A},
        build.get("h", "blocks.0:resid_post", [0, -1, 0]),
        build.call("sign", "gt", "$h", 0),
        build.call("token", "to", "$sign", "int64"),
        build.get("last", "unembed:output", [":", -1]),
        build.call("z", "index", "$last", [":", "$token"]),
        saves={"z": "$z"},
    )
    with tokens() as seen:
        saved(gpt2, task)
    assert seen == []
    alike(gpt2, saved, task)


def test_a_bias_of_the_head_counts(gpt2: Engine, build: Any, saved: Any):
    head: Any = gpt2.loaded.module.get_output_embeddings()
    head.bias = torch.nn.Parameter(torch.arange(head.out_features, dtype=torch.float32), requires_grad=False)
    try:
        task = difference(build, 3, 200)
        assert float(saved(gpt2, task)["z"]) < -100
        alike(gpt2, saved, task)
    finally:
        head.bias = None
