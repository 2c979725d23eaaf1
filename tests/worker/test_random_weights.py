"""Random weights: the same on every machine, whatever else draws random numbers."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from telepatch_worker.cards import CardFile, LoadError, read_card
from telepatch_worker.load import load
from telepatch_worker.random_weights import build, noise, place

MODELS = Path(__file__).parents[2] / "models"


def card(name: str = "gpt2-random", **changes) -> CardFile:
    return read_card(MODELS / f"{name}.toml").model_copy(update=changes)


def digest(model: torch.nn.Module) -> str:
    found = hashlib.sha256()
    for name, tensor in model.named_parameters():
        found.update(name.encode())
        found.update(tensor.detach().numpy().tobytes())
    return found.hexdigest()


def test_noise_has_the_bits_it_always_had():
    assert noise(7, "a.weight", (2, 3)).numpy().tobytes().hex() == KNOWN
    assert noise(8, "a.weight", (2, 3)).numpy().tobytes().hex() != KNOWN


def test_noise_has_mean_zero_and_deviation_one():
    values = noise(0, "x", (100, 1000))
    assert abs(float(values.mean())) < 0.01
    assert abs(float(values.std()) - 1) < 0.01


def test_one_seed_gives_one_model_and_another_gives_another():
    torch.manual_seed(1)
    first = digest(build(card()))
    torch.manual_seed(2)
    assert digest(build(card())) == first
    assert digest(build(card(seed=99))) != first


def test_the_global_random_states_are_untouched():
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    build(card("bert-random"))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]


@pytest.mark.parametrize("name", ["gpt2-random", "llama-random"])
def test_the_model_is_not_degenerate(name):
    model = build(card(name).model_copy(update={"attention": "eager"})).eval()
    ids = torch.arange(40)[None]
    with torch.no_grad():
        result = model(input_ids=ids, use_cache=False, output_attentions=True)
        swapped = model(input_ids=torch.cat([ids[:, :1] + 50, ids[:, 1:]], 1), use_cache=False).logits
    logits = result.logits[0]
    assert 0.3 < float(logits.std()) < 5
    assert len(set(logits.argmax(-1).tolist())) > 3
    last = torch.stack([pattern[0, :, -1] for pattern in result.attentions])
    assert float(last.max(-1).values.mean()) > 1.5 / 40
    assert float((swapped[0, -1] - logits[-1]).abs().max()) > 1e-3


def test_a_narrower_dtype_keeps_the_rotary_tables_wide():
    model = place(build(card("llama-random")), torch.device("cpu"), torch.bfloat16)
    assert model.lm_head.weight.dtype == torch.bfloat16
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32
    assert build(card("gpt2-random")).lm_head.weight is not None


def test_tied_weights_stay_tied():
    model = place(build(card()), torch.device("cpu"), torch.bfloat16)
    assert model.lm_head.weight is model.transformer.wte.weight


def test_an_unknown_family_or_configuration_field_is_refused_by_name():
    with pytest.raises(LoadError, match="no model type 'gpt9'"):
        build(card(source="config:gpt9"))
    with pytest.raises(LoadError, match="no field 'n_layers_typo'"):
        build(card(config={"n_layers_typo": 3}))


KNOWN = "6f427ebf9943bbbf0649adbf3faba43e0ef4b03b9658d13f"


def test_a_model_that_will_not_fit_is_refused_with_the_numbers_before_it_is_made(tmp_path):
    small = card()
    with pytest.raises(
        LoadError, match=r"gpt2-random: its weights need 0\.00 GiB in float32 on cpu, 0\.00 GiB are free"
    ):
        load(small, cache=tmp_path, free_bytes=1000)
    huge = card(config={**small.config, "n_embd": 4_800_000})
    with pytest.raises(LoadError, match=r"need [\d.]{7,} GiB"):
        load(huge, cache=tmp_path)
