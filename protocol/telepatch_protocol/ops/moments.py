"""Rules of statistics along axes: running extremes, counts, moments, sets."""

from __future__ import annotations

from telepatch_protocol.dtypes import is_integer
from telepatch_protocol.errors import BadArgument, DtypeError, ShapeError
from telepatch_protocol.meta import Meta
from telepatch_protocol.ops.reductions import along, without
from telepatch_protocol.ops.rules import (
    axis,
    fit,
    integer,
    meta,
    metas,
    need_float,
    one_dtype,
    refuse_bool,
    shapes_fit,
    together,
)
from telepatch_protocol.ops.shaping import all_but, need_sizes
from telepatch_protocol.ops.table import Bound, Rule
from telepatch_protocol.sizes import Dim, Shape, Size, product


def spread_and_mean(name: str) -> Rule:
    """The rule of two moments at once: a spread called `name`, and the mean."""

    def rule(args: Bound) -> dict[str, Meta]:
        value = meta(args, "input")
        need_float(value)
        left = Meta(without(value.shape, args["dim"], bool(args["keepdim"])), value.dtype)
        return {name: left, "mean": left}

    return rule


def running_extreme(args: Bound) -> dict[str, Meta]:
    """The extreme of all so far along an axis, and where it is."""
    value = meta(args, "input")
    along(value, args["dim"])
    return {"values": Meta(value.shape, value.dtype), "indices": Meta(value.shape, "int64")}


def running_floats(args: Bound) -> Meta:
    """The same shape, for floating-point values, along an axis."""
    value = meta(args, "input")
    need_float(value)
    along(value, args["dim"])
    return Meta(value.shape, value.dtype)


def one_of_axis(args: Bound) -> dict[str, Meta]:
    """One element along an axis, and where it is."""
    value = meta(args, "input")
    place = along(value, args["dim"])
    if value.shape and place is not None and value.shape[place] == 0:
        raise ShapeError(f"axis {place} of shape {value.shape} is empty")
    shape = without(value.shape, args["dim"], bool(args["keepdim"]))
    return {"values": Meta(shape, value.dtype), "indices": Meta(shape, "int64")}


def kth(args: Bound) -> dict[str, Meta]:
    """The k-th smallest along an axis, counted from 1, and where it is."""
    value, k = meta(args, "input"), integer(args, "k")
    refuse_bool(value)
    place = along(value, args["dim"])
    have: Dim | None = None if value.shape is None or place is None else (value.shape or (1,))[place]
    if isinstance(k, int) and (k < 1 or (isinstance(have, int) and k > have)):
        raise BadArgument(f"k is {k}, but axis {args['dim']} of the value has size {have}, counted from 1")
    return one_of_axis(args)


def both_extremes(args: Bound) -> dict[str, Meta]:
    """The smallest and the largest, of all or along an axis."""
    value, dim = meta(args, "input"), args["dim"]
    if value.shape is not None and any(
        size == 0 for place, size in enumerate(value.shape) if dim is None or place == axis(value.shape, dim)
    ):
        raise ShapeError(f"shape {value.shape} is empty there, and nothing has no extreme")
    shape = without(value.shape, dim, bool(args["keepdim"]))
    return {"min": Meta(shape, value.dtype), "max": Meta(shape, value.dtype)}


def differences(args: Bound) -> Meta:
    """Differences of neighbours along an axis, n times over."""
    value, n = meta(args, "input"), integer(args, "n")
    need_sizes([n], "n")
    if value.shape is None:
        return value
    if not value.shape:
        raise ShapeError("needs an axis; found a value without any")
    place = axis(value.shape, args["dim"])
    size = value.shape[place] - n
    left = max(0, size) if isinstance(size, int) else size
    return Meta((*value.shape[:place], left, *value.shape[place + 1 :]), value.dtype)


def area(args: Bound) -> Meta:
    """An integral along an axis by the trapezoidal rule."""
    value, points = meta(args, "y"), args["x"]
    need_float(*metas(args))
    one_dtype(metas(args))
    if value.shape is None:
        return value
    if not value.shape:
        raise ShapeError("needs an axis to integrate along; found a value without any")
    place = axis(value.shape, args["dim"])
    if isinstance(points, Meta) and points.shape is not None:
        if len(points.shape) == 1 and not fit(points.shape[0], value.shape[place]):
            raise ShapeError(f"'x' has {points.shape[0]} points; axis {place} of 'y' has size {value.shape[place]}")
        if len(points.shape) != 1 and not shapes_fit(points.shape, value.shape):
            raise ShapeError(f"'x' has shape {points.shape}; it has one axis, or the shape of 'y', {value.shape}")
    return Meta(all_but(value.shape, place), value.dtype)


