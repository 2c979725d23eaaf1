"""Kernels of arithmetic, comparison, logic and activations: one number in, or a few that broadcast."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from telepatch_worker.kernels.adapters import Kernel, both_tensors, lifted, operator_of, placed, plain, unary


def _div(input: Any, other: Any, rounding_mode: str | None) -> Tensor:
    like = input if isinstance(input, Tensor) else other
    left = lifted(input, like)
    if rounding_mode != "trunc" or left.is_floating_point() or torch.result_type(left, other).is_floating_point:
        return torch.div(left, other, rounding_mode=rounding_mode)
    # The processor has no quotient of the least integer by -1, and ends the process that asks for it.
    turned = lifted(other, like) == -1
    found = torch.div(left, torch.where(turned, 1, lifted(other, like)), rounding_mode="trunc")
    return torch.where(turned, -found, found)


def _floor_divide(input: Any, other: Any) -> Tensor:
    return _div(input, other, "floor")


def _remainder(input: Any, other: Any) -> Tensor:
    return torch.remainder(lifted(input, other) if isinstance(other, Tensor) else input, other)


def _clamp(input: Tensor, min: Any, max: Any) -> Tensor:
    if isinstance(min, Tensor) or isinstance(max, Tensor):  # PyTorch takes two numbers or two tensors
        min = None if min is None else lifted(min, input)
        max = None if max is None else lifted(max, input)
    return torch.clamp(input, min, max)


def _masked_fill(input: Tensor, mask: Tensor, value: Any) -> Tensor:
    return torch.masked_fill(input, mask, value.to(input.device) if isinstance(value, Tensor) else value)


def _logical(function: Callable[[Tensor, Tensor], Tensor]) -> Kernel:
    """A logical operation, where numbers too are true unless zero."""

    def one(value: Any, device: torch.device) -> Tensor:
        return value if isinstance(value, Tensor) else torch.tensor(bool(value), device=device)

    def kernel(input: Any, other: Any) -> Tensor:
        device = (input if isinstance(input, Tensor) else other).device
        return function(one(input, device), one(other, device))

    return kernel


def _allclose(input: Tensor, other: Tensor, rtol: float, atol: float, equal_nan: bool) -> Tensor:
    return torch.isclose(input, other, rtol=rtol, atol=atol, equal_nan=equal_nan).all()


def _equal(input: Tensor, other: Tensor) -> Tensor:
    """A value of its own, as whoever waits for it should not wait for the device here."""
    if input.shape != other.shape:
        return torch.tensor(False, device=input.device)
    return (input == other).all()


_UNARY = (
    *(torch.abs, torch.ceil, torch.cos, torch.detach, torch.erf, torch.exp, torch.expm1, torch.floor),
    *(torch.isfinite, torch.isinf, torch.isnan, torch.log, torch.log1p, torch.log2, torch.logical_not),
    *(torch.neg, torch.reciprocal, torch.round, torch.rsqrt, torch.sigmoid, torch.sign, torch.sin),
    *(torch.sqrt, torch.square, torch.tanh, torch.relu, functional.silu),
    *(torch.acos, torch.acosh, torch.asin, torch.asinh, torch.atan, torch.atanh, torch.cosh, torch.sinh, torch.tan),
    *(torch.exp2, torch.log10, torch.erfc, torch.erfinv, torch.lgamma, torch.digamma, torch.sinc, torch.i0),
    *(torch.deg2rad, torch.rad2deg, torch.frac, torch.trunc, torch.signbit, torch.isposinf, torch.isneginf),
    *(functional.softsign, functional.tanhshrink, functional.mish, functional.hardsigmoid, functional.hardswish),
    *(functional.relu6, functional.selu),
)
_SIGNS = (operator.add, operator.sub, operator.mul, operator.eq, operator.ne, operator.lt, operator.le)
_BOTH = (
    *(torch.maximum, torch.minimum, torch.fmax, torch.fmin, torch.atan2, torch.hypot, torch.copysign, torch.fmod),
    *(torch.xlogy, torch.logaddexp, torch.logaddexp2, torch.heaviside, torch.float_power, torch.gcd, torch.lcm),
)
_PLAIN = (
    *(torch.nan_to_num, torch.logit, torch.isclose, torch.isin, torch.addcmul, torch.addcdiv),
    *(functional.gelu, functional.softplus, functional.glu, functional.hardtanh, functional.leaky_relu),
    *(functional.elu, functional.celu, functional.prelu),
)

KERNELS: dict[str, Kernel] = {
    **{function.__name__: unary(function) for function in _UNARY},
    **{function.__name__: operator_of(function) for function in (*_SIGNS, operator.gt, operator.ge)},
    **{function.__name__: both_tensors(function) for function in _BOTH},
    **{function.__name__: plain(function) for function in _PLAIN},
    "entr": unary(torch.special.entr),
    "threshold": placed(functional.threshold),
    "logsigmoid": unary(functional.logsigmoid),
    "softshrink": placed(functional.softshrink),
    "hardshrink": placed(functional.hardshrink),
    "pow": lambda input, exponent: operator.pow(input, exponent),
    "remainder": _remainder,
    "logical_and": _logical(torch.logical_and),
    "logical_or": _logical(torch.logical_or),
    "logical_xor": _logical(torch.logical_xor),
    "div": _div,
    "floor_divide": _floor_divide,
    "clamp": _clamp,
    "clamp_min": lambda input, min: _clamp(input, min, None),
    "clamp_max": lambda input, max: _clamp(input, None, max),
    "lerp": lambda input, end, weight: torch.lerp(input, end, weight),
    "where": lambda condition, input, other: torch.where(condition, input, other),
    "masked_fill": _masked_fill,
    "allclose": _allclose,
    "equal": _equal,
    "to": lambda input, dtype: input.to(dtype),
}
"""The kernels of this group by the names of their operations."""
