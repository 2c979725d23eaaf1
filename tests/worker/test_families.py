"""Standard aliases: the same name for the same place, and only where the place is there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GPTNeoXConfig, OPTConfig

from telepatch_protocol.card import Aliases
from telepatch_protocol.sites import find, parse
from telepatch_worker.cards import read_card
from telepatch_worker.families import aliases_of
from telepatch_worker.load import load
from telepatch_worker.publish import module_cards, observe

MODELS = Path(__file__).parents[2] / "models"


def test_gpt2_offers_every_place_of_a_decoder(tmp_path):
    found = load(MODELS / "gpt2-random.toml", cache=tmp_path).card.aliases
    assert found.modules == {
        "blocks.*": "transformer.h.*",
        "blocks.*.attn": "transformer.h.*.attn",
        "blocks.*.mlp": "transformer.h.*.mlp",
        "embed": "transformer.wte",
        "final_norm": "transformer.ln_f",
        "unembed": "lm_head",
    }
    assert {"resid_pre": "input", "resid_post": "output"}.items() <= found.ports["blocks.*"].items()


def test_llama_offers_the_same_names(tmp_path):
    gpt2, llama = (load(MODELS / f"{name}-random.toml", cache=tmp_path).card.aliases for name in ("gpt2", "llama"))
    assert llama.modules.keys() == gpt2.modules.keys()
    assert llama.modules["blocks.*.attn"] == "model.layers.*.self_attn"


def test_an_encoder_offers_only_what_it_has(tmp_path):
    found = load(MODELS / "bert-random.toml", cache=tmp_path).card.aliases
    assert found.modules == {
        "blocks.*": "encoder.layer.*",
        "blocks.*.attn": "encoder.layer.*.attention",
        "embed": "embeddings.word_embeddings",
    }


def test_every_alias_points_at_modules_that_fire(tmp_path):
    for name in ("gpt2-random", "llama-random", "bert-random"):
        card = load(MODELS / f"{name}.toml", cache=tmp_path).card
        for pattern in card.aliases.modules.values():
            module = card.by_path[pattern.replace("*", "0")]
            assert module.input
            assert module.output


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (
            GPTNeoXConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16),
            {"blocks.*", "blocks.*.attn", "blocks.*.mlp", "embed", "final_norm", "unembed"},
        ),
        (
            OPTConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, ffn_dim=16, word_embed_proj_dim=16),
            set(),
        ),
    ],
)
def test_other_families_offer_what_is_known_of_them(config, names):
    config.vocab_size, config.max_position_embeddings = 50, 64
    with torch.random.fork_rng(devices=[]):
        model = AutoModelForCausalLM.from_config(config).eval()
    found = aliases_of(module_cards(model, observe(model, "causal", 64)))
    assert set(found.modules) == names


@pytest.mark.parametrize("name", ["gpt2-random", "llama-random"])
def test_the_stream_written_at_a_block_is_the_stream_the_next_one_reads(name, tmp_path):
    loaded = load(MODELS / f"{name}.toml", cache=tmp_path)
    pattern = loaded.card.aliases.modules["blocks.*"]
    first, second = (loaded.module.get_submodule(pattern.replace("*", str(index))) for index in (1, 2))
    width = loaded.card.by_path[pattern.replace("*", "1")].output.leaves[0].axes[-1]
    written = torch.linspace(-1, 1, 7 * width).reshape(1, 7, width)
    seen = []
    handles = [
        first.register_forward_hook(lambda module, args, output: written),
        second.register_forward_pre_hook(lambda module, args: seen.append(args[0])),
    ]
    try:
        loaded.module(input_ids=torch.arange(7)[None], use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    assert torch.equal(seen[0], written)


def test_a_place_that_some_blocks_lack_is_not_offered(tmp_path):
    modules = load(MODELS / "llama-random.toml", cache=tmp_path).card.modules
    without = tuple(module for module in modules if module.path != "model.layers.3.mlp")
    assert "blocks.*.mlp" in aliases_of(modules).modules
    assert "blocks.*.mlp" not in aliases_of(without).modules
    assert "blocks.*.attn" in aliases_of(without).modules


def test_aliases_on_the_card_file_replace_those_of_the_family(tmp_path):
    own = Aliases(modules={"middle": "transformer.h.2"})
    card = read_card(MODELS / "gpt2-random.toml").model_copy(update={"aliases": own})
    assert load(card, cache=tmp_path).card.aliases == own


def test_aliases_on_the_card_file_may_be_parts_of_tensors_below_a_module(tmp_path):
    text = (
        (MODELS / "gpt2-random.toml").read_text()
        + """
[aliases.modules]
"middle" = "transformer.h.2"
[aliases.ports.middle]
values = { path = "attn.c_attn", port = "output", view = { split = [3, 4, 12], pick = [0, 2] } }
"""
    )
    (tmp_path / "own.toml").write_text(text)
    card = load(tmp_path / "own.toml", cache=tmp_path).card
    (found,) = find(card, parse("middle:values"))
    assert found.leaf.axes == ("row", "pos", 4, 12)
    assert found.place == find(card, parse("transformer.h.2.attn.c_attn:output"))[0].place
