"""Standard ports of every family: read as a block written out by hand has them, and written with its consequences."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from blocks import carried_on
from families import FAMILIES, MEANINGS, Family

from telepatch_protocol.sites import find, parse
from telepatch_worker.engine import Engine
from telepatch_worker.load import load

IDS = [[5, 17, 3, 44, 29, 8, 51], [9, 2, 33, 60, 21, 12, 7]]
LAYER = 1

CASES = [pytest.param(family, port, id=f"{family.id}-{port}") for family in FAMILIES for port in family.ports]
Taps = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Iterator[Callable[[Family], Engine]]:
    made: dict[str, Engine] = {}

    def engine(family: Family) -> Engine:
        if family.id not in made:
            made[family.id] = Engine(load(family.card(), cache=tmp_path_factory.mktemp("models")))
        return made[family.id]

    yield engine
    for one in made.values():
        one.close()


def by_hand(engine: Engine, change: Callable[[str, torch.Tensor], torch.Tensor] = lambda name, value: value):
    """The stream after the last block and what the taps of one block saw, from the first block's own input on."""
    model, blocks = engine.loaded.module, engine.card.aliases.modules["blocks.*"]
    start: list[torch.Tensor] = []
    first = model.get_submodule(blocks.replace("*", "0"))
    handle = first.register_forward_pre_hook(lambda module, args: start.append(args[0].clone()))
    try:
        model(input_ids=torch.tensor(IDS))
    finally:
        handle.remove()
    seen: Taps = {}

    def tap(layer: int, name: str, value: torch.Tensor) -> torch.Tensor:
        if layer != LAYER:
            return value
        seen[name] = value.clone()
        return change(name, value)

    return carried_on(dict(model.state_dict()), model.config, blocks, start[0], tap), seen


def last_block(engine: Engine) -> str:
    return f"blocks.{engine.loaded.module.config.num_hidden_layers - 1}:resid_post"


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    shown = wanted[wanted > -1e30].abs().max()
    torch.testing.assert_close(found, wanted, rtol=3e-5, atol=float(3e-5 * shown))


@pytest.mark.parametrize(("family", "port"), CASES)
def test_reading_gives_what_the_block_has_there(family: Family, port: str, tiny, build, saved):
    engine = tiny(family)
    _, wanted = by_hand(engine)
    found = saved(engine, build.task(family.id, {"a": IDS}, build.get("x", f"blocks.{LAYER}:{port}")))
    close(found["x"], wanted[port])


@pytest.mark.parametrize(("family", "port"), CASES)
def test_writing_has_the_consequences_it_has_in_the_block(family: Family, port: str, tiny, build, saved):
    engine = tiny(family)
    plain, seen = by_hand(engine)
    index, value = region(port, seen[port])

    def change(name: str, there: torch.Tensor) -> torch.Tensor:
        if name != port:
            return there
        there = there.clone()
        there[index] = value
        return there

    wanted, _ = by_hand(engine, change)
    task = build.task(
        family.id,
        {"a": IDS},
        build.set(f"blocks.{LAYER}:{port}", "$v", wire(index)),
        build.get("y", last_block(engine)),
        constants={"v": {"tensor": "v"}},
        attachment={"v": value},
        saves={"y": "$y"},
    )
    others = [build.task(family.id, {"a": [list(range(n))]}, build.get("o", f"blocks.{LAYER}:{port}")) for n in (3, 11)]
    alone, together = saved(engine, task)["y"], saved(engine, *others[:1], task, *others[1:])[1]["y"]
    assert not torch.allclose(wanted, plain, rtol=1e-3)
    close(alone, wanted)
    close(together, wanted)


@pytest.mark.parametrize(("family", "port"), CASES)
def test_the_axes_on_the_card_are_those_in_the_table(family: Family, port: str, tiny):
    engine = tiny(family)
    config = engine.loaded.module.config
    heads = config.num_attention_heads
    sizes = {
        "head": heads,
        "kv_head": getattr(config, "num_key_value_heads", None) or heads,
        "d_head": getattr(config, "head_dim", None) or config.hidden_size // heads,
        "d_model": config.hidden_size,
        "d_mlp": getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
        "expert": getattr(config, "num_local_experts", 0),
    }
    (found,) = find(engine.card, parse(f"blocks.{LAYER}:{port}"))
    assert found.leaf.axes == tuple(sizes.get(name, name) for name in MEANINGS[port][0].split(", "))
    assert found.eager == (port in ("scores", "pattern") and engine.card.attention != "eager")


def region(port: str, value: torch.Tensor) -> tuple[tuple[Any, ...], torch.Tensor]:
    """Part of a place, and something else to be there: one head at some positions, where there are heads."""
    every = slice(None)
    if port in ("scores", "pattern"):
        index: tuple[Any, ...] = (every, 1, slice(4, 6), slice(2, 4))
    elif value.ndim == 4:
        index = (every, slice(2, 5), 1)
    else:
        index = (every, slice(2, 5))
    there = value[index]
    noise = torch.linspace(-1, 1, there.numel()).sin().reshape(there.shape)
    return index, noise.abs() if port == "pattern" else there.flip(-1) + noise


def wire(index: tuple[Any, ...]) -> list[Any]:
    return [f"{one.start or ''}:{one.stop or ''}" if isinstance(one, slice) else one for one in index]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.id)
def test_a_card_offers_the_ports_of_its_family_and_no_others(family: Family, tiny):
    assert set(tiny(family).card.aliases.ports["blocks.*"]) == set(family.ports)