def histogram(args: Bound) -> Meta:
    """How many numbers fall into each of some bins of equal width."""
    value, bins = meta(args, "input"), integer(args, "bins")
    need_float(value)
    need_sizes([bins], "bins", least=1)
    low, high = args["min"], args["max"]
    if isinstance(low, int | float) and isinstance(high, int | float) and low > high:
        raise BadArgument(f"'min' is {low}, above 'max', {high}")
    return Meta((bins,), value.dtype)


def bins(args: Bound) -> Meta:
    """How often each integer below a number occurs, or the sum of its weights."""
    value, weights, count = meta(args, "input"), args["weights"], integer(args, "minlength")
    if value.dtype is not None and not is_integer(value.dtype):
        raise DtypeError(f"counts integers, found {value}; convert it with .to('int64')")
    if value.shape is not None and len(value.shape) != 1:
        raise ShapeError(f"counts the integers of one axis; found shape {value.shape}; flatten it")
    need_sizes([count], "minlength", least=1)
    if not isinstance(weights, Meta):
        return Meta((count,), "int64")
    if weights.shape is not None and value.shape is not None and not shapes_fit(weights.shape, value.shape):
        raise ShapeError(f"'weights' has shape {weights.shape}; the value has {value.shape}")
    dtype = weights.dtype
    return Meta((count,), dtype if dtype in ("float32", None) else "float64")


def buckets(args: Bound) -> Meta:
    """Between which of some sorted boundaries each element lies."""
    value, boundaries = meta(args, "input"), meta(args, "boundaries")
    refuse_bool(value, boundaries)
    one_dtype([value, boundaries])
    if boundaries.shape is not None and len(boundaries.shape) != 1:
        raise ShapeError(f"'boundaries' has one axis; found shape {boundaries.shape}")
    return Meta(value.shape, "int64")


def distinct(args: Bound) -> Meta | dict[str, Meta]:
    """The different elements in order; where asked, which of them each element is, and how often each occurs."""
    value = meta(args, "input")
    count = Size.unknown() if value.shape is None else Size.unknown(product(value.shape))
    found = {"output": Meta((count,), value.dtype)}
    if args["return_inverse"]:
        found["inverse_indices"] = Meta(value.shape, "int64")
    if args["return_counts"]:
        found["counts"] = Meta((count,), "int64")
    return found if len(found) > 1 else found["output"]


def covariance(args: Bound) -> Meta:
    """Of variables, one per row, and observations, one per column: a square of one number for each two variables."""
    value = meta(args, "input")
    need_float(value)
    if value.shape is None:
        return value
    if len(value.shape) > 2:
        raise ShapeError(f"needs one row for each variable; found shape {value.shape}")
    return Meta((value.shape[0],) * 2 if len(value.shape) == 2 else (), value.dtype)


def distance(args: Bound) -> Meta:
    """One number for two values that broadcast together."""
    left, right = meta(args, "input"), meta(args, "other")
    need_float(left, right)
    together(left.shape, right.shape)
    return Meta((), one_dtype([left, right]))


def grouped(args: Bound) -> Meta:
    """A floating-point value normalised within groups of its second axis."""
    value, groups = meta(args, "input"), integer(args, "num_groups")
    need_float(*metas(args))
    need_sizes([groups], "num_groups", least=1)
    if value.shape is None:
        return Meta(None, one_dtype(metas(args)))
    if len(value.shape) < 2:
        raise ShapeError(f"needs a row axis and a channel axis; found shape {value.shape}")
    channels = value.shape[1]
    if isinstance(channels, int) and isinstance(groups, int) and channels % groups:
        raise ShapeError(f"{channels} channels of shape {value.shape} do not make {groups} equal groups")
    need_channels(args, value.shape, "weight", "bias")
    return Meta(value.shape, one_dtype(metas(args)))


def need_channels(args: Bound, shape: Shape, *names: str) -> None:
    """Refuse weights that are not one for each entry of the second axis.

    Raises:
        ShapeError: another shape.
    """
    for name in names:
        given = args[name]
        if isinstance(given, Meta) and given.shape is not None and not shapes_fit(given.shape, (shape[1],)):
            raise ShapeError(f"'{name}' has shape {given.shape}; there are {shape[1]} channels in {shape}")
