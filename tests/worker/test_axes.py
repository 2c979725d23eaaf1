"""Axes solved by running a model at two sizes of distinct primes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, BertConfig, GPT2Config, LlamaConfig

from telepatch_protocol.card import PortCard
from telepatch_worker.axes import Size, choose_sizes, model_sizes, solve, solve_axis, with_targets
from telepatch_worker.cards import read_card
from telepatch_worker.probe import watch
from telepatch_worker.publish import observe
from telepatch_worker.random_weights import build

MODELS = Path(__file__).parents[2] / "models"
SIZES = Size(5, 11), Size(7, 13)


def ports_of(name: str, **changes) -> dict[tuple[str, str], PortCard]:
    card = read_card(MODELS / f"{name}.toml").model_copy(update=changes)
    return observe(build(card).eval(), card.kind, 256)


def axes(port: PortCard, path: str | None = None) -> tuple:
    leaves = {leaf.path: leaf for leaf in port.leaves}
    return (port.leaves[port.primary] if path is None else leaves[path]).axes


def tiny(kind: str, width: int, heads: int) -> nn.Module:
    if kind == "gpt2":
        shape = {"n_positions": 64, "n_embd": width, "n_layer": 2, "n_head": heads, "attn_pdrop": 0.0}
        return AutoModelForCausalLM.from_config(GPT2Config(vocab_size=61, **shape), attn_implementation="eager").eval()
    shape = {"hidden_size": width, "num_hidden_layers": 2, "num_attention_heads": heads, "intermediate_size": 22}
    if kind == "bert":
        config = BertConfig(vocab_size=61, max_position_embeddings=64, **shape)
        return AutoModel.from_config(config, attn_implementation="eager").eval()
    config = LlamaConfig(vocab_size=61, max_position_embeddings=64, num_key_value_heads=heads, **shape)
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


def test_an_axis_is_what_changed_with_the_rows_or_the_positions_or_nothing():
    solved = [solve_axis(*pair, SIZES) for pair in [(48, 48), (5, 7), (11, 13), (55, 91), (5, 13), (60, 84), (6, 8)]]
    assert solved == [48, "row", "pos", "row*pos", None, None, None]


def test_sizes_are_distinct_primes_that_the_model_does_not_have():
    one, two = choose_sizes({3, 5, 7, 13, 48, 11 * 19}, 256)
    chosen = [one.rows, one.positions, two.rows, two.positions]
    assert len(set(chosen)) == 4
    assert not {3, 5, 7, 13} & set(chosen)
    assert {48, 11 * 19}.isdisjoint({one.rows * one.positions, two.rows * two.positions})
    assert all(number % factor for number in chosen for factor in range(2, number))


@pytest.mark.parametrize("most", [2, 3, 4, 7, 12, 20, 256])
def test_sizes_never_pass_the_longest_input_of_the_model(most):
    one, two = choose_sizes({3, 5, 7}, most)
    assert max(one.positions, two.positions) <= most
    assert len({one.rows, two.rows, one.positions, two.positions}) == 4


def test_sizes_hold_what_every_row_holds_and_lengths_of_a_decoder_are_like_no_other():
    one, two = with_targets(choose_sizes({3, 577, 587}, 4096, least=577), {3, 577, 11})
    assert (one.positions, two.positions) == (593, 599)
    numbers = [one.rows, two.rows, one.positions, two.positions, one.target, two.target]
    assert len(set(numbers)) == 6
    assert solve_axis(one.target, two.target, (one, two)) == "target"
    assert choose_sizes(set(), 6, least=5)[1].positions <= 6


def test_gpt2_is_solved_everywhere():
    ports = ports_of("gpt2-random")
    assert all(leaf.solved for port in ports.values() for leaf in port.leaves)
    assert axes(ports["", "input"]) == ("row", "pos")
    assert axes(ports["", "output"]) == ("row", "pos", 257)
    assert axes(ports["transformer.h.2", "output"]) == ("row", "pos", 48)
    assert axes(ports["transformer.h.2.attn.c_attn", "output"]) == ("row", "pos", 144)
    assert axes(ports["transformer.wpe", "output"]) == (1, "pos", 48)
    assert ports["transformer.h.2.attn", "output"].arity == 2
    assert ports["transformer.h.2", "output"].arity is None


def test_llama_attention_called_by_keywords_has_its_hidden_states_as_input():
    ports = ports_of("llama-random")
    port = ports["model.layers.0.self_attn", "input"]
    assert port.leaves[port.primary].path == "hidden_states"
    assert axes(port) == ("row", "pos", 64)
    assert axes(port, "position_embeddings.0") == (1, "pos", 8)
    assert axes(ports["model.layers.0.self_attn.k_proj", "output"]) == ("row", "pos", 32)


def test_an_encoder_is_probed_with_a_mask():
    ports = ports_of("bert-random")
    assert axes(ports["encoder.layer.0", "input"], "1") == ("row", 1, "pos", "pos")
    assert axes(ports["", "output"]) == ("row", "pos", 48)
    assert axes(ports["", "output"], "pooler_output") == ("row", 48)
    assert axes(ports["encoder.layer.0.output", "input"], "1") == ("row", "pos", 48)


def test_attention_patterns_are_four_axes_under_eager_attention():
    ports = ports_of("gpt2-random", attention="eager")
    assert axes(ports["transformer.h.0.attn", "output"], "1") == ("row", 4, "pos", "pos")


def test_what_belongs_to_the_engine_is_marked_wherever_it_turns_up():
    gpt2, llama, bert = ports_of("gpt2-random"), ports_of("llama-random"), ports_of("bert-random")

    def owned(port: PortCard) -> set[str]:
        return {leaf.path for leaf in port.leaves if leaf.engine}

    assert owned(llama["model.layers.1", "input"]) == {
        "position_embeddings.0",
        "position_embeddings.1",
        "position_ids",
    }
    assert owned(llama["model.rotary_emb", "output"]) == {"0", "1"}
    assert owned(gpt2["transformer.wpe", "input"]) == {"0"}
    assert owned(bert["encoder.layer.0", "input"]) == {"1"}
    assert owned(bert["embeddings.position_embeddings", "input"]) == {"0"}
    assert owned(bert["", "input"]) == {"attention_mask"}
    for ports in (gpt2, llama, bert):
        assert not any(leaf.engine for leaf in ports["", "output"].leaves)


def test_events_are_counted_in_firing_order():
    ports = ports_of("gpt2-random")
    orders = sorted(order for port in ports.values() for order in port.order)
    assert orders == list(range(len(orders)))
    assert ports["", "input"].order == (0,)
    assert ports["", "output"].order == (orders[-1],)
    assert ports["transformer.h.0", "output"].order < ports["transformer.h.1", "input"].order
    inside = ports["transformer.h.1.mlp", "input"].order[0]
    assert ports["transformer.h.1", "input"].order[0] < inside < ports["transformer.h.1", "output"].order[0]


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bert"])
@pytest.mark.parametrize(
    ("width", "heads"), [(12, 3), (20, 5), (14, 7), (22, 11), (26, 13), (34, 17), (6, 3), (58, 29)]
)
def test_heads_and_widths_that_equal_the_probing_sizes_stay_fixed(kind, width, heads):
    model = tiny(kind, width, heads)
    prefix = {"gpt2": "transformer.h.1", "llama": "model.layers.1", "bert": "encoder.layer.1"}[kind]
    name = {"gpt2": "attn", "llama": "self_attn", "bert": "attention"}[kind]
    ports = observe(model, "encoder" if kind == "bert" else "causal", 64)
    assert all(leaf.solved for port in ports.values() for leaf in port.leaves)
    assert axes(ports[prefix, "output"]) == ("row", "pos", width)
    assert axes(ports[f"{prefix}.{name}", "output"], "1") == ("row", heads, "pos", "pos")


@pytest.mark.parametrize("taken", [5, 11, 7, 13, 55, 91])
def test_a_width_that_equals_a_probing_size_is_still_told_apart(taken):
    ports = solved(nn.Sequential(nn.Embedding(97, taken), nn.Linear(taken, taken)))
    assert axes(ports["1", "output"]) == ("row", "pos", taken)


class Named(nn.Module):
    """Takes the ids by name, as models do."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, input_ids):
        return self.inner(input_ids)


