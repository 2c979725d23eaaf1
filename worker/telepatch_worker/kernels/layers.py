"""Kernels of convolution, pooling, resizing and attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from telepatch_worker.kernels.adapters import Kernel, plain


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
) -> Tensor:
    """Grouped heads are repeated here: not every way that PyTorch has through attention takes them."""
    if enable_gqa:
        key, value = (one.repeat_interleave(query.shape[-3] // one.shape[-3], -3) for one in (key, value))
    return functional.scaled_dot_product_attention(query, key, value, attn_mask, 0.0, is_causal, scale=scale)


def _batch_norm(
    input: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Tensor:
    if not (running_mean.requires_grad or running_var.requires_grad):
        return functional.batch_norm(input, running_mean, running_var, weight, bias, eps=eps)
    # PyTorch has no gradient of the statistics.
    shape = (-1, *(1,) * (input.ndim - 2))
    found = (input - running_mean.view(shape)) * (running_var.view(shape) + eps).rsqrt()
    found = found if weight is None else found * weight.view(shape)
    return found if bias is None else found + bias.view(shape)


def _interpolate(input: Tensor, size: Any, mode: str, align_corners: bool | None) -> Tensor:
    sizes = size if isinstance(size, list) else [size] * (input.ndim - 2)
    return functional.interpolate(input, sizes, mode=mode, align_corners=align_corners)


KERNELS: dict[str, Kernel] = {
    **{
        function.__name__: plain(function)
        for function in (torch.conv1d, torch.conv2d, functional.avg_pool1d, functional.avg_pool2d)
    },
    **{
        f"max_pool{axes}d": plain(function)
        for axes, function in enumerate((functional.max_pool1d, functional.max_pool2d), 1)
    },
    **{
        f"adaptive_{kind}_pool{axes}d": plain(getattr(functional, f"adaptive_{kind}_pool{axes}d"))
        for kind in ("avg", "max")
        for axes in (1, 2)
    },
    "batch_norm": _batch_norm,
    "interpolate": _interpolate,
    "scaled_dot_product_attention": _attention,
}
"""The kernels of this group by the names of their operations."""
