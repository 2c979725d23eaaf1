"""From the axes on a card to shapes of values."""

from __future__ import annotations

from telepatch_protocol.card import Axis, ModuleCard
from telepatch_protocol.dtypes import is_float
from telepatch_protocol.errors import BadArgument, DtypeError, ShapeError
from telepatch_protocol.meta import UNKNOWN, Meta
from telepatch_protocol.sizes import Dim, Shape, Size, times

_CONTAINERS = ("ModuleList", "ModuleDict", "ParameterList", "ParameterDict")
"""Kinds of modules that PyTorch gives no forward."""


def dim_of(axis: Axis, rows: Dim, length: Dim, target: Dim = 0) -> Dim:
    """The size of an axis for an input of so many rows and positions, and positions of what a decoder is given."""
    if isinstance(axis, int):
        return axis
    if axis == "row":
        return rows
    if axis == "pos":
        return length
    if axis == "target":
        return target
    return times(rows, length) if axis == "row*pos" else Size.unknown()


def applied(module: ModuleCard, value: Meta) -> Meta:
    """What a module of the model gives for a value: its last axes are the module's own, those before are kept.

    Raises:
        BadArgument: the module is none that can be applied.
        ShapeError, DtypeError: the module cannot take the value.
    """
    if module.kind in _CONTAINERS:
        raise BadArgument(f"module '{module.path}' ({module.kind}) only holds others and cannot be applied")
    if module.input is None or module.output is None or not module.input.leaves or not module.output.leaves:
        return UNKNOWN
    takes = module.input.leaves[module.input.primary]
    gives = module.output.leaves[module.output.primary]
    if value.dtype is not None and value.dtype != takes.dtype and (is_float(takes.dtype) or is_float(value.dtype)):
        raise DtypeError(f"'{module.path}' takes {takes.dtype}, found {value}; convert it with .to('{takes.dtype}')")
    own, new = fixed(takes.axes), fixed(gives.axes)
    if value.shape is None:
        return Meta(None, gives.dtype)
    lead = value.shape[: len(value.shape) - len(own)]
    if len(value.shape) < len(own) or not all(
        isinstance(have, Size) or have == want for have, want in zip(value.shape[len(lead) :], own, strict=True)
    ):
        raise ShapeError(
            f"'{module.path}' takes values of shape (..., {', '.join(map(str, own))}); found {value.shape}"
        )
    return Meta((*lead, *new), gives.dtype)


def fixed(axes: tuple[Axis, ...]) -> Shape:
    """The last axes of fixed size."""
    last = len(axes)
    while last and isinstance(axes[last - 1], int):
        last -= 1
    return tuple(axis for axis in axes[last:] if isinstance(axis, int))
