"""Rules of elementwise operations beyond arithmetic: functions of real numbers, nearness, gates of activations."""

from __future__ import annotations

from telepatch_protocol.dtypes import is_integer
from telepatch_protocol.errors import BadArgument, DtypeError, ShapeError
from telepatch_protocol.meta import Meta
from telepatch_protocol.ops.room import need_room
from telepatch_protocol.ops.rules import (
    axis,
    elementwise,
    fit,
    float_of,
    floats_only,
    meta,
    metas,
    need_float,
    one_dtype,
    refuse_bool,
    together,
)
from telepatch_protocol.ops.table import Bound
from telepatch_protocol.sizes import Size, product


def floating_pair(args: Bound) -> Meta:
    """As `elementwise`; integers become float32."""
    found = elementwise(args)
    return Meta(found.shape, float_of(found.dtype))


def floats_pair(args: Bound) -> Meta:
    """As `elementwise`, for floating-point values only."""
    found = elementwise(args)
    need_float(found)
    return found


def integers_pair(args: Bound) -> Meta:
    """As `elementwise`, for integers only."""
    found = elementwise(args)
    if found.dtype is not None and not is_integer(found.dtype):
        raise DtypeError(f"is defined for integers, found {found}; convert with .to('int64')")
    return found


def doubled(args: Bound) -> Meta:
    """As `elementwise`, in double precision."""
    return Meta(elementwise(args).shape, "float64")


def step_pair(args: Bound) -> Meta:
    """As `elementwise`, for two values of one dtype."""
    one_dtype(metas(args))
    return elementwise(args)


def bounded(args: Bound) -> Meta:
    """As `elementwise`, for anything but booleans."""
    found = elementwise(args)
    refuse_bool(found)
    return found


def near(args: Bound) -> Meta:
    """Two values of one dtype in, booleans of their common shape out."""
    one_dtype(metas(args))
    return Meta(together(*(one.shape for one in metas(args))), "bool")


def all_near(args: Bound) -> Meta:
    """As `near`, one boolean for all."""
    near(args)
    return Meta((), "bool")


def same_throughout(args: Bound) -> Meta:
    """One boolean for two values of one dtype; shapes that differ make it false."""
    one_dtype(metas(args))
    return Meta((), "bool")


def members(args: Bound) -> Meta:
    """For each element, whether it is among others."""
    elements, others = meta(args, "elements"), meta(args, "test_elements")
    refuse_bool(elements, others)
    one_dtype([elements, others])
    if elements.shape is not None and others.shape is not None:
        need_room((product(elements.shape), product(others.shape)), "comparisons")
    return Meta(elements.shape, "bool")


def scaled_sum(args: Bound) -> Meta:
    """Three floating-point values of one dtype, broadcast together."""
    need_float(*metas(args))
    return Meta(together(*(one.shape for one in metas(args))), one_dtype(metas(args)))


def within_bounds(args: Bound) -> Meta:
    """As `floats_only`, held between two numbers in order."""
    low, high = args["min_val"], args["max_val"]
    if isinstance(low, int | float) and isinstance(high, int | float) and low > high:
        raise BadArgument(f"'min_val' is {low}, above 'max_val', {high}")
    return floats_only(args)


def shrunk(args: Bound) -> Meta:
    """As `floats_only`, by a number that is not negative."""
    by = args["lambd"]
    if isinstance(by, int | float) and by < 0:
        raise BadArgument(f"'lambd' is {by}; it is zero or more")
    return floats_only(args)


def logit(args: Bound) -> Meta:
    """A probability as a number without bounds; integers become float32."""
    value = meta(args, "input")
    return Meta(value.shape, float_of(value.dtype))


def halved(args: Bound) -> Meta:
    """One half of an axis gates the other."""
    value = floats_only(args)
    if value.shape is None:
        return value
    if not value.shape:
        raise ShapeError("needs an axis to halve; found a value without any")
    place = axis(value.shape, args["dim"])
    size = value.shape[place]
    if isinstance(size, int) and size % 2:
        raise ShapeError(f"axis {place} of shape {value.shape} is odd; one half gates the other")
    half = size // 2 if isinstance(size, int) else Size.unknown(size)
    return Meta((*value.shape[:place], half, *value.shape[place + 1 :]), value.dtype)


def leaky(args: Bound) -> Meta:
    """A floating-point value, and a slope for all or one for each entry of its second axis."""
    value, weight = meta(args, "input"), meta(args, "weight")
    need_float(value, weight)
    dtype = one_dtype([value, weight])
    if value.shape is not None and weight.shape is not None:
        slopes = product(weight.shape)
        channels = value.shape[1] if len(value.shape) > 1 else 1
        if len(weight.shape) > 1 or not (slopes == 1 or fit(slopes, channels)):
            raise ShapeError(f"'weight' has shape {weight.shape}; it holds one number, or {channels} for {value.shape}")
    return Meta(value.shape, dtype)


def both_floats(args: Bound) -> Meta:
    """The value's shape and dtype, for floating-point values of one dtype."""
    need_float(*metas(args))
    return Meta(meta(args, "input").shape, one_dtype(metas(args)))


def number_in(args: Bound, name: str, low: float, high: float) -> None:
    """Refuse a number outside its bounds.

    Raises:
        BadArgument: below `low` or above `high`.
    """
    found = args[name]
    if isinstance(found, int | float) and not low <= found <= high:
        raise BadArgument(f"'{name}' is {found}; it lies between {low:g} and {high:g}")
