"""From a card file to a model that can be served."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from telepatch_protocol.card import ModelCard
from telepatch_worker.byte_tokenizer import byte_tokenizer
from telepatch_worker.cards import CardFile, LoadError, read_card
from telepatch_worker.load import load
from telepatch_worker.random_weights import build
from telepatch_worker.store import user_cache

MODELS = Path(__file__).parents[2] / "models"
SMALL = ["gpt2-random", "llama-random", "bert-random"]


def kept() -> Path:
    """The cache that lasts, so that the demo model is fetched once and not by every run of the tests."""
    return Path(os.environ.get("TELEPATCH_CACHE") or user_cache())


def path_card(folder: Path, **changes) -> CardFile:
    return CardFile.model_validate({"id": "there", "source": f"path:{folder}", "tokenizer": "bytes", **changes})


@pytest.mark.parametrize("name", SMALL)
def test_a_loaded_model_is_ready_to_run_and_cannot_be_trained(name, tmp_path):
    loaded = load(MODELS / f"{name}.toml", cache=tmp_path)
    assert not loaded.module.training
    assert not any(parameter.requires_grad for parameter in loaded.module.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in loaded.module.modules())
    assert loaded.card.id == name


@pytest.mark.parametrize("name", SMALL)
def test_the_card_survives_the_wire_and_names_every_module_and_parameter(name, tmp_path):
    loaded = load(MODELS / f"{name}.toml", cache=tmp_path)
    card = ModelCard.model_validate_json(loaded.card.model_dump_json())
    assert card == loaded.card
    assert [module.path for module in card.modules] == [path for path, _ in loaded.module.named_modules()]
    for path, tensor in [*loaded.module.named_parameters(), *loaded.module.named_buffers()]:
        owner, _, parameter = path.rpartition(".")
        assert card.by_path[owner].params[parameter].shape == tuple(tensor.shape)
    assert card.vocabulary == 257
    assert card.limits.max_positions == 256
    assert card.parameters == sum(parameter.numel() for parameter in loaded.module.parameters())


def test_the_tokenizer_file_is_the_one_the_card_names_and_stands_alone(tmp_path):
    loaded = load(MODELS / "gpt2-random.toml", cache=tmp_path)
    assert hashlib.sha256(loaded.tokenizer_json).hexdigest() == loaded.card.tokenizer
    assert Tokenizer.from_str(loaded.tokenizer_json.decode()).encode("Rome").ids == loaded.tokenizer("Rome").input_ids


def test_the_tokenizer_file_neither_pads_nor_cuts_though_it_was_saved_so(tmp_path):
    build(read_card(MODELS / "bert-random.toml")).save_pretrained(tmp_path / "model")
    tokenizer = byte_tokenizer(256)
    tokenizer.backend_tokenizer.enable_padding(length=8, pad_id=256)
    tokenizer.backend_tokenizer.enable_truncation(8)
    tokenizer.save_pretrained(tmp_path / "model")
    loaded = load(path_card(tmp_path / "model", kind="encoder", tokenizer="own"), cache=tmp_path)
    alone = Tokenizer.from_str(loaded.tokenizer_json.decode())
    assert alone.encode("one").ids == list(b"one")
    assert alone.encode("longer than eight").ids == list(b"longer than eight")


def test_a_model_of_token_ids_only_has_no_tokenizer(tmp_path):
    card = read_card(MODELS / "gpt2-random.toml").model_copy(update={"tokenizer": "none"})
    loaded = load(card, cache=tmp_path)
    assert (loaded.tokenizer, loaded.tokenizer_json, loaded.card.tokenizer) == (None, None, None)


def test_the_revision_is_of_the_weights_and_how_they_run_and_not_of_the_name(tmp_path):
    card = read_card(MODELS / "gpt2-random.toml")

    def revision(**changes) -> str:
        return load(card.model_copy(update=changes), cache=tmp_path).revision

    same = revision()
    assert revision(id="other", title="Other") == same
    others = {revision(seed=1), revision(dtype="bfloat16"), revision(attention="eager")}
    assert len({same, *others}) == 4


def test_a_folder_is_another_model_once_one_weight_is_edited(tmp_path):
    model = build(read_card(MODELS / "gpt2-random.toml"))
    model.save_pretrained(tmp_path / "model")
    card = path_card(tmp_path / "model")
    first = load(card, cache=tmp_path)
    assert torch.equal(first.module.lm_head.weight, model.lm_head.weight)
    with torch.no_grad():
        model.transformer.h[2].mlp.c_fc.weight[3, 5] += 1
    model.save_pretrained(tmp_path / "model")
    assert load(card, cache=tmp_path).revision != first.revision


def test_weights_that_the_files_lack_are_refused_instead_of_made_up(tmp_path):
    model = build(read_card(MODELS / "gpt2-random.toml"))
    weights = {name: tensor for name, tensor in model.state_dict().items() if name != "transformer.h.1.mlp.c_fc.weight"}
    model.save_pretrained(tmp_path / "model", state_dict={**weights, "lm_head.weight": model.lm_head.weight.clone()})
    with pytest.raises(LoadError, match=r"1 weights of GPT2LMHeadModel .*transformer\.h\.1\.mlp\.c_fc\.weight"):
        load(path_card(tmp_path / "model"), cache=tmp_path)


def test_an_encoder_without_a_pooler_is_served_without_one(tmp_path):
    model = build(read_card(MODELS / "bert-random.toml"))
    weights = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("pooler.")}
    model.save_pretrained(tmp_path / "model", state_dict=weights)
    before = torch.get_rng_state()
    loaded = load(path_card(tmp_path / "model", kind="encoder"), cache=tmp_path)
    assert loaded.module.pooler is None
    assert torch.equal(torch.get_rng_state(), before)


def test_a_folder_that_holds_no_model_is_refused_by_name(tmp_path):
    with pytest.raises(LoadError, match=r"has no 'config\.json'"):
        load(path_card(tmp_path), cache=tmp_path)


def test_loading_touches_no_global_random_state(tmp_path):
    build(read_card(MODELS / "gpt2-random.toml")).save_pretrained(tmp_path / "model")
    before = torch.get_rng_state()
    load(path_card(tmp_path / "model"), cache=tmp_path)
    load(MODELS / "gpt2-random.toml", cache=tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_device_that_is_not_here_is_refused_with_what_would_do(tmp_path):
    card = read_card(MODELS / "gpt2-random.toml").model_copy(update={"device": "cuda"})
    with pytest.raises(LoadError, match="0 CUDA devices; use 'auto'"):
        load(card, cache=tmp_path)


def test_progress_bars_of_the_libraries_stay_silent(tmp_path, capfd):
    build(read_card(MODELS / "gpt2-random.toml")).save_pretrained(tmp_path / "model")
    capfd.readouterr()
    load(path_card(tmp_path / "model"), cache=tmp_path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.timeout(600)
def test_the_demo_model_knows_who_was_given_the_drink():
    loaded = load(MODELS / "smollm2-135m.toml", cache=kept())
    prompt = "When Mary and John went to the store, John gave a drink to"
    ids = loaded.tokenizer(prompt, return_tensors="pt").input_ids
    mary, john = (loaded.tokenizer(name).input_ids[0] for name in (" Mary", " John"))
    logits = loaded.module(input_ids=ids, use_cache=False).logits[0, -1]
    assert int(logits.argmax()) == mary
    assert float(logits[mary] - logits[john]) == pytest.approx(6.12, abs=0.05)
    assert all(leaf.solved for module in loaded.card.modules if module.output for leaf in module.output.leaves)


def test_the_sentence_encoder_finds_the_sentence_of_like_meaning():
    loaded = load(MODELS / "minilm.toml", cache=kept())
    texts = ["A cat sits on the mat.", "A kitten is resting on a rug.", "The stock market fell sharply today."]
    inputs = loaded.tokenizer(texts, padding=True, return_tensors="pt")
    mask = inputs.attention_mask[..., None]
    states = loaded.module(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask).last_hidden_state
    vectors = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
    assert float(vectors[0] @ vectors[1]) > 0.5 > float(vectors[0] @ vectors[2]) + 0.3
