"""Kernels made of PyTorch's functions: what a row of the table leaves out or spells otherwise is put right here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Kernel = Callable[..., Tensor | tuple[Tensor, ...] | dict[str, Tensor]]


def plain(function: Callable[..., Any]) -> Kernel:
    """A function of PyTorch, with arguments that are null left to their defaults."""

    def kernel(**given: object) -> Tensor | tuple[Tensor, ...]:
        found = function(**{name: value for name, value in given.items() if value is not None})
        return found if isinstance(found, Tensor) else tuple(found)

    return kernel


def placed(function: Callable[..., Any]) -> Kernel:
    """A function of PyTorch whose arguments go by position, as it has other names for them, or none."""

    def kernel(**given: object) -> Tensor | tuple[Tensor, ...]:
        found = function(*given.values())
        return found if isinstance(found, Tensor) else tuple(found)

    return kernel


def reduction(function: Callable[..., Any]) -> Kernel:
    """A reduction; without an axis PyTorch's functions take no ``keepdim``."""

    def kernel(input: Tensor, dim: Any, keepdim: bool = False, **given: object) -> Tensor | tuple[Tensor, ...]:
        options = {name: value for name, value in given.items() if value is not None}
        if dim is not None:
            found = function(input, dim=dim, keepdim=keepdim, **options)
            return found if isinstance(found, Tensor) else tuple(found)
        whole = function(input, **options)
        kept = [one.reshape((1,) * input.ndim) if keepdim else one for one in _each(whole)]
        return kept[0] if isinstance(whole, Tensor) else tuple(kept)

    return kernel


def over_axes(function: Callable[[Tensor, list[int]], Tensor]) -> Kernel:
    """A function over several axes; one alone may be given without a list."""
    return lambda input, dims: function(input, list(dims) if isinstance(dims, list | tuple) else [dims])


def unary(function: Callable[[Tensor], Tensor]) -> Kernel:
    """A function of one value."""
    return lambda input: function(input)


def lifted(number: object, like: Tensor) -> Tensor:
    """A number as a tensor that mixes with another as the number would."""
    if isinstance(number, Tensor):
        return number
    assert isinstance(number, int | float)
    return torch.full((), number, dtype=torch.result_type(like, number), device=like.device)


def operator_of(function: Callable[[Any, Any], Any]) -> Kernel:
    """A binary operation that Python spells with a sign, so that either side may be a number."""
    return lambda input, other: function(input, other)


def both_tensors(function: Callable[[Tensor, Tensor], Tensor]) -> Kernel:
    """A binary operation that PyTorch has for two tensors only."""

    def kernel(**given: object) -> Tensor:
        left, right = given.values()
        like = left if isinstance(left, Tensor) else right
        assert isinstance(like, Tensor)
        return function(lifted(left, like), lifted(right, like))

    return kernel


def on_one_device(tensors: list[Tensor]) -> list[Tensor]:
    """Values brought to one device, as sizes stand on the CPU."""
    device = max((one.device for one in tensors), key=lambda device: device.type != "cpu")
    return [one.to(device) for one in tensors]


def _each(found: Any) -> list[Tensor]:
    return [found] if isinstance(found, Tensor) else list(found)
