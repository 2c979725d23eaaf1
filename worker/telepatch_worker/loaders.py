"""Modules of the operator's own: the function that a card names as its ``loader``, imported and called.

A card file lies on the worker's machine and is written by whoever runs it, like the code that it names. Nothing that
arrives in a request can name a loader, a module or a function.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from telepatch_protocol.card import InputCard
from telepatch_worker.cards import CardFile, LoadError

Made = tuple[nn.Module, dict[str, InputCard]]
"""A module, and what the loader says of its inputs."""


def loader_identity(file: CardFile) -> str:
    """The loader's name and a digest of the file that it stands in: other code is another model."""
    found = _function(file)
    source = inspect.getsourcefile(inspect.unwrap(found))
    digest = hashlib.sha256(Path(source).read_bytes()).hexdigest() if source and Path(source).is_file() else "unknown"
    return f"loader {file.loader} {digest}"


def call_loader(file: CardFile, folder: Path | None) -> Made:
    """What the loader gives for the folder of weights, which is None for ``config:`` sources.

    Raises:
        LoadError: it raises, or gives something else than a module.
    """
    function = _function(file)
    try:
        with torch.random.fork_rng(devices=[]):
            found = function(folder, dict(file.config))
    except Exception as error:
        raise LoadError(f"{file.id}: its loader {file.loader} raised {type(error).__name__}: {error}") from error
    module, inputs = found if isinstance(found, tuple) and len(found) == 2 else (found, {})
    if not isinstance(module, nn.Module) or not isinstance(inputs, Mapping):
        raise LoadError(
            f"{file.id}: its loader {file.loader} returned {type(module).__name__}; a loader returns a "
            "torch.nn.Module, or a pair of that and a table of inputs"
        )
    return module, _described(file, inputs)


def _function(file: CardFile) -> Callable[..., Any]:
    name, _, attribute = str(file.loader).partition(":")
    try:
        found = getattr(importlib.import_module(name), attribute, None)
    except ImportError as error:
        raise LoadError(f"{file.id}: the module of its loader {file.loader} cannot be imported: {error}") from error
    if not callable(found):
        raise LoadError(f"{file.id}: its loader {file.loader} is not there: {name} has no function {attribute!r}")
    return found  # type: ignore[no-any-return]


def _described(file: CardFile, inputs: Mapping[str, Any]) -> dict[str, InputCard]:
    try:
        return {str(name): InputCard.model_validate(one) for name, one in inputs.items()}
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
        raise LoadError(f"{file.id}: its loader {file.loader} describes an input wrongly: {problem}") from error
