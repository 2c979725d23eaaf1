"""Which operations a card offers: one list for modules that are built alike, and none where they cannot be watched."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from telepatch_protocol.card import ModelCard
from telepatch_protocol.sites import find, parse
from telepatch_worker.axes import Size, solve
from telepatch_worker.probe import watch
from telepatch_worker.publish import module_cards, with_operations
from telepatch_worker.source_cards import Offered, offer

SIZES = Size(3, 5), Size(7, 11)


class Turns(nn.Module):
    """Takes as many turns as it is told: the same line happens several times."""

    def __init__(self, turns: int, width: int = 4):
        super().__init__()
        self.turns = turns
        self.linear = nn.Linear(width, width)

    def forward(self, x):
        for _ in range(self.turns):
            x = torch.tanh(self.linear(x))
        return x


class Data(nn.Module):
    """Takes as many turns as there are rows."""

    def forward(self, x):
        for _ in range(len(x)):
            x = torch.sin(x)
        return torch.cos(x)


class Watchful(nn.Module):
    """Runs as it is written or not at all."""

    def forward(self, x):
        if sys._getframe().f_code is not Watchful.forward.__code__:
            raise RuntimeError("somebody changed me")
        return x * 2.0


class Model(nn.Module):
    def __init__(self, *parts: nn.Module):
        super().__init__()
        self.embed = nn.Embedding(97, 4)
        self.parts = nn.ModuleList(parts)

    def forward(self, input_ids, use_cache=False):
        x = self.embed(input_ids)
        for part in self.parts:
            x = part(x)
        return x


def inputs(size: Size) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.arange(size.rows * size.positions).reshape(size.rows, -1) % 97}


def offered(*parts: nn.Module) -> Offered:
    model = Model(*parts).eval()
    modules = module_cards(model, solve(*(watch(model, inputs(size)) for size in SIZES), SIZES))
    found = offer(model, modules, lambda size: model(**inputs(size)), SIZES)
    assert not any("forward" in module.__dict__ for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    return found


def test_modules_that_are_built_alike_share_one_list_and_others_have_their_own():
    found = offered(Turns(2), Turns(2), Turns(3))
    assert found.keys["parts.0"] == found.keys["parts.1"] == "Turns"
    assert found.keys["parts.2"] == "Turns/2"
    assert "parts.0.linear" not in found.keys
    assert [one.name for one in found.sources["Turns"].operations] == ["self_linear_0", "torch_tanh_0", "x_0"]


def test_an_operation_in_a_loop_has_a_place_for_each_turn():
    flow = offered(Turns(3)).sources["Turns"].by_name["torch_tanh_0"].output
    assert flow.at == ((2, 2), (4, 2), (6, 2))


def test_what_happens_as_often_as_the_data_says_is_left_out():
    names = [one.name for one in offered(Data()).sources["Data"].operations]
    assert names == ["len_0", "torch_cos_0"]


def test_a_model_whose_code_does_not_run_in_another_form_is_served_without_operations():
    model = Model(Watchful()).eval()
    modules = module_cards(model, solve(*(watch(model, inputs(size)) for size in SIZES), SIZES))
    with pytest.raises(RuntimeError, match="somebody changed me"):
        offer(model, modules, lambda size: model(**inputs(size)), SIZES)
    assert with_operations(model, "causal", 64, modules) == (modules, {})
    assert not any("forward" in module.__dict__ for module in model.modules())
    assert model(**inputs(SIZES[0])).shape == (3, 5, 4)


def test_a_card_grows_with_kinds_of_modules_and_not_with_layers(gpt2, engines):
    def size(card: ModelCard) -> int:
        return sum(len(source.model_dump_json()) for source in card.sources.values())

    assert len(gpt2.card.sources) < 12
    assert size(gpt2.card) < 40_000
    llama = engines("llama-random").card
    blocks = [module.source for module in llama.modules if module.kind == "LlamaDecoderLayer"]
    assert len(blocks) == 5
    assert len(set(blocks)) == 1


def test_operations_lie_between_the_events_of_modules_in_the_order_in_which_they_happen(gpt2, build, saved):
    sites = ["ln_1:output", "attn:source.split_1.outputs.0", "attn.c_proj:input", "attn:output", "mlp:input"]
    block = ["source.residual_0.output", *sites, "source.hidden_states_5.output", "output"]
    text = [f"transformer.h.1.{one}" if ":" in one else f"transformer.h.1:{one}" for one in block]
    orders = [find(gpt2.card, parse(one))[0].order for one in text]
    assert orders == sorted(orders)
    assert len(set(orders)) == len(orders)


def test_probing_leaves_the_attention_of_the_model_as_it_was(gpt2):
    assert gpt2.loaded.module.config._attn_implementation == "sdpa"
