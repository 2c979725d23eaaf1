"""Named tensors as inputs: what a model without tokens takes, held against what an invoke gives."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from telepatch_protocol.card import InputCard, ModelCard
from telepatch_protocol.dtypes import is_float, is_integer
from telepatch_protocol.errors import BadArgument, DtypeError, ShapeError, UnknownName
from telepatch_protocol.literals import list_meta
from telepatch_protocol.meta import UNKNOWN, Meta, shown
from telepatch_protocol.sizes import Dim, Shape, Size

ONE_POSITION = 1
"""The length of an input that has no positions: it counts as one, in prices and in budgets."""


def takes(card: ModelCard) -> str:
    """What a model is called with, as error messages say it."""
    if not card.inputs:
        return "text or token ids" if card.tokenizer else "token ids"
    return ", ".join(f"{name} {one.dtype} {one.shape}" for name, one in card.inputs.items())


def named_size(invoke: str, given: Mapping[str, object], card: ModelCard) -> tuple[Dim, Dim]:
    """Rows and positions of an input of named tensors.

    Args:
        invoke: its id.
        given: what is known of each tensor: a `Meta`, or a list of numbers.
        card: of the model.

    Raises:
        UnknownName: a name that the model does not take.
        BadArgument, ShapeError, DtypeError: one is missing, or is not what the model takes.
    """
    _check_names(invoke, given, card)
    rows: dict[str, Dim] = {}
    lengths: dict[str, Dim] = {}
    for name, value in given.items():
        wanted = card.inputs[name]
        what = f"invoke '{invoke}': '{name}'"
        meta = _meta(what, value, wanted)
        check_dtype(what, value, meta.dtype, wanted)
        row, length = _sizes(what, meta, wanted)
        rows[name] = row
        if length is not None:
            lengths[name] = length
    return _common(invoke, "rows", rows), _common(invoke, "positions", lengths) if lengths else ONE_POSITION


def check_dtype(what: str, value: object, dtype: str | None, takes: InputCard) -> None:
    """Refuse numbers of a kind that the model does not take.

    Raises:
        DtypeError: with what would have worked.
    """
    if dtype is None or dtype == takes.dtype:
        return
    literal = isinstance(value, list)
    if is_float(takes.dtype):
        ints = is_integer(dtype)
        if is_float(dtype) or (ints and literal and takes.pixels is None) or (dtype == "uint8" and takes.pixels):
            return
        if ints and takes.pixels is not None:
            raise DtypeError(
                f"{what} takes images as uint8 (0 to 255, which are normalised) or as floats (which are taken as they "
                f"are); found {'a list of integers' if literal else dtype}"
            )
        raise DtypeError(f"{what} takes {takes.dtype}, found {dtype}; convert it to floating point")
    if is_integer(takes.dtype) and is_integer(dtype):
        return
    raise DtypeError(f"{what} takes {takes.dtype}, found {dtype}")


def _check_names(invoke: str, given: Mapping[str, object], card: ModelCard) -> None:
    for name in given:
        if name not in card.inputs:
            near = difflib.get_close_matches(name, card.inputs, n=1)
            hint = f" (did you mean '{near[0]}'?)" if near else ""
            raise UnknownName(f"invoke '{invoke}': model '{card.id}' takes no '{name}'{hint}; it takes {takes(card)}")
    if not given:
        raise BadArgument(f"invoke '{invoke}' gives no tensor; model '{card.id}' takes {takes(card)}")
    missing = [name for name, one in card.inputs.items() if not one.optional and name not in given]
    if missing:
        raise BadArgument(f"invoke '{invoke}' lacks '{missing[0]}'; model '{card.id}' takes {takes(card)}")


def _meta(what: str, value: object, takes: InputCard) -> Meta:
    if isinstance(value, Meta):
        return value
    if isinstance(value, list):
        return list_meta(value)
    if value is None:
        return UNKNOWN
    raise BadArgument(f"{what} is a tensor of shape {takes.shape}; found {shown(value)}")


def _sizes(what: str, meta: Meta, takes: InputCard) -> tuple[Dim, Dim | None]:
    """Rows, and positions where the input has such an axis."""
    if meta.shape is None:
        return Size.unknown(), Size.unknown() if "pos" in takes.axes else None
    shape: Shape = (1, *meta.shape) if len(meta.shape) == len(takes.axes) - 1 else meta.shape
    if len(shape) != len(takes.axes) or not all(
        isinstance(axis, str) or isinstance(have, Size) or have == axis
        for have, axis in zip(shape, takes.axes, strict=True)
    ):
        raise ShapeError(f"{what} has shape {takes.shape}, found {meta.shape}{_hint(meta.shape, takes)}")
    if 0 in shape:
        raise ShapeError(f"{what} is empty: its shape is {meta.shape}")
    lengths = {dim for dim, axis in zip(shape, takes.axes, strict=True) if axis == "pos"}
    return shape[0], _common(what, "positions", dict(enumerate(lengths))) if lengths else None


def _hint(shape: Shape, takes: InputCard) -> str:
    """What is wrong where an image has its channels last, as many libraries keep it."""
    wanted = takes.axes[1:]
    if len(wanted) != 3 or len(shape) not in (3, 4):
        return ""
    *_, height, width, channels = shape
    if (channels, height, width) == wanted:
        order = ".transpose(2, 0, 1)" if len(shape) == 3 else ".transpose(0, 3, 1, 2)"
        return f"; channels come before height and width: image{order}"
    return ""


def _common(what: str, axis: str, sizes: Mapping[str, Dim] | Mapping[int, Dim]) -> Dim:
    """The one size that all have; a known one where there is one."""
    known = {name: size for name, size in sizes.items() if isinstance(size, int)}
    if len(set(known.values())) > 1:
        listed = ", ".join(
            f"{size} in '{name}'" if isinstance(name, str) else str(size) for name, size in known.items()
        )
        raise ShapeError(f"{what}: its tensors have different numbers of {axis}: {listed}")
    return next(iter(known.values()), next(iter(sizes.values())))
