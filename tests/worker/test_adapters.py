"""PEFT adapters on a card; where PEFT is not installed, the refusal that says so."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path

import pytest
import torch

from telepatch_worker.adapters import adapters_identity
from telepatch_worker.cards import CardFile, LoadError, read_card
from telepatch_worker.load import load
from telepatch_worker.random_weights import build

MODELS = Path(__file__).parents[2] / "models"
LLAMA = read_card(MODELS / "llama-random.toml")


def with_adapters(**folders: Path) -> CardFile:
    return LLAMA.model_copy(update={"adapters": {name: str(folder) for name, folder in folders.items()}})


if importlib.util.find_spec("peft") is None:

    def test_adapters_without_peft_are_refused_by_name_before_anything_is_fetched(tmp_path):
        with pytest.raises(LoadError, match=r"adapters need the package peft.*pip install peft"):
            load(with_adapters(one=tmp_path), cache=tmp_path / "cache")
        assert not (tmp_path / "cache").exists()

else:

    def saved(folder: Path, target: str) -> torch.nn.Module:
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(r=2, target_modules=[target], init_lora_weights=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers by an old name
            model = get_peft_model(build(LLAMA), config).eval()
        model.save_pretrained(folder)
        return model

    def test_a_model_with_adapters_gives_what_peft_gives_and_is_another_model(tmp_path):
        ids = torch.arange(9)[None]
        wanted = saved(tmp_path / "one", "q_proj")(input_ids=ids).logits
        loaded = load(with_adapters(one=tmp_path / "one"), cache=tmp_path)
        assert torch.equal(loaded.module(input_ids=ids).logits, wanted)
        assert loaded.card.aliases.modules["blocks.*.attn"] == "model.layers.*.self_attn"
        assert not any(parameter.requires_grad for parameter in loaded.module.parameters())
        plain = load(LLAMA, cache=tmp_path)
        assert not torch.equal(plain.module(input_ids=ids).logits, wanted)
        assert loaded.revision != plain.revision

    def test_an_adapter_of_another_model_is_refused(tmp_path):
        saved(tmp_path / "one", "q_proj")
        text = (tmp_path / "one" / "adapter_config.json").read_text().replace("q_proj", "absent")
        (tmp_path / "one" / "adapter_config.json").write_text(text)
        with pytest.raises(LoadError, match=r"adapter .one. of .* does not fit the model"):
            load(with_adapters(one=tmp_path / "one"), cache=tmp_path)

    def test_a_folder_that_holds_no_adapter_is_refused_by_name(tmp_path):
        with pytest.raises(LoadError, match=r"adapter 'one'.*it has no 'adapter_config\.json'"):
            load(with_adapters(one=tmp_path), cache=tmp_path)


def test_adapters_are_found_beside_the_card_file(tmp_path):
    (tmp_path / "m.toml").write_text(
        'id = "m"\nsource = "config:llama"\ntokenizer = "bytes"\n[adapters]\none = "french"\n'
    )
    assert read_card(tmp_path / "m.toml").adapters == {"one": str(tmp_path / "french")}


def test_the_contents_of_adapters_tell_models_apart(tmp_path):
    names = ("adapter_config.json", "adapter_model.safetensors")
    for folder, text in (("a", "1"), ("b", "1"), ("c", "2")):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).write_text(text)
    first, same, other = (adapters_identity(with_adapters(one=tmp_path / folder)) for folder in "abc")
    assert first == same != other


def test_a_loader_takes_no_adapters():
    fields = {"id": "m", "source": "config:x", "kind": "module", "loader": "a:b", "adapters": {"one": "x"}}
    with pytest.raises(ValueError, match="a loader brings its own"):
        CardFile.model_validate(fields)
