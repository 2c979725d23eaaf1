"""What can be said of a parameter for good: how its gradient is bent, and how it is brought back after a step."""

from __future__ import annotations

import torch

Kind = str | None


def projected(kind: Kind, dim: int | None, value: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """The part of a gradient along which the constraint goes on to hold.

    Args:
        kind: the constraint.
        dim: the axis of ``unit_norm``.
        value: the parameter, which holds it.
        gradient: of the parameter.
    """
    if kind == "unit_norm":
        along = (gradient * value).sum(_axis(dim), keepdim=True)
        return gradient - along * value
    if kind == "orthogonal":
        if value.shape[0] < value.shape[1]:
            return projected(kind, dim, value.T, gradient.T).T.contiguous()
        inner = value.T @ gradient
        return gradient - value @ (inner + inner.T) / 2
    return gradient


def held(kind: Kind, dim: int | None, value: torch.Tensor) -> torch.Tensor:
    """The value for which the constraint holds: scaled to length 1, orthonormalised, or raised above zero."""
    if kind == "unit_norm":
        wide = value if value.dtype == torch.float64 else value.float()
        norm = wide.norm(dim=_axis(dim), keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        unit: torch.Tensor = wide / norm
        return unit.to(value.dtype)
    if kind == "orthogonal":
        return _orthonormal(value) if value.shape[0] >= value.shape[1] else _orthonormal(value.T).T.contiguous()
    if kind == "positive":
        return value.clamp(min=torch.finfo(value.dtype).tiny)
    return value


def _orthonormal(value: torch.Tensor) -> torch.Tensor:
    """The columns made orthonormal, each by what the ones before it leave, so that orthonormal ones stay."""
    wide = value if value.dtype == torch.float64 else value.float()
    q, r = torch.linalg.qr(wide)
    signs = torch.where(r.diagonal() < 0, -1.0, 1.0).to(wide.dtype)
    found: torch.Tensor = (q * signs).to(value.dtype)
    return found


def _axis(dim: int | None) -> int:
    return -1 if dim is None else dim
