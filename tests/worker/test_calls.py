"""Modules that fire several times in one forward, as in ALBERT: each call is a place of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from telepatch_protocol.errors import UnknownSite
from telepatch_worker.cards import CardFile
from telepatch_worker.engine import Engine
from telepatch_worker.load import load

CONFIG = {
    "vocab_size": 61,
    "embedding_size": 12,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 4,
    "inner_group_num": 2,
    "num_hidden_groups": 1,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
GROUP = "encoder.albert_layer_groups.0"
LAYER = f"{GROUP}.albert_layers.1"
IDS = [5, 17, 3, 44, 29, 8, 51]
EXACT = {"exact": True}


@pytest.fixture(scope="module")
def albert(tmp_path_factory, one_thread) -> Iterator[Engine]:
    file = CardFile(id="albert", source="config:albert", kind="encoder", tokenizer="none", config=CONFIG, device="cpu")
    engine = Engine(load(file, cache=Path(tmp_path_factory.mktemp("models"))))
    yield engine
    engine.close()


def hooked(engine: Engine, path: str, call: int, change=None) -> tuple[list[torch.Tensor], torch.Tensor]:
    """What a module returned at each call, and the last hidden state; one call's output is changed."""
    seen: list[torch.Tensor] = []

    def hook(module, args, output):
        value = output[0] if isinstance(output, tuple) else output
        seen.append(value.clone())
        if change is None or len(seen) - 1 != call:
            return None
        return (change, *output[1:]) if isinstance(output, tuple) else change

    handle = engine.loaded.module.get_submodule(path).register_forward_hook(hook)
    try:
        with torch.no_grad():
            end = engine.loaded.module(input_ids=torch.tensor([IDS])).last_hidden_state
    finally:
        handle.remove()
    return seen, end


@pytest.mark.parametrize("path", [GROUP, LAYER, f"{LAYER}.attention", f"{LAYER}.attention.query"])
@pytest.mark.parametrize("call", [0, 2, 3])
def test_a_read_at_a_call_is_what_the_module_returned_then(path, call, albert, build, saved):
    seen, _ = hooked(albert, path, call)
    get = build.get("x", f"{path}:output", call=call)
    found = saved(albert, build.task("albert", {"a": IDS}, get, options=EXACT))
    assert len(seen) == 4
    assert torch.equal(found["x"], seen[call])


@pytest.mark.parametrize("path", [GROUP, LAYER, f"{LAYER}.attention"])
@pytest.mark.parametrize("call", [0, 1, 3])
def test_a_write_at_a_call_changes_that_call_only(path, call, albert, build, saved):
    value = torch.linspace(-1, 1, 7 * 32).reshape(1, 7, 32)
    _, wanted = hooked(albert, path, call, value)
    write = build.set(f"{path}:output", "$v") | {"call": call}
    task = build.task(
        "albert",
        {"a": IDS},
        write,
        build.get("x", ":output"),
        constants={"v": {"tensor": "v"}},
        attachment={"v": value},
        saves={"x": "$x"},
        options=EXACT,
    )
    assert torch.equal(saved(albert, task)["x"], wanted)


def test_calls_follow_each_other_in_one_job_and_in_company(albert, build, saved):
    def job(length):
        return build.task(
            "albert",
            {"a": IDS[:length]},
            build.get("first", f"{LAYER}:output", [":", -1], call=1),
            build.set(f"{LAYER}:output", "$first", [":", -1]) | {"call": 2},
            build.get("before", f"{GROUP}.albert_layers.0:output", call=2),
            build.get("after", f"{GROUP}.albert_layers.0:input", [":", -1], call=3),
            saves={"first": "$first", "after": "$after", "before": "$before"},
        )

    together = saved(albert, job(3), job(7), job(5))
    for length, found in zip((3, 7, 5), together, strict=True):
        assert torch.equal(found["after"], found["first"])
        torch.testing.assert_close(found["before"], saved(albert, job(length))["before"])


def test_a_starred_site_stacks_the_modules_at_one_call(albert, build, saved):
    site = f"{GROUP}.albert_layers.*:output"
    found = saved(
        albert,
        build.task(
            "albert",
            {"a": IDS},
            build.get("x", site, call=2),
            build.get("y", f"{LAYER}:output", call=2),
            build.set(site, 0.0) | {"call": 3},
            build.get("end", ":output"),
        ),
    )
    assert found["x"].shape == (2, 1, 7, 32)
    assert torch.equal(found["x"][1], found["y"])
    assert not found["end"].any()


def test_an_operation_of_a_module_that_fires_several_times_is_taken_at_one_call(albert, build, saved):
    found = saved(
        albert,
        build.task(
            "albert",
            {"a": IDS},
            build.get("x", f"{LAYER}.attention:source.self_query_0.output", call=2),
            build.get("q", f"{LAYER}.attention.query:output", call=2),
            build.get("p", f"{LAYER}.attention:source.attention_interface_1.source.attn_weights_2.output", call=3),
        ),
    )
    assert torch.equal(found["x"], found["q"])
    torch.testing.assert_close(found["p"].sum(-1), torch.ones(1, 4, 7))


@pytest.mark.parametrize("site", [f"{LAYER}:output", f"{GROUP}.albert_layers.*:output"])
def test_a_call_left_out_is_refused_with_how_many_there_are(site, albert, build):
    with pytest.raises(UnknownSite, match="fires 4 times in one forward; say which call"):
        albert.plan(build.task("albert", {"a": IDS}, build.get("x", site)))


def test_a_call_that_does_not_happen_is_refused(albert, build):
    with pytest.raises(UnknownSite, match="fires 4 times in one forward; there is no call 4"):
        albert.plan(build.task("albert", {"a": IDS}, build.get("x", f"{LAYER}:output", call=4)))


def test_a_call_is_not_skipped_where_a_later_call_of_a_part_of_it_is_read(albert, build, saved):
    nodes = [
        {**build.set(f"{LAYER}:output", 0.5), "call": 0},
        build.get("x", f"{LAYER}.attention.query:output", call=1),
    ]
    exact = saved(albert, build.task("albert", {"a": IDS}, *nodes, options=EXACT))
    found = saved(albert, build.task("albert", {"a": IDS}, *nodes))
    assert torch.equal(found["x"], exact["x"])
