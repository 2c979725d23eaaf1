"""Fits over streams of activations: never all held, mixed in a buffer, shared by every fit that reads them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.worker.training import call, fit, get, runs, task, trained
from torch.nn import functional

from telepatch_protocol.errors import BadArgument, ShapeError
from telepatch_worker.engine import BatchLimits, Engine
from telepatch_worker.examples import shuffled

GENERATOR = torch.Generator().manual_seed(0)
PROMPTS = [torch.randint(3, 250, (2 + at % 5,), generator=GENERATOR).tolist() for at in range(40)]
ROWS = sum(map(len, PROMPTS))
CLOSE = {"rtol": 1e-3, "atol": 1e-5}


def source(**more: Any) -> dict[str, Any]:
    body = {"runs": runs(x="$ids"), "nodes": [get("h", "blocks.1:resid_post", [0])], "out": {"h": "$h"}}
    return {"kind": "map", "id": "src", "over": {"ids": "$all"}, "body": body, "reduce": {"h": "cat"}, **more}


def activations(engine: Engine) -> torch.Tensor:
    """The same rows from plain hooks."""
    found: list[torch.Tensor] = []
    block = engine.loaded.module.get_submodule("transformer.h.1")
    handle = block.register_forward_hook(
        lambda _, __, output: found.append((output[0] if isinstance(output, tuple) else output)[0].detach())
    )
    try:
        with torch.no_grad():
            for ids in PROMPTS:
                engine.loaded.module(input_ids=torch.tensor([ids]), use_cache=False)
    finally:
        handle.remove()
    return torch.cat(found)


@pytest.fixture
def forwards(gpt2: Engine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each forward had."""
    rows: list[int] = []
    plain = gpt2.model.forward

    def counted(inputs: Any, *rest: Any, **options: Any) -> None:
        rows.append(inputs["input_ids"].shape[0])
        plain(inputs, *rest, **options)

    monkeypatch.setattr(gpt2.model, "forward", counted)
    return rows


WIDTH = 16
START = {
    "We0": torch.randn(48, WIDTH, generator=GENERATOR) * 0.1,
    "Wd0": torch.randn(WIDTH, 48, generator=GENERATOR),
    "be0": torch.zeros(WIDTH),
    "bd0": torch.zeros(48),
}


def autoencoder(id: str = "f", coefficient: Any = 0.05, **more: Any) -> dict[str, Any]:
    """A sparse autoencoder: Lp penalty with p from a schedule, dead neurons resampled from the batch."""
    before = {
        "nodes": [call(f"{id}t", "mul", "$step", 0.02), call(f"{id}p", "sub", 1.0, f"${id}t")],
        "out": {f"{id}power": f"${id}p"},
    }
    p = id  # names are unique in a document
    nodes = [
        call(f"{p}c", "sub", f"${p}x", f"${p}bd"),
        call(f"{p}pre", "matmul", f"${p}c", f"${p}We"),
        call(f"{p}pb", "add", f"${p}pre", f"${p}be"),
        call(f"{p}f", "relu", f"${p}pb"),
        call(f"{p}y", "matmul", f"${p}f", f"${p}Wd"),
        call(f"{p}xh", "add", f"${p}y", f"${p}bd"),
        call(f"{p}e", "sub", f"${p}xh", f"${p}x"),
        call(f"{p}e2", "square", f"${p}e"),
        call(f"{p}es", "sum", f"${p}e2", -1),
        call(f"{p}mse", "mean", f"${p}es"),
        call(f"{p}fc", "clamp", f"${p}f", min=1e-8),
        call(f"{p}fp", "pow", f"${p}fc", f"${p}power"),
        call(f"{p}sp", "sum", f"${p}fp", -1),
        call(f"{p}spm", "mean", f"${p}sp"),
        call(f"{p}pen", "mul", f"${p}spm", coefficient),
        call(f"{p}loss", "add", f"${p}mse", f"${p}pen"),
    ]
    after = {
        "nodes": [
            call(f"{p}on", "gt", f"${p}.f", 0),
            call(f"{p}al", "any", f"${p}on", 0),
            call(f"{p}d1", "add", f"${p}dead", 1),
            call(f"{p}d2", "where", f"${p}al", 0, f"${p}d1"),
            call(f"{p}kill", "ge", f"${p}d2", 2),
            call(f"{p}rs", "randint", 0, more.get("batch_size", 8), [WIDTH], key=[7, "$step"]),
            call(f"{p}xr", "index", f"${p}x", [f"${p}rs"]),
            call(f"{p}un", "normalize", f"${p}xr", dim=-1),
            call(f"{p}unT", "mT", f"${p}un"),
            call(f"{p}We2", "where", f"${p}kill", f"${p}unT", f"${p}We"),
            call(f"{p}kc", "index", f"${p}kill", [":", None]),
            call(f"{p}Wd2", "where", f"${p}kc", f"${p}un", f"${p}Wd"),
            call(f"{p}d3", "where", f"${p}kill", 0, f"${p}d2"),
        ],
        "carry": {f"{p}We": f"${p}We2", f"{p}Wd": f"${p}Wd2", f"{p}dead": f"${p}d3"},
        "reset_moments": {f"{p}We": f"${p}kill", f"{p}Wd": f"${p}kc"},
    }
    params = {f"{p}{name}": {"init": f"${name}0"} for name in ("We", "Wd", "be", "bd")}
    params[f"{p}Wd"] |= {"constraint": "unit_norm", "dim": 1}
    given = {
        "buffer": {"rows": 48, "refill": 0.5},
        "batch_size": 8,
        "shuffle": [11],
        "steps": 14,
        "before": before,
        "after": after,
        "state": {f"{p}dead": "$dead0"},
        "emit": {"dead": f"${p}dead"},
        **more,
    }
    out = {"loss": f"${p}loss", "f": f"${p}f"}
    return {**fit({f"{p}x": "$src.h"}, nodes, params, out, **given), "id": id}


