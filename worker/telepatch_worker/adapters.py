"""The PEFT adapter that a card names: a folder on this machine, loaded onto the model and in force for all jobs."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

from transformers import PreTrainedModel

from telepatch_worker.cards import CardFile, LoadError

_FILES = ("adapter_config.json", "adapter_model.safetensors")


def check_adapters(file: CardFile) -> None:
    """Refuse adapters that cannot be had here, before anything is fetched.

    Raises:
        LoadError: PEFT is not installed, or a folder is none that it saved as safetensors.
    """
    if not file.adapters:
        return
    if importlib.util.find_spec("peft") is None:
        raise LoadError(f"{file.id}: adapters need the package peft, which is not installed here: pip install peft")
    for name, folder in file.adapters.items():
        lacking = [one for one in _FILES if not (Path(folder) / one).is_file()]
        if lacking:
            raise LoadError(f"{file.id}: adapter {name!r}: {folder} is no adapter's folder: it has no {lacking[0]!r}")


def adapters_identity(file: CardFile) -> str:
    """The contents of the adapters, in their order: another adapter is another model."""
    digest = hashlib.sha256()
    for name, folder in file.adapters.items():
        for one in _FILES:
            digest.update(f"{name} {hashlib.sha256((Path(folder) / one).read_bytes()).hexdigest()}\n".encode())
    return f"adapters {digest.hexdigest()}"


def adapted(file: CardFile, model: PreTrainedModel) -> PreTrainedModel:
    """The model with its adapter in force.

    Raises:
        LoadError: an adapter does not fit the model.
    """
    for name, folder in file.adapters.items():
        try:
            model.load_adapter(folder, adapter_name=name, use_safetensors=True)
        except (KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
            raise LoadError(f"{file.id}: adapter {name!r} of {folder} does not fit the model: {error}") from error
    return model
