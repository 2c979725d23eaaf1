"""Models of images and audio from transformers: which head they get, what they take, and where their places are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.worker.named_graphs import MODELS, digits, task

from telepatch_protocol.card import InputCard, ModelCard, Pixels
from telepatch_worker.cards import CardFile, LoadError
from telepatch_worker.engine import Engine
from telepatch_worker.load import load

VIT = {
    "image_size": 8,
    "patch_size": 4,
    "num_channels": 3,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 20,
}
AST = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 20,
    "max_length": 12,
    "num_mel_bins": 9,
    "patch_size": 3,
    "frequency_stride": 3,
    "time_stride": 3,
}


def random(kind: str, family: str, config: dict, **fields) -> CardFile:
    return CardFile.model_validate(
        {"id": f"{family}-here", "source": f"config:{family}", "kind": kind, "config": config, **fields}
    )


def saved_as(folder: Path, model: torch.nn.Module, **fields) -> CardFile:
    model.save_pretrained(folder)
    return CardFile.model_validate({"id": "there", "source": f"path:{folder}", **fields})


def test_the_digits_vit_is_published_with_its_image_and_its_places(tmp_path):
    card = load(MODELS / "vit-digits.toml", cache=tmp_path).card
    assert ModelCard.model_validate_json(card.model_dump_json()) == card
    assert (card.kind, card.tokenizer, card.vocabulary, card.shares) == ("vision", None, 0, True)
    (name, one), *rest = card.inputs.items()
    assert (name, one.axes, rest) == ("pixel_values", ("row", 1, 8, 8), [])
    assert one.pixels == Pixels(rescale=1 / 255, mean=(0.5,), std=(0.5,))
    assert all(leaf.solved for module in card.modules if module.output for leaf in module.output.leaves)
    aliases = card.aliases.modules
    assert {"blocks.*", "blocks.*.attn", "blocks.*.mlp", "embed", "final_norm", "head"} == set(aliases)
    ports = card.aliases.ports["blocks.*"]
    assert (ports["resid_pre"], ports["resid_post"]) == ("input", "output")
    assert {"q", "k", "v", "z", "scores", "pattern", "mlp_act"} <= set(ports)


def test_the_digits_vit_recognises_digits_it_was_not_trained_on(tmp_path):
    from safetensors.torch import load_file

    loaded = load(MODELS / "vit-digits.toml", cache=tmp_path)
    labels = load_file(MODELS / "digits.safetensors")["labels"]
    logits = loaded.module(pixel_values=(digits(0, 360).float() / 255 - 0.5) / 0.5).logits
    assert float((logits.argmax(-1) == labels).float().mean()) > 0.95


def test_the_weights_of_the_digits_are_small():
    files = [*MODELS.glob("*-digits/*.safetensors"), MODELS / "digits.safetensors"]
    assert len(files) == 3
    assert sum(file.stat().st_size for file in files) < 250_000


def test_a_vision_model_has_the_head_that_its_files_have(tmp_path):
    from transformers import ViTConfig, ViTModel

    with_head = load(random("vision", "vit", VIT), cache=tmp_path)
    assert with_head.card.aliases.modules["head"] == "classifier"
    assert with_head.card.inputs["pixel_values"].pixels is None
    torch.manual_seed(0)
    bare = load(saved_as(tmp_path / "bare", ViTModel(ViTConfig(**VIT)), kind="vision"), cache=tmp_path)
    assert type(bare.module).__name__ == "ViTModel"
    assert bare.card.aliases.modules["blocks.*.attn"] == "layers.*.attention"
    assert "head" not in bare.card.aliases.modules


def test_an_audio_model_is_called_as_its_card_says(tmp_path, build, saved):
    fields = {"inputs": {"input_values": {"axes": ["row", 12, 9]}}}
    loaded = load(random("audio", "audio-spectrogram-transformer", AST, **fields), cache=tmp_path)
    engine = Engine(loaded)
    sounds = [torch.sin(torch.arange(rows * 108.0).reshape(rows, 12, 9)) for rows in (1, 3)]
    site = "audio_spectrogram_transformer.layers.1:output"
    jobs = [
        task(loaded.card.id, {"a": {"input_values": one}}, build.get("h", site), build.get("z", "classifier:output"))
        for one in sounds
    ]
    results = saved(engine, *jobs)
    engine.close()
    for one, found in zip(sounds, results, strict=True):
        assert torch.allclose(found["z"], loaded.module(input_values=one).logits, atol=1e-5)


def test_audio_without_a_word_about_its_input_is_refused(tmp_path):
    with pytest.raises(LoadError, match=r"nothing says what this audio model is called with"):
        load(random("audio", "audio-spectrogram-transformer", AST), cache=tmp_path)


@pytest.mark.parametrize(
    ("name", "settings", "pixels"),
    [
        (
            "preprocessor_config.json",
            {"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 2, 3]},
            ((0.1, 0.2, 0.3), (1, 2, 3)),
        ),
        ("preprocessor_config.json", {"image_mean": 0.5, "image_std": 0.25}, ((0.5,) * 3, (0.25,) * 3)),
        ("preprocessor_config.json", {"do_normalize": False, "image_mean": [1], "image_std": [1]}, ((), ())),
        ("processor_config.json", {"image_processor": {"image_mean": 0.5, "image_std": 0.5}}, ((0.5,) * 3, (0.5,) * 3)),
        ("preprocessor_config.json", {"do_rescale": False}, None),
        ("preprocessor_config.json", {"do_flip_channel_order": True}, None),
    ],
)
def test_how_pixels_are_prepared_is_read_from_the_image_processor(name, settings, pixels, tmp_path):
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    file = saved_as(tmp_path / "m", ViTForImageClassification(ViTConfig(**VIT)), kind="vision")
    (tmp_path / "m" / name).write_text(json.dumps(settings))
    found = load(file, cache=tmp_path).card.inputs["pixel_values"]
    wanted = None if pixels is None else Pixels(rescale=1 / 255, mean=pixels[0], std=pixels[1])
    assert found == InputCard(axes=("row", 3, 8, 8), pixels=wanted, positions=4)
