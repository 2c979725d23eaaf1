"""Weights held in fewer bits, by the libraries that transformers knows and by PyTorch itself."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import nn

from telepatch_worker.cards import CardFile, LoadError


@dataclass(frozen=True)
class _Method:
    """A method of quantisation: transformers' configuration class, and the package that does it."""

    config: str
    package: str
    install: str


_METHODS = {
    "bitsandbytes": _Method("BitsAndBytesConfig", "bitsandbytes", "bitsandbytes"),
    "torchao": _Method("TorchAoConfig", "torchao", "torchao"),
    "hqq": _Method("HqqConfig", "hqq", "hqq"),
    "quanto": _Method("QuantoConfig", "optimum.quanto", "optimum-quanto"),
}


def check_quantisation(file: CardFile, device: torch.device) -> None:
    """Refuse a quantisation that cannot be had here, before anything is fetched.

    Raises:
        LoadError: the package is not installed, or the method is not for this device.
    """
    if file.quantisation is None:
        return
    method = _METHODS.get(file.quantisation.method)
    if method is None:
        if device.type != "cpu" or file.dtype != "float32":
            raise LoadError(
                f"{file.id}: torch-int8 works on the CPU in float32; the card has {device} and {file.dtype}"
            )
        if file.quantisation.options:
            raise LoadError(f"{file.id}: torch-int8 has no options; found {', '.join(file.quantisation.options)}")
        return
    if file.loader is not None:
        raise LoadError(f"{file.id}: {method.package} quantises models of transformers; a loader quantises its own")
    if not _installed(method.package):
        raise LoadError(
            f"{file.id}: its quantisation needs the package {method.install}, which is not installed here: "
            f"pip install {method.install}"
        )
    quantisation_options(file)


def quantisation_options(file: CardFile) -> dict[str, Any]:
    """What ``from_pretrained`` is given for it; nothing where PyTorch does it afterwards.

    Raises:
        LoadError: arguments that the configuration class does not have.
    """
    method = None if file.quantisation is None else _METHODS.get(file.quantisation.method)
    if method is None or file.quantisation is None:
        return {}
    options = file.quantisation.options
    try:
        if file.quantisation.method == "torchao":
            options = {"quant_type": _torchao_type(**options)}
        return {"quantization_config": getattr(transformers, method.config)(**options)}
    except (AttributeError, ImportError, TypeError, ValueError) as error:
        raise LoadError(f"{file.id}: {method.config} refuses the card's quantisation: {error}") from error


def quantised(file: CardFile, model: nn.Module) -> nn.Module:
    """The model, its linear layers in int8 if the card asks PyTorch for that: weights kept so, inputs as they come."""
    if file.quantisation is None or file.quantisation.method != "torch-int8":
        return model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch announces that torchao will do this one day
        found = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    assert isinstance(found, nn.Module)
    return found


def _torchao_type(quant_type: str, **options: Any) -> Any:
    """torchao's own configuration by the name of its class, such as ``Int8WeightOnlyConfig``, with its arguments."""
    if not quant_type.endswith("Config"):
        raise ValueError(
            f"quant_type is a class of torchao.quantization, such as 'Int8WeightOnlyConfig': {quant_type!r}"
        )
    return getattr(importlib.import_module("torchao.quantization"), quant_type)(**options)


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False