def solved(module: nn.Module) -> dict[tuple[str, str], PortCard]:
    wrapped = Named(module).eval()
    first, second = (
        watch(wrapped, {"input_ids": torch.arange(size.rows * size.positions).reshape(size.rows, -1)}) for size in SIZES
    )
    found = solve(first, second, SIZES)
    return {(path.removeprefix("inner").removeprefix("."), port): card for (path, port), card in found.items()}


class Shapes(nn.Module):
    """Gives back what it is told to make from the ids."""

    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, ids):
        return self.make(ids)


def test_flattened_rows_and_positions_are_told_from_transposed_ones():
    flat = solved(Shapes(lambda ids: ids.reshape(-1, 1).float()))
    assert axes(flat["", "output"]) == ("row*pos", 1)
    turned = solved(Shapes(lambda ids: ids.T.float()))
    assert axes(turned["", "output"]) == ("pos", "row")


def test_a_size_that_is_no_product_of_rows_and_positions_is_left_unknown():
    heads = solved(Shapes(lambda ids: ids.repeat(12, 1).float()))
    assert axes(heads["", "output"]) == (None, "pos")
    longer = solved(Shapes(lambda ids: torch.cat([ids, ids[:, :1]], 1).float()))
    assert axes(longer["", "output"]) == ("row", None)


class Twice(nn.Module):
    """Calls its child twice, on what differs by one axis."""

    def __init__(self):
        super().__init__()
        self.child = nn.Identity()

    def forward(self, ids):
        return self.child(ids.float()), self.child(ids[:, :4].float()), None


def test_a_module_that_fires_twice_has_two_orders_and_the_axes_both_calls_share():
    ports = solved(Twice())
    assert ports["child", "input"].order == (2, 4)
    assert ports["child", "output"].order == (3, 5)
    assert axes(ports["child", "output"]) == ("row", None)
    assert ports["", "output"].arity == 3
    assert [leaf.path for leaf in ports["", "output"].leaves] == ["0", "1"]


class Sometimes(nn.Module):
    """Calls its child only for some sizes."""

    def __init__(self):
        super().__init__()
        self.child = nn.Identity()

    def forward(self, ids):
        return self.child(ids.float()) if ids.shape[0] == 5 else ids.float()


def test_a_module_that_fires_depending_on_the_data_has_no_ports():
    ports = solved(Sometimes())
    assert ("child", "output") not in ports
    assert axes(ports["", "output"]) == ("row", "pos")


def test_sizes_of_the_model_include_parameters_buffers_and_configuration():
    model = tiny("gpt2", 12, 3)
    assert {12, 36, 48, 61, 64, 3, 2} <= model_sizes(model)
