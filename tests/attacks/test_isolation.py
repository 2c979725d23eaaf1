"""In a batch of strangers nobody reads or changes what is another's, and after it the model is what it was."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from tests.attacks.strangers import stranger
from tests.worker.training import call, fit, get, runs
from tests.worker.training import task as fit_task

from telepatch_protocol.wire import from_dict
from telepatch_worker.engine import Engine, Task

Weights = Callable[[torch.nn.Module], str]

SECRET = 7919.25
"""A number that no model gives by itself."""

PROMPTS = [[5, 6, 7, 8, 9], [5, 6, 7], [20, 21, 22, 23, 24, 25]]
MODELS = ["gpt2-random", "llama-random"]


def victim(model: str, ids: list[int], id: str) -> Task:
    """Holds a secret in all its rows at several places, and reads beside them what only it has computed."""
    nodes: list[dict[str, Any]] = []
    for at, site in enumerate(("blocks.0:resid_post", "blocks.1.mlp:output", "final_norm:output")):
        nodes.append({"kind": "get", "id": f"g{at}", "site": site, "invoke": "a"})
        nodes.append({"kind": "set", "id": f"s{at}", "site": site, "invoke": "a", "value": SECRET, "index": [":", 0]})
    nodes.append({"kind": "get", "id": "z", "site": "unembed:output", "invoke": "a"})
    saves = {name: f"${name}" for name in ("g0", "g1", "g2", "z")}
    runs = [{"id": "r", "invokes": [{"id": "a", "ids": ids}]}]
    head = {"protocol": [1, 0], "model": {"id": model}}
    return Task(id, from_dict({**head, "runs": runs, "nodes": nodes, "saves": saves}))


def leaked(saved: dict[str, torch.Tensor] | None) -> bool:
    """Whether the secret is among the numbers."""
    return any(bool((value.double() == SECRET).any()) for value in (saved or {}).values() if value.numel())


def in_company(engine: Engine, model: str, seed: int, strangers: int) -> int:
    """One batch: a victim, a bystander, and strangers; says how many of these got through to an end."""
    dice = random.Random(seed)
    ids = dice.choice(PROMPTS)
    [alone] = engine.run([victim(model, ids, "alone")])
    assert alone.saved is not None
    tasks = [stranger(dice, model, PROMPTS) for _ in range(strangers)]
    tasks.insert(dice.randint(0, strangers), victim(model, ids, "victim"))
    outcomes = {outcome.id: outcome for outcome in engine.run(tasks)}
    found = outcomes.pop("victim")
    assert found.error is None, (seed, found.error)
    assert found.saved is not None
    for name, value in alone.saved.items():
        bound = engine.card.tolerance * float(value.abs().max())
        torch.testing.assert_close(
            found.saved[name], value, rtol=engine.card.tolerance, atol=bound, msg=f"{seed} {name}"
        )
    for outcome in outcomes.values():
        assert not leaked(outcome.saved), (seed, outcome.id)
    return sum(outcome.error is None for outcome in outcomes.values())


@pytest.mark.parametrize("model", MODELS)
def test_no_stranger_reads_or_changes_the_rows_of_another(
    engines: Callable[[str], Engine], weights: Weights, model: str
) -> None:
    engine = engines(model)
    with unchanged(engine, weights):
        through = sum(in_company(engine, model, seed, 8) for seed in range(12))
    assert through > 12, "most of what is drawn runs, or this tests nothing"


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_no_stranger_of_very_many_does(engines: Callable[[str], Engine], weights: Weights, model: str) -> None:
    engine = engines(model)
    with unchanged(engine, weights):
        for seed in range(1000, 1600):
            in_company(engine, model, seed, 12)


def test_the_secret_would_be_seen_if_it_got_out(engines: Callable[[str], Engine]) -> None:
    """The victim itself reads what it has written: so a leak of its rows would be found."""
    [outcome] = engines(MODELS[0]).run([reader("spy")])
    assert leaked(outcome.saved)


def reader(id: str) -> Task:
    """Writes the secret and reads it."""
    nodes = [
        {"kind": "set", "id": "s", "site": "blocks.0:resid_post", "invoke": "a", "value": SECRET},
        {"kind": "get", "id": "g", "site": "blocks.0:resid_post", "invoke": "a"},
    ]
    runs = [{"id": "r", "invokes": [{"id": "a", "ids": [1, 2]}]}]
    head = {"protocol": [1, 0], "model": {"id": MODELS[0]}}
    return Task(id, from_dict({**head, "runs": runs, "nodes": nodes, "saves": {"g": "$g"}}))


@contextmanager
def unchanged(engine: Engine, weights: Weights) -> Iterator[None]:
    """Weights, buffers, hooks, modes, gradients, and every generator of random numbers are the same afterwards."""
    before = state(engine, weights)
    yield
    after = state(engine, weights)
    for name, value in before.items():
        assert after[name] == value, f"{name} has changed"


def state(engine: Engine, weights: Weights) -> dict[str, Any]:
    """Everything that one job might leave behind for the next one."""
    module = engine.loaded.module
    return {
        "weights and buffers": weights(module),
        "numbers of PyTorch": torch.get_rng_state().numpy().tobytes(),
        "numbers of numpy": str(np.random.get_state()),
        "numbers of Python": random.getstate(),
        "gradients kept": torch.is_grad_enabled(),
        "dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "training": [one.training for one in module.modules()],
        "trainable": [one.requires_grad for one in module.parameters()],
        "gradients": [one.grad is None for one in module.parameters()],
        "hooks": [
            (len(one._forward_hooks), len(one._forward_pre_hooks), len(one._backward_hooks)) for one in module.modules()
        ],
        "forwards": [one.forward.__qualname__ for one in module.modules()],
        "attributes": [sorted(vars(one)) for one in module.modules()],
    }


GPT2 = "gpt2-random"


def graph_task(*nodes: dict[str, Any], saves: dict[str, str], id: str, **more: Any) -> Task:
    runs = more.pop("runs", [{"id": "r", "invokes": [{"id": "a", "ids": PROMPTS[0]}]}])
    document = {"protocol": [1, 1], "model": {"id": GPT2}, "runs": runs, "nodes": list(nodes), "saves": saves, **more}
    return Task(id, from_dict(document))


def kinds(dice: random.Random, number: int) -> list[Task]:
    """One job of every kind, in some order: those that end well, and those that fail half-way."""
    read = {"kind": "get", "id": "h", "site": "blocks.1:resid_post", "invoke": "a"}
    logits = {"kind": "get", "id": "z", "site": ":output", "invoke": "a"}
    write = {
        "kind": "set",
        "id": "w",
        "site": "blocks.0:resid_post",
        "invoke": "a",
        "value": dice.choice([0, "nan", 1e30]),
    }
    loss = {"kind": "call", "id": "s", "op": "sum", "args": ["$z"]}
    grad = {"kind": "grad", "id": "g", "of": "$s", "wrt": ["$h"]}
    edited = {
        "nodes": [{"kind": "get", "id": "d", "site": "blocks.1:resid_post.grad", "invoke": "a"}],
        "out": {"d": "$d"},
    }
    generated = {"id": "r", "generate": {"max_new_tokens": 5}, "invokes": [{"id": "x", "ids": PROMPTS[1]}]}
    drawn = {**generated, "generate": {"max_new_tokens": 5, "temperature": 1.5, "top_k": 50}}
    noise = {"kind": "call", "id": "n", "op": "randn", "args": [[4]], "kwargs": {"key": dice.randint(0, 9)}}
    far = {"kind": "call", "id": "i", "op": "add", "args": ["$c", 0]}
    fails = {"kind": "call", "id": "f", "op": "index", "args": ["$h", [":", "$i"]]}
    weight = {"kind": "get", "id": "p", "site": "unembed:param.weight"}
    doubled = {"kind": "call", "id": "q", "op": "mul", "args": ["$p", 2]}
    module = {"kind": "module", "id": "m", "path": "blocks.1.mlp", "args": ["$h"]}
    loop = {"kind": "repeat", "id": "l", "n": 3, "carry": {"c": "$h"}}
    loop["body"] = {"nodes": [{"kind": "call", "id": "cc", "op": "mul", "args": ["$c", 0.5]}], "out": {"c": "$cc"}}
    params = {"v": {"init": {"tensor": "v"}}}
    trained = [
        get("hh", "blocks.1:resid_post", [0, -1]),
        call("d", "sub", "$hh", "$v"),
        call("e", "square", "$d"),
        call("ee", "sum", "$e"),
    ]
    training = fit(
        {"p": [[5, 6], [7, 8], [9, 1], [2, 3]]}, trained, params, {"loss": "$ee"}, runs=runs(x="$p"), steps=2
    )
    jobs = [
        graph_task(write, read, logits, saves={"h": "$h", "z": "$z"}, id=f"write{number}"),
        graph_task(read, logits, loss, grad, saves={"g": "$g.0"}, id=f"grad{number}"),
        graph_task(read, logits, loss, {**grad, "body": edited}, saves={"g": "$g.0"}, id=f"back{number}"),
        graph_task(saves={"t": "$r.tokens"}, runs=[generated], id=f"greedy{number}"),
        graph_task(saves={"t": "$r.tokens"}, runs=[drawn], id=f"drawn{number}"),
        graph_task(noise, read, saves={"n": "$n", "h": "$h"}, id=f"noise{number}"),
        graph_task(read, far, fails, saves={"f": "$f"}, constants={"c": [99]}, id=f"fails{number}"),
        graph_task(weight, doubled, saves={"q": "$q"}, runs=[], id=f"weight{number}"),
        graph_task(read, module, loop, saves={"m": "$m", "l": "$l.c"}, id=f"module{number}"),
        graph_task(read, logits, saves={"h": "$h"}, options={"exact": True}, id=f"exact{number}"),
        fit_task(training, saves={"v": "$f.v"}, constants={"v": torch.zeros(48)}),
        stranger(dice, GPT2, PROMPTS),
    ]
    dice.shuffle(jobs)
    return jobs


def run_all(engine: Engine, rounds: range) -> dict[str, int]:
    """Jobs of every kind, again and again; says how many of each kind ended well."""
    well: dict[str, int] = {}
    for number in rounds:
        dice = random.Random(number)
        jobs = kinds(dice, number)
        cut = dice.randint(0, len(jobs))
        for some in (jobs[:cut], jobs[cut:]):
            for outcome in engine.run(some):
                kind = (
                    outcome.id.rstrip("0123456789")
                    if outcome.id[0] in "wgbdnfme" and "-" not in outcome.id
                    else "other"
                )
                well[kind] = well.get(kind, 0) + (outcome.error is None)
    return well


def test_after_jobs_of_every_kind_the_model_is_what_it_was(gpt2: Engine, weights: Weights) -> None:
    with unchanged(gpt2, weights):
        well = run_all(gpt2, range(3))
    assert well.pop("fails") == 0
    assert min(well.values()) > 0, well


@pytest.mark.slow
def test_after_very_many_jobs_the_model_is_what_it_was(gpt2: Engine, weights: Weights) -> None:
    with unchanged(gpt2, weights):
        run_all(gpt2, range(100, 300))


def sampled(id: str, seed: int | None) -> Task:
    settings: dict[str, Any] = {"max_new_tokens": 12, "temperature": 2.0} | ({} if seed is None else {"seed": seed})
    generation = {"id": "r", "generate": settings, "invokes": [{"id": "x", "ids": PROMPTS[0]}]}
    return graph_task(saves={"t": "$r.tokens"}, runs=[generation], id=id)


def noise(id: str, key: Any) -> Task:
    node = {"kind": "call", "id": "n", "op": "randn", "args": [[64]], "kwargs": {"key": key}}
    return graph_task(node, saves={"n": "$n"}, runs=[], id=id)


def test_a_seed_gives_the_same_numbers_alone_and_in_company_whatever_the_others_draw(gpt2: Engine, saved: Any) -> None:
    alone = saved(gpt2, sampled("a", 7))["t"]
    made = saved(gpt2, noise("n", 7))["n"]
    torch.manual_seed(123)
    random.seed(5)
    company = [sampled("b", None), sampled("c", 8), sampled("a", 7), noise("m", 8), noise("n", 7), sampled("d", 7)]
    found = dict(zip((task.id for task in company), saved(gpt2, *company), strict=True))
    assert torch.equal(found["a"]["t"], alone)
    assert torch.equal(found["d"]["t"], alone)
    assert torch.equal(found["n"]["n"], made)
    assert not torch.equal(found["c"]["t"], alone)
    assert not torch.equal(found["m"]["n"], made)


def test_without_a_seed_everybody_has_a_stream_of_their_own_that_nobody_can_set(gpt2: Engine, saved: Any) -> None:
    drawn = []
    for _ in range(2):
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        drawn += saved(gpt2, *(sampled(f"s{at}", None) for at in range(3)))
    assert len({tuple(one["t"].flatten().tolist()) for one in drawn}) == 6


def test_keys_that_look_alike_are_different_keys(gpt2: Engine, saved: Any) -> None:
    keys: list[Any] = [[1, 2], [12], [2, 1], [1, 2, 0], 1, 2, [0, 12], -1, 2**62, 0]
    found = saved(gpt2, *(noise(f"k{at}", key) for at, key in enumerate(keys)))
    assert len({tuple(one["n"].tolist()) for one in found}) == len(keys)