CONSTANTS = {"all": PROMPTS, "dead0": torch.zeros(WIDTH, dtype=torch.int64), **START}


def buffered(rows: torch.Tensor, most: int, refill: float, size: int, key: list[int], steps: int) -> list[torch.Tensor]:
    """What an activation buffer gives, written down independently."""
    pool, fresh, fills, batches = rows[:0], rows, 0, []
    while len(batches) < steps:
        if len(pool) < max(size, int(refill * most)) and len(fresh):
            need = most - len(pool)
            pool, fresh = torch.cat([pool, fresh[:need]]), fresh[need:]
            pool = pool[shuffled(len(pool), key, fills)]
            fills += 1
        if len(pool) < size:
            pool, fresh = rows[:0], rows
            continue
        batches.append(pool[:size])
        pool = pool[size:]
    return batches


def plain_autoencoder(batches: list[torch.Tensor], coefficient: float) -> tuple[dict[str, torch.Tensor], list[float]]:
    from telepatch_worker.kernels import run_op

    own = {name.removesuffix("0"): value.clone() for name, value in START.items()}
    own["Wd"] = functional.normalize(own["Wd"], dim=1)
    leaves = [one.requires_grad_() for one in own.values()]
    made = torch.optim.Adam(leaves, 0.01)
    dead, losses = torch.zeros(WIDTH, dtype=torch.int64), []
    for step, x in enumerate(batches):
        acts = torch.relu((x - own["bd"]) @ own["We"] + own["be"])
        back = acts @ own["Wd"] + own["bd"]
        penalty = (acts.clamp(min=1e-8) ** (1.0 - 0.02 * step)).sum(-1).mean()
        loss = (back - x).square().sum(-1).mean() + coefficient * penalty
        made.zero_grad()
        loss.backward()
        with torch.no_grad():
            slope = own["Wd"].grad
            assert slope is not None
            slope -= (slope * own["Wd"]).sum(1, keepdim=True) * own["Wd"]
        made.step()
        with torch.no_grad():
            own["Wd"].copy_(functional.normalize(own["Wd"], dim=1))
            dead = torch.where((acts > 0).any(0), 0, dead + 1)
            kill = dead >= 2
            chosen = run_op("randint", (0, 8, [WIDTH]), {"key": [7, step]})
            assert isinstance(chosen, torch.Tensor)
            new = functional.normalize(x[chosen], dim=-1)
            own["We"].copy_(torch.where(kill, new.T, own["We"]))
            own["Wd"].copy_(functional.normalize(torch.where(kill[:, None], new, own["Wd"]), dim=1))
            dead = torch.where(kill, 0, dead)
            for name, mask in (("We", kill), ("Wd", kill[:, None])):
                for moment in ("exp_avg", "exp_avg_sq"):
                    made.state[own[name]][moment].masked_fill_(mask, 0)
        losses.append(float(loss.detach()))
    return {name: value.detach() for name, value in own.items()}, losses


