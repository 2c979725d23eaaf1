"""Inputs of models that take no tokens: named tensors, and ``images=`` and ``audio=`` as short ways to write them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import JsonValue

from telepatch import arguments
from telepatch.bound import Bound
from telepatch_protocol import refs
from telepatch_protocol.card import InputCard, ModelCard
from telepatch_protocol.errors import BadArgument, NotYetSupported
from telepatch_protocol.named import check_holds, takes

if TYPE_CHECKING:
    from telepatch.builder import Builder

_MEDIA = {"images": "vision", "audio": "audio"}


def as_inputs(card: ModelCard, form: dict[str, Any], *, guessed: bool) -> dict[str, Any]:
    """The form of an input with ``images`` and ``audio``, and arrays for a model without tokens, as named tensors.

    Args:
        card: of the model.
        form: the form and its value, or nothing.
        guessed: whether the author gave no form by name, so that an array is what the model takes.

    Raises:
        BadArgument: images or audio for a model that takes something else.
    """
    for name, value in form.items():
        if name in _MEDIA:
            _check_kind(card, name)
            main, one = next(iter(card.inputs.items()))
            return {"inputs": {main: _numbers(_pictures(value, one) if name == "images" else _arrays(value), one)}}
        if name == "ids" and guessed and len(card.inputs) == 1:
            main, one = next(iter(card.inputs.items()))
            return {"inputs": {main: _numbers(_arrays(value), one)}}
        if name == "inputs" and isinstance(value, dict):
            found = {key: _numbers(_arrays(item), card.inputs.get(key)) for key, item in value.items()}
            _check_held(card, found)
            return {"inputs": found}
    return form


def _check_held(card: ModelCard, given: dict[str, Any]) -> None:
    """Refuse numbers that are here and lack the places of another input."""
    for name, one in card.inputs.items():
        value = arguments.plain(given.get(name))
        if one.holds is not None and isinstance(value, list | tuple | np.ndarray):
            rows = np.atleast_2d(np.asarray(value))
            check_holds(f"'{name}'", (rows == one.holds.number).sum(-1).tolist(), one)


def sendable(builder: Builder, name: str, value: Any) -> JsonValue:
    """One named tensor as a constant.

    Raises:
        NotYetSupported: a value that this trace computes; it says what does the same.
    """
    found = arguments.argument(builder, "tensor", value)
    ref = refs.parse(found)
    if ref is not None and ref.id not in builder.constants and not isinstance(value, Bound):
        raise NotYetSupported(
            f"'{name}' is a value that this trace computes, which is no input yet; write it into the model instead "
            "(model.input = value, in an invoke of any input of that shape), or save it and use it in the next trace"
        )
    return found


def _check_kind(card: ModelCard, name: str) -> None:
    if card.kind != _MEDIA[name]:
        raise BadArgument(f"'{card.id}' takes no {name}; it takes {takes(card)}")


def _arrays(value: Any) -> Any:
    """One array of a list of arrays, or of objects that numpy reads as such; anything else as it is."""
    if isinstance(value, list | tuple) and value and not isinstance(value[0], bool | int | float | list | tuple):
        items = [np.asarray(arguments.plain(one)) for one in value]
        if len({item.shape for item in items}) > 1:
            shapes = ", ".join(sorted({str(item.shape) for item in items}))
            raise BadArgument(f"the rows of one input have one shape; found {shapes}. Give others an invoke each")
        return np.stack(items)
    return np.asarray(value) if hasattr(value, "__array_interface__") and not isinstance(value, np.ndarray) else value


def _numbers(value: Any, one: InputCard | None) -> Any:
    """Lists of numbers as floats for an input of floats: a list of whole numbers is one of numbers all the same."""
    if one is None or one.below is not None or one.pixels is not None or not isinstance(value, list | tuple):
        return value
    try:
        return np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError):
        return value


def _pictures(value: Any, one: InputCard) -> Any:
    """Images with their channels in front, where they come as (height, width, channels) or without channels."""
    found = arguments.plain(_arrays(value))
    if not isinstance(found, np.ndarray) or len(one.axes) != 4:
        return value if found is value else found
    channels, *sides = one.axes[1:]
    if found.ndim in (2, 3) and channels == 1 and [*found.shape[-2:]] == sides and found.shape[-3:] != (1, *sides):
        return found[..., None, :, :]
    if found.ndim in (3, 4) and [*found.shape[-3:]] == [*sides, channels] and [*found.shape[-3:]] != [channels, *sides]:
        return np.moveaxis(found, -1, -3)
    return found
