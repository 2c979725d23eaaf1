"""Operations inside forwards, read and written: the engine alone and nnsight give the same bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from benches import Bench
from cases import tokens

from telepatch_protocol.graph import Graph
from telepatch_worker.engine import Engine, Task

IDS = tokens(9, 3)


@dataclass(frozen=True)
class Place:
    """An operation of a module, perhaps inside functions that are called."""

    model: str
    module: str
    names: tuple[str, ...]
    index: tuple[Any, ...] = (slice(None), 2)
    wire: tuple[Any, ...] = (":", 2)
    end: str = "lm_head:output"

    @property
    def site(self) -> str:
        return f"{self.module}:source.{'.source.'.join(self.names)}.output"

    def __str__(self) -> str:
        return f"{self.model} {self.site}"

    def envoy(self, root: Any) -> Any:
        found = root.get(self.module.replace(".output", ".E_output"))  # as nnsight serves a child of that name
        for name in self.names:
            found = getattr(found.source, name)
        return found


HEAD = {"index": (slice(None), 1, 2), "wire": (":", 1, 2)}
PLACES = (
    Place("gpt2-random", "transformer.h.1", ("hidden_states_1",)),
    Place("gpt2-random", "transformer.h.2.mlp", ("self_act_0",)),
    Place("gpt2-random", "transformer.h.1.attn", ("query_states_1",), **HEAD),
    Place("gpt2-random", "transformer", ("inputs_embeds_0",)),
    Place("gpt2-eager", "transformer.h.1.attn", ("attention_interface_1", "nn_functional_softmax_0"), **HEAD),
    Place("gpt2-eager", "transformer.h.1.attn", ("attention_interface_1", "attn_weights_4"), **HEAD),
    Place("llama-random", "model.layers.2", ("hidden_states_1",)),
    Place("llama-random", "model.layers.2.self_attn", ("apply_rotary_pos_emb_0", "rotate_half_0"), **HEAD),
    Place("llama-random", "model.layers.1.mlp", ("self_act_fn_0",)),
    Place("bert-random", "encoder.layer.1.attention.self", ("query_layer_0",), **HEAD, end="encoder.layer.3:output"),
    Place("bert-random", "encoder.layer.1.output", ("hidden_states_0",), end="encoder.layer.3:output"),
)


def document(place: Place) -> Graph:
    where = {"site": place.site, "invoke": "a"}
    nodes = [
        {"kind": "get", "id": "before", **where},
        {"kind": "set", "id": "write", **where, "index": list(place.wire), "value": 0.5},
        {"kind": "get", "id": "after", **where},
        {"kind": "get", "id": "end", "site": place.end, "invoke": "a"},
    ]
    return Graph.model_validate(
        {
            "model": {"id": place.model},
            "runs": [{"id": "r", "invokes": [{"id": "a", "ids": IDS}]}],
            "nodes": nodes,
            "saves": {name: f"${name}" for name in ("before", "after", "end")},
            "options": {"exact": True},
        }
    )


def by_engine(place: Place, engine: Engine) -> dict[str, torch.Tensor]:
    [outcome] = engine.run([Task("job", document(place))])
    assert outcome.error is None
    return outcome.saved or {}


def by_nnsight(place: Place, root: Any, kind: str) -> dict[str, torch.Tensor]:
    kept: dict[str, torch.Tensor] = {}
    extra = {"use_cache": False} if kind == "causal" else {}
    with torch.no_grad(), root.trace(input_ids=torch.tensor([IDS]), **extra):
        operation = place.envoy(root)
        kept["before"] = operation.output.clone()
        changed = operation.output.clone()
        changed[place.index] = 0.5
        operation.output = changed
        kept["after"] = operation.output.clone()
        kept["end"] = root.get(place.end.removesuffix(":output")).output.clone()
    return kept


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_the_engine_gives_bit_for_bit_what_nnsight_gives(place: Place, models: Callable[[str], Bench]):
    bench = models(place.model)
    found = by_engine(place, bench.engine)
    wanted = by_nnsight(place, bench.envoy, bench.engine.card.kind)
    for name, value in wanted.items():
        assert torch.equal(found[name], value), name
    assert not torch.equal(found["before"], found["after"])
