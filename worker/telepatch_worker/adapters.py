"""PEFT adapters of a card: folders on this machine, loaded beside each other; a job names the one in force in it."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel

from telepatch_worker.cards import CardFile, LoadError

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_PLAIN_STARTS = (None, True, False, "gaussian", "orthogonal", "eva")
"""Ways to begin an adapter that leave the model's own weights as they are."""


def check_adapters(file: CardFile) -> None:
    """Refuse adapters that cannot be had here, before anything is fetched.

    Raises:
        LoadError: PEFT is not installed, a folder is none that it saved as safetensors, or an adapter changes the
            weights of the model itself, which the other jobs use.
    """
    if not file.adapters:
        return
    if importlib.util.find_spec("peft") is None:
        raise LoadError(f"{file.id}: adapters need the package peft, which is not installed here: pip install peft")
    for name, folder in file.adapters.items():
        lacking = [one for one in (_CONFIG, _WEIGHTS) if not (Path(folder) / one).is_file()]
        if lacking:
            raise LoadError(f"{file.id}: adapter {name!r}: {folder} is no adapter's folder: it has no {lacking[0]!r}")
        _check_config(file, name, Path(folder) / _CONFIG)


def _check_config(file: CardFile, name: str, path: Path) -> None:
    """Refuse an adapter under which the base model would not be the base model any more."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LoadError(f"{file.id}: adapter {name!r}: {path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise LoadError(f"{file.id}: adapter {name!r}: {path} holds no settings but {type(config).__name__}")
    bias, start = config.get("bias", "none"), config.get("init_lora_weights")
    if bias not in (None, "none"):
        raise LoadError(f"{file.id}: adapter {name!r}: bias is {bias!r}, which trains the model's own; 'none' works")
    if start not in _PLAIN_STARTS:
        raise LoadError(
            f"{file.id}: adapter {name!r}: init_lora_weights is {start!r}, which changes the model's own weights; save "
            "it with PEFT's path_initial_model_for_weight_conversion, as a plain adapter"
        )


def adapters_identity(file: CardFile) -> str:
    """The contents of the adapters, in their order, and whose is in force: another adapter is another model."""
    digest = hashlib.sha256()
    for name, folder in file.adapters.items():
        for one in (_CONFIG, _WEIGHTS):
            digest.update(f"{name} {hashlib.sha256((Path(folder) / one).read_bytes()).hexdigest()}\n".encode())
    return f"adapters {digest.hexdigest()}" + ("" if file.adapter is None else f" {file.adapter}")


def adapted(file: CardFile, model: PreTrainedModel) -> PreTrainedModel:
    """The model with its adapters, none of them in force.

    Raises:
        LoadError: an adapter does not fit the model.
    """
    for name, folder in file.adapters.items():
        try:
            _inject(model, name, Path(folder))
        except (KeyError, OSError, RuntimeError, SafetensorError, TypeError, ValueError) as error:
            raise LoadError(f"{file.id}: adapter {name!r} of {folder} does not fit the model: {error}") from error
    if file.adapters:
        Switch(model).put(None)
    return model


def _inject(model: PreTrainedModel, name: str, folder: Path) -> None:
    """Put an adapter's layers into the model, beside those of others, and its weights into them, as PEFT does alone.

    transformers' own `load_adapter` takes the layers of other adapters for ones of this that its files lack.
    """
    from peft import PeftConfig
    from peft.functional import cast_adapter_dtype, inject_adapter_in_model, set_peft_model_state_dict

    own = {id(parameter) for parameter in model.parameters()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about several adapters in one model, which is what is wanted
        inject_adapter_in_model(PeftConfig.from_pretrained(str(folder)), model, adapter_name=name)
        cast_adapter_dtype(model, name)
        added = {path for path, parameter in model.named_parameters() if id(parameter) not in own}
        weights = {path.removeprefix(_PREFIX): tensor for path, tensor in load_file(folder / _WEIGHTS).items()}
        found: Any = set_peft_model_state_dict(model, weights, adapter_name=name)
    lacking = [*(path for path in found.missing_keys if path in added), *found.unexpected_keys]
    if lacking:
        raise ValueError(f"its files and its layers do not have the same weights ({', '.join(sorted(lacking)[:3])})")


class Switch:
    """Says which adapter of a model is in force: that of the job that runs, and none between jobs.

    Args:
        module: the model; one without adapters has nothing to switch.
    """

    def __init__(self, module: nn.Module) -> None:
        self._layers = _layers(module)
        self._now: str | None = None

    @contextmanager
    def set_to(self, name: str | None) -> Iterator[None]:
        """Run the block under an adapter, or, with None, under the base model; afterwards it is as before."""
        before = self._now
        if name == before:
            yield
            return
        try:
            self.put(name)
            yield
        finally:
            self.put(before)

    def put(self, name: str | None) -> None:
        """Put an adapter in force in all layers that have it, and none in the others."""
        self._now = name
        for layer, names in self._layers:
            if name in names:
                layer.set_adapter(name)
            layer.enable_adapters(name in names)
            layer.requires_grad_(False)  # PEFT takes what it switches on for what is to be trained


def _layers(module: nn.Module) -> list[tuple[Any, frozenset[str]]]:
    """Every module that PEFT has put into a model, and the names of the adapters that it has a part of."""
    if not hasattr(module, "peft_config"):
        return []
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    found: list[tuple[Any, frozenset[str]]] = []
    for one in module.modules():
        if isinstance(one, BaseTunerLayer):
            found.append((one, frozenset(one._all_available_adapter_names())))
        elif isinstance(one, AuxiliaryTrainingWrapper):
            found.append((one, frozenset(one._adapters)))
    return found
