"""One tensor inside what a module takes or returns: how to reach it, and how to put another one in its place."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch

from telepatch_protocol.errors import ExecutionError
from telepatch_protocol.sites import Place


def read_leaf(value: Any, place: Place) -> torch.Tensor:
    """The tensor of a place.

    Args:
        value: for an input the pair of positional and named arguments, for an output what the module returned.
        place: path and port of the module, path of the leaf (``""``, ``"0"``, ``"logits"``, ``"1.0"``).

    Raises:
        ExecutionError: there is no tensor there in this forward.
    """
    found = _found(value, place)
    if not isinstance(found, torch.Tensor):
        raise ExecutionError(f"'{place}' holds no tensor in this forward, but {type(found).__name__}")
    return found


def leaf_of(value: Any, place: Place) -> torch.Tensor | None:
    """The tensor of a place, where there is one in this forward."""
    found = _found(value, place)
    return found if isinstance(found, torch.Tensor) else None


def replace_leaf(value: Any, place: Place, tensor: torch.Tensor) -> Any:
    """The same structure with another tensor at a place; `value` and everything in it stay as they are."""
    return _replaced(value, _keys(place), tensor)


def _found(value: Any, place: Place) -> Any:
    for key in _keys(place):
        value = _child(value, key)
    return value


def _keys(place: Place) -> tuple[str, ...]:
    """The way to the leaf; in the input of a module it begins with the positional or the named arguments."""
    keys = tuple(place.leaf.split(".")) if place.leaf else ()
    if place.side != "input":
        return keys
    return ("0", *keys) if keys and keys[0].isdigit() else ("1", *keys)


def _child(value: Any, key: str) -> Any:
    if isinstance(value, Mapping):
        return value.get(key)
    if isinstance(value, tuple | list) and key.isdigit() and int(key) < len(value):
        return value[int(key)]
    return None


def _replaced(value: Any, keys: tuple[str, ...], tensor: torch.Tensor) -> Any:
    if not keys:
        return tensor
    child = _replaced(_child(value, keys[0]), keys[1:], tensor)
    if isinstance(value, Mapping):
        changed: Any = copy.copy(value)
        changed[keys[0]] = child
        return changed
    items = [*value]
    items[int(keys[0])] = child
    if isinstance(value, list):
        return items
    return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
