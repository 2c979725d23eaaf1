"""Models of transformers that read two things: text beside an image, or a text for their encoder and one for their
decoder. A card of kind ``module`` names `load` as its loader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoModelForSeq2SeqLM,
    PreTrainedConfig,
    PreTrainedModel,
)

from telepatch_protocol.card import Holds, InputCard
from telepatch_worker.cards import LoadError
from telepatch_worker.named_models import patches_of, pixels_of
from telepatch_worker.random_weights import fill

_IMAGE_TOKENS = ("image_token_id", "image_token_index")
_SETTINGS = ("model_type", "seed", "attention")


def load(folder: Path | None, config: dict[str, Any]) -> tuple[nn.Module, dict[str, InputCard]]:
    """The model of a folder as transformers saves it, or one of random weights, and what it is called with.

    Args:
        folder: of the weights; None for random ones.
        config: ``attention`` as transformers names it; without a folder also ``model_type``, ``seed``
            and whatever the configuration of that type takes.

    Raises:
        LoadError: the model is of another kind.

    Example:
        >>> load(None, {"model_type": "t5", "d_model": 32, "vocab_size": 61})[1]["decoder_input_ids"].axes
        ('row', 'target')
    """
    made = _random(config) if folder is None else _read(folder, config)
    made.config.use_cache = made.config.get_text_config().use_cache = False
    if made.config.is_encoder_decoder:
        return made, _two_texts(made.config)
    return made, _text_and_image(made, folder)


def _maker(config: PreTrainedConfig) -> Any:
    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForImageTextToText


def _random(config: dict[str, Any]) -> PreTrainedModel:
    fields = {name: value for name, value in config.items() if name not in _SETTINGS}
    if "model_type" not in config:
        raise LoadError("without a folder of weights, [config] says a 'model_type', such as 'llava' or 't5'")
    made = AutoConfig.for_model(config["model_type"], **fields)
    model: PreTrainedModel = _maker(made).from_config(
        made, dtype=torch.float32, attn_implementation=config.get("attention", "sdpa")
    )
    fill(model, int(config.get("seed", 0)))
    return model


def _read(folder: Path, config: dict[str, Any]) -> PreTrainedModel:
    found = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    model: PreTrainedModel = _maker(found).from_pretrained(
        folder,
        dtype="auto",  # as its files have it; the card says what it is held in
        attn_implementation=config.get("attention", "sdpa"),
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
    )
    return model


def _two_texts(config: PreTrainedConfig) -> dict[str, InputCard]:
    return {**_text(config.vocab_size), "decoder_input_ids": _ids(config.vocab_size, "target")}


def _text_and_image(model: PreTrainedModel, folder: Path | None) -> dict[str, InputCard]:
    config = model.config
    vision, words = getattr(config, "vision_config", None), config.get_text_config()
    token = next((found for name in _IMAGE_TOKENS if isinstance(found := getattr(config, name, None), int)), None)
    size = getattr(vision, "image_size", None)
    if not isinstance(size, int) or token is None:
        raise LoadError(
            f"{type(model).__name__} does not say of what size its images are and which token stands for them; write "
            "a loader of your own that describes its inputs"
        )
    channels = int(getattr(vision, "num_channels", 3))
    pixels = None if folder is None else pixels_of(folder, channels)
    held = Holds(number=token, times=_places(model, channels, size))
    image = InputCard(axes=("row", channels, size, size), pixels=pixels, positions=patches_of(vision, (size, size)))
    text = _text(words.vocab_size)
    return {**text, "input_ids": text["input_ids"].model_copy(update={"holds": held}), "pixel_values": image}


def _places(model: PreTrainedModel, channels: int, size: int) -> int:
    """How many positions of the text an image takes: measured."""
    image = torch.zeros(1, channels, size, size, dtype=model.dtype)
    with torch.no_grad():
        found = model.eval().get_image_features(pixel_values=image)
    found = getattr(found, "pooler_output", found)
    first = found[0] if isinstance(found, list | tuple) else found
    return int(first.reshape(-1, first.shape[-1]).shape[0])


def _text(below: int) -> dict[str, InputCard]:
    mask = InputCard(axes=("row", "pos"), dtype="int64", below=2, optional=True)
    return {"input_ids": _ids(below, "pos"), "attention_mask": mask}


def _ids(below: int, axis: Any) -> InputCard:
    return InputCard(axes=("row", axis), dtype="int64", below=below)
