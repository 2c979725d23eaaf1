"""Kernels of random operations: drawn from the CPU's generator, seeded by the key.

So the numbers are the same whatever the device and the company, and nothing that runs beside them changes them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from telepatch_worker.kernels.adapters import Kernel
from telepatch_worker.tensor_values import Device, seed_of

Key = list[int | Tensor]


def _generator(key: Key) -> torch.Generator:
    return torch.Generator().manual_seed(seed_of(key))


def _drawn(function: Callable[..., Tensor]) -> Kernel:
    def kernel(*, key: Key, device: Device, **given: Any) -> Tensor:
        return function(**given, generator=_generator(key)).to(device)

    return kernel


def _drawn_like(function: Callable[..., Tensor]) -> Kernel:
    def kernel(input: Tensor, key: Key, dtype: torch.dtype | None) -> Tensor:
        return function(input.shape, dtype=dtype or input.dtype, generator=_generator(key)).to(input.device)

    return kernel


def _from(function: Callable[..., Tensor]) -> Kernel:
    """Numbers whose distribution a value decides; no gradient flows through a draw."""

    def kernel(input: Tensor, key: Key, **given: Any) -> Tensor:
        return function(input.detach().cpu(), **given, generator=_generator(key)).to(input.device)

    return kernel


def _normal(mean: Any, std: Any, key: Key) -> Tensor:
    """Its gradient is that of mean + std * noise."""
    given = [one for one in (mean, std) if isinstance(one, Tensor)]
    shape = torch.broadcast_shapes(*(one.shape for one in given))
    noise = torch.randn(shape, dtype=given[0].dtype, generator=_generator(key)).to(given[0].device)
    found: Tensor = mean + std * noise
    return found


def _dropout(input: Tensor, p: float, key: Key) -> Tensor:
    if p == 1:
        return input * 0.0
    kept = torch.rand(input.shape, generator=_generator(key)) >= p
    return input * kept.to(input.device) / (1 - p)


def _gumbel_softmax(logits: Tensor, key: Key, tau: float, hard: bool, dim: int) -> Tensor:
    """With `hard` the largest alone is one, and the gradient is still that of the softmax."""
    noise = -torch.empty(logits.shape).exponential_(generator=_generator(key)).log()
    soft = functional.softmax((logits + noise.to(logits)) / tau, dim)
    if not hard:
        return soft
    picked = torch.zeros_like(soft).scatter(dim, soft.argmax(dim, keepdim=True), 1.0)
    return picked - soft.detach() + soft


KERNELS: dict[str, Kernel] = {
    "rand": _drawn(torch.rand),
    "randn": _drawn(torch.randn),
    "randint": _drawn(torch.randint),
    "randperm": _drawn(torch.randperm),
    "rand_like": _drawn_like(torch.rand),
    "randn_like": _drawn_like(torch.randn),
    "bernoulli": _from(torch.bernoulli),
    "poisson": _from(torch.poisson),
    "multinomial": _from(torch.multinomial),
    "normal": _normal,
    "dropout": _dropout,
    "gumbel_softmax": _gumbel_softmax,
}
"""The kernels of this group by the names of their operations."""

PLACED = frozenset({"rand", "randn", "randint", "randperm"})
"""Those that are told the device."""
