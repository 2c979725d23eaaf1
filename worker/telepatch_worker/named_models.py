"""Models that are called with named tensors: which of transformers' classes loads them, and what they take."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForCausalLM,
    AutoModelForCTC,
    AutoModelForImageClassification,
)

from telepatch_protocol.card import Holds, InputCard, Pixels
from telepatch_worker.axes import Size
from telepatch_worker.cards import CardFile, LoadError

_HEADS = {
    "ForImageClassification": AutoModelForImageClassification,
    "ForAudioClassification": AutoModelForAudioClassification,
    "ForSequenceClassification": AutoModelForAudioClassification,
    "ForCTC": AutoModelForCTC,
}
_USUAL = {"vision": AutoModelForImageClassification, "audio": AutoModelForAudioClassification}


def maker_of(file: CardFile, folder: Path | None = None) -> Any:
    """The class of transformers that makes a card's model: for images and audio with the head that its files have."""
    if file.kind == "causal":
        return AutoModelForCausalLM
    if file.kind == "encoder" or folder is None:
        return _USUAL.get(file.kind, AutoModel)
    names = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False).architectures or []
    return next((maker for name in names for end, maker in _HEADS.items() if name.endswith(end)), AutoModel)


def inputs_of(
    file: CardFile, model: nn.Module, folder: Path | None, offered: Mapping[str, InputCard]
) -> dict[str, InputCard]:
    """What a model is called with: as the card says, else its loader, else its configuration.

    Raises:
        LoadError: nobody says, or they name something that the model's forward does not have.
    """
    if not file.named:
        return {}
    found = {
        name: _in_dtype(one, file) for name, one in (file.inputs or offered or _image(file, model, folder)).items()
    }
    _check_arguments(file, model, found)
    return found


def probe_named(inputs: Mapping[str, InputCard], size: Size, device: torch.device) -> dict[str, torch.Tensor]:
    """Named tensors of so many rows and positions, no two rows alike."""
    found = {}
    lengths = {"row": size.rows, "pos": size.positions, "target": size.target}
    for name, one in inputs.items():
        if one.optional:
            continue
        shape = [lengths[axis] if isinstance(axis, str) else axis for axis in one.axes]
        numbers = torch.arange(math.prod(shape), device=device).reshape(shape)
        if one.below is not None:
            found[name] = (_held(numbers, one.holds, one.below) % one.below).to(_dtype(one))
        else:
            found[name] = (numbers.double() * 0.7548776662).frac().to(_dtype(one))
    return found


def _held(numbers: torch.Tensor, holds: Holds | None, below: int) -> torch.Tensor:
    """The same numbers with the places of another input in front, and nowhere else."""
    if holds is None:
        return numbers
    numbers = torch.where(numbers % below == holds.number, holds.number + 1, numbers)
    numbers[:, : holds.times] = holds.number
    return numbers


def _dtype(one: InputCard) -> torch.dtype:
    found = getattr(torch, one.dtype)  # checked against the known names when the card was read
    assert isinstance(found, torch.dtype)
    return found


def _in_dtype(one: InputCard, file: CardFile) -> InputCard:
    """A float input without a dtype of its own has that of the weights."""
    stated = "dtype" in one.model_fields_set or one.below is not None
    return one if stated else one.model_copy(update={"dtype": file.dtype})


def _image(file: CardFile, model: nn.Module, folder: Path | None) -> dict[str, InputCard]:
    config = getattr(model, "config", None)
    channels, size = getattr(config, "num_channels", None), getattr(config, "image_size", None)
    sides = (size, size) if isinstance(size, int) else tuple(size or ())
    if file.kind != "vision" or not isinstance(channels, int) or len(sides) != 2:
        raise LoadError(
            f"{file.id}: nothing says what this {file.kind} model is called with; give the card a table "
            '[inputs.NAME] with axes, such as ["row", 64]'
        )
    name = str(getattr(model, "main_input_name", "pixel_values"))
    pixels = None if folder is None else pixels_of(folder, channels)
    patches = patches_of(config, sides)
    return {name: InputCard(axes=("row", channels, *sides), dtype=file.dtype, pixels=pixels, positions=patches)}


def patches_of(config: object, sides: tuple[int, ...]) -> int:
    """Patches that an image is cut into; none where the configuration does not say how large they are."""
    size = getattr(config, "patch_size", None)
    patch = (size, size) if isinstance(size, int) else tuple(size or ())
    return math.prod(side // own for side, own in zip(sides, patch, strict=False)) if patch else 0


def pixels_of(folder: Path, channels: int) -> Pixels | None:
    """How the folder's image processor prepares the values of pixels; None where it does more than can be said here."""
    found = _processor(folder)
    if found is None or not found.get("do_rescale", True) or found.get("do_flip_channel_order"):
        return None
    mean, std = found.get("image_mean"), found.get("image_std")
    if not found.get("do_normalize", True) or mean is None or std is None:
        mean, std = (), ()
    spread = [(one,) * channels if isinstance(one, int | float) else tuple(one) for one in (mean, std)]
    return Pixels(rescale=found.get("rescale_factor", 1 / 255), mean=spread[0], std=spread[1])


def _processor(folder: Path) -> dict[str, Any] | None:
    """The settings of the image processor, from either of the files in which transformers keeps them."""
    for name, part in (("preprocessor_config.json", None), ("processor_config.json", "image_processor")):
        if (folder / name).is_file():
            found = json.loads((folder / name).read_text(encoding="utf-8"))
            found = found if part is None else found.get(part)
            if isinstance(found, dict):
                return found
    return None


def _check_arguments(file: CardFile, model: nn.Module, inputs: Mapping[str, InputCard]) -> None:
    parameters = inspect.signature(type(model).forward).parameters.values()
    named = [one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)][1:]
    if not inputs:
        raise LoadError(f"{file.id}: a model is called with at least one input; its forward takes {', '.join(named)}")
    for name in inputs:
        if name not in named and not any(one.kind is one.VAR_KEYWORD for one in parameters):
            raise LoadError(
                f"{file.id}: {type(model).__name__} takes no {name!r}; its forward takes {', '.join(named)}"
            )