def test_a_sparse_autoencoder_on_a_buffer_is_the_loop_of_pytorch(gpt2: Engine):
    saves = {**{name: f"$f.f{name}" for name in ("We", "Wd", "be", "bd", "dead")}, "loss": "$f.loss"}
    found = trained(gpt2, task(source(), autoencoder(), saves=saves, constants=CONSTANTS))
    batches = buffered(activations(gpt2), 48, 0.5, 8, [11], 14)
    own, losses = plain_autoencoder(batches, 0.05)
    torch.testing.assert_close(found["loss"], torch.tensor(losses), **CLOSE)
    for name in ("We", "Wd", "be", "bd"):
        torch.testing.assert_close(found[name], own[name], rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(found["Wd"].norm(dim=1), torch.ones(WIDTH))


def test_dead_neurons_are_indeed_resampled_in_that_test(gpt2: Engine):
    saves = {"dead": "$f.log.dead", "We": "$f.fWe"}
    found = trained(gpt2, task(source(), autoencoder(), saves=saves, constants=CONSTANTS))
    assert int(found["dead"].max()) >= 1


def test_the_stream_begins_again_when_it_is_over_and_epochs_end_it(gpt2: Engine, forwards: list[int]):
    nodes = [call("p", "mul", "$x", "$w"), call("l", "mean", "$p")]
    one = fit({"x": "$src.h"}, nodes, {"w": {"init": 1.0}}, {"loss": "$l"}, epochs=2, batch_size=10)
    one |= {"buffer": {"rows": 30}}
    found = trained(gpt2, task(source(), one, saves={"n": "$f.steps"}, constants={"all": PROMPTS}))
    assert int(found["n"]) == 2 * (ROWS // 10)
    assert sum(forwards) == 2 * len(PROMPTS)


def test_twenty_fits_of_a_sweep_share_one_stream_of_activations(
    gpt2: Engine, forwards: list[int], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(gpt2, "limits", BatchLimits(tokens=64, rows=8))
    rates = [0.01 * (at + 1) for at in range(8)]
    one = autoencoder(coefficient="$c", epochs=1)
    one.pop("steps")
    body = {"nodes": [one], "out": {"Wd": "$f.fWd", "loss": "$f.loss"}}
    sweep = {"kind": "map", "id": "m", "over": {"c": "$rates"}, "body": body}
    constants = {**CONSTANTS, "rates": torch.tensor(rates)}
    found = trained(gpt2, task(source(), sweep, saves={"Wd": "$m.Wd", "loss": "$m.loss"}, constants=constants))
    assert sum(forwards) == len(PROMPTS)
    single = autoencoder(coefficient=rates[5], epochs=1, steps=None)
    alone = trained(gpt2, task(source(), single, saves={"loss": "$f.loss"}, constants=CONSTANTS))
    torch.testing.assert_close(found["loss"][5], alone["loss"], **CLOSE)


def test_two_fits_of_a_job_share_a_stream_and_a_third_that_waits_for_them_reads_it_anew(
    gpt2: Engine, forwards: list[int]
):
    one, two = autoencoder("f"), autoencoder("g", 0.1, batch_size=4, steps=20)
    trained(gpt2, task(source(), one, two, saves={"a": "$f.fbd", "b": "$g.gbd"}, constants=CONSTANTS))
    assert sum(forwards) <= len(PROMPTS)
    forwards.clear()
    late = autoencoder("k", 0.1)
    late["params"]["kbd"]["init"] = "$f.fbd"
    trained(gpt2, task(source(), one, late, saves={"a": "$f.fbd", "b": "$k.kbd"}, constants=CONSTANTS))
    assert sum(forwards) <= 2 * len(PROMPTS)


def test_a_stream_needs_a_size_of_its_buffer_and_enough_rows_for_a_batch(gpt2: Engine):
    nodes = [call("p", "mul", "$x", "$w"), call("l", "mean", "$p")]

    def with_(buffer: dict[str, Any], size: int) -> Any:
        one = fit({"x": "$src.h"}, nodes, {"w": {"init": 1.0}}, {"loss": "$l"}, buffer=buffer, batch_size=size)
        return task(source(), one, saves={"w": "$f.w"}, constants={"all": PROMPTS})

    with pytest.raises(BadArgument, match=r"say in buffer.rows how many"):
        trained(gpt2, with_({}, 4))
    with pytest.raises(BadArgument, match="a buffer of 8 rows holds no batch of 9"):
        trained(gpt2, with_({"rows": 8}, 9))
    with pytest.raises(ShapeError, match=rf"takes batches of 1000 rows, and there are {ROWS}"):
        trained(gpt2, with_({"rows": 2000}, 1000))


def test_a_stream_that_somebody_saves_is_held_as_any_map_is(gpt2: Engine, forwards: list[int]):
    one = autoencoder()
    found = trained(gpt2, task(source(), one, saves={"h": "$src.h", "loss": "$f.loss"}, constants=CONSTANTS))
    torch.testing.assert_close(found["h"], activations(gpt2), **CLOSE)
    again = trained(gpt2, task(source(), one, saves={"loss": "$f.loss"}, constants=CONSTANTS))
    torch.testing.assert_close(found["loss"], again["loss"], **CLOSE)
