"""Models of random weights: the same on every machine, whatever else draws random numbers.

The numbers come from the raw bits of a PCG64 keyed by seed and parameter name. Drawing them with torch would depend on
the vector instructions of the machine and, through the global generator, on what ran before.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from telepatch_worker.cards import CardFile, LoadError
from telepatch_worker.named_models import maker_of

Placed = TypeVar("Placed", bound=nn.Module)

RECIPE = 1
"""Part of the revision: to change when the same seed would give other weights."""

_EMBEDDING_STD = 0.25
_LINEAR_GAIN = 0.8
_VECTOR_STD = 0.1


def noise(seed: int, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Uniform float32 numbers of mean 0 and standard deviation 1, the same bits everywhere."""
    key = int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:16], "big")
    raw = np.random.PCG64(key).random_raw(math.prod(shape)) >> np.uint64(40)
    centred = (raw.astype(np.float32) + np.float32(0.5)) / np.float32(2**23) - np.float32(1)
    return torch.from_numpy(centred * np.float32(math.sqrt(3))).reshape(shape)


def _scale(module: nn.Module, parameter: torch.Tensor) -> float:
    """Such that activations neither die nor blow up, attention is not flat and logits differ."""
    if parameter.ndim < 2:
        return _VECTOR_STD
    if isinstance(module, nn.Embedding):
        return _EMBEDDING_STD
    fan_in = parameter.shape[-1] if isinstance(module, nn.Linear) else parameter.shape[0]
    return float(_LINEAR_GAIN / math.sqrt(fan_in))


@torch.no_grad()
def fill(model: nn.Module, seed: int) -> None:
    """Overwrite every parameter with noise; the gains of norms are around 1."""
    seen: set[int] = set()
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(prefix=path, recurse=False):
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            gain = parameter.ndim == 1 and name.endswith("weight")
            values = noise(seed, name, tuple(parameter.shape)) * _scale(module, parameter)
            parameter.copy_(values + 1 if gain else values)


def _configuration(file: CardFile) -> PreTrainedConfig:
    family = file.origin.name
    try:
        config = AutoConfig.for_model(family)
    except ValueError as error:
        raise LoadError(f"{file.id}: transformers knows no model type {family!r} (such as 'gpt2', 'llama')") from error
    unknown = [name for name in file.config if not hasattr(config, name)]
    if unknown:
        raise LoadError(f"{file.id}: a {family} configuration has no field {unknown[0]!r}")
    return AutoConfig.for_model(family, **file.config)


def build(file: CardFile) -> PreTrainedModel:
    """The model of a ``config:`` card, in float32 on the CPU."""
    config = _configuration(file)
    maker = maker_of(file)
    with torch.random.fork_rng(devices=[]):
        make: Callable[..., PreTrainedModel] = maker.from_config
        model = make(config, dtype=torch.float32, attn_implementation=file.attention)
    fill(model, file.seed)
    return model


def planned_counts(file: CardFile) -> dict[str, int]:
    """How many numbers of each dtype the model of a ``config:`` card will hold, without making any of them."""
    with torch.device("meta"):
        model = maker_of(file).from_config(_configuration(file), dtype=torch.float32)
    return {"F32": sum(parameter.numel() for parameter in model.parameters())}


def place(model: Placed, device: torch.device, dtype: torch.dtype) -> Placed:
    """The same model with parameters in a dtype; rotary tables and other buffers keep theirs, as when loaded."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype if parameter.is_floating_point() else parameter.dtype)
    return nn.Module.to(model, device)
