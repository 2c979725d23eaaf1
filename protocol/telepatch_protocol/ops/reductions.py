"""Rules of operations along axes: sums and means, extremes, sorting, softmax and norms."""

from __future__ import annotations

from telepatch_protocol.dtypes import is_float
from telepatch_protocol.errors import BadArgument, DtypeError, ShapeError
from telepatch_protocol.meta import Meta
from telepatch_protocol.ops.rules import (
    axes,
    axis,
    dims_of,
    fit,
    float_of,
    integer,
    meta,
    metas,
    need_float,
    one_dtype,
    refuse_bool,
    shapes_fit,
)
from telepatch_protocol.ops.table import Bound
from telepatch_protocol.sizes import Dim, Shape


def without(shape: Shape | None, dims: object, keepdim: bool) -> Shape | None:
    """A shape once axes `dims` fell away, or stayed with size one.

    Raises:
        ShapeError: there is no such axis.
        BadArgument: an empty list of axes.
    """
    if isinstance(dims, list) and not dims:
        raise BadArgument("'dim' is an empty list; null takes all axes")
    if shape is None:
        return None
    named = set(axes(shape, dims))
    if keepdim:
        return tuple(1 if place in named else dim for place, dim in enumerate(shape))
    return tuple(dim for place, dim in enumerate(shape) if place not in named)


def reduced(args: Bound) -> Meta:
    """Axes ``dim`` fall away, or stay with size one under ``keepdim``; booleans and integers add up to int64."""
    value = meta(args, "input")
    return Meta(_left(args), _added_dtype(value.dtype, args.get("dtype")))


def averaged(args: Bound) -> Meta:
    """As `reduced`, for floating-point values, or any that are made so by ``dtype``."""
    asked = args.get("dtype")
    if isinstance(asked, str) and not is_float(asked):
        raise DtypeError(f"'dtype' is {asked}; a mean is floating point")
    if asked is None:
        need_float(meta(args, "input"))
    return reduced(args)


def kept_dtype(args: Bound) -> Meta:
    """As `reduced`, with the dtype of the value; axes of size zero have no extreme."""
    value = meta(args, "input")
    _need_elements(value.shape, args.get("dim"))
    return Meta(_left(args), value.dtype)


def spread(args: Bound) -> Meta:
    """As `reduced`, for floating-point values only."""
    value = meta(args, "input")
    need_float(value)
    return Meta(_left(args), value.dtype)


def logsumexp(args: Bound) -> Meta:
    """As `reduced`; integers become float32."""
    return Meta(_left(args), float_of(meta(args, "input").dtype))


def quantiled(args: Bound) -> Meta:
    """As `reduced`, in float32 or float64, with the quantile between 0 and 1."""
    value, q = meta(args, "input"), args["q"]
    need_float(value, wide=True)
    if not isinstance(q, int | float) or not 0 <= q <= 1:
        raise BadArgument(f"'q' is {q}; it lies between 0 and 1")
    _need_elements(value.shape, args.get("dim"))
    return Meta(_left(args), value.dtype)


def counted(args: Bound) -> Meta:
    """Axes fall away; the result counts."""
    return Meta(_left(args), "int64")


def asked(args: Bound) -> Meta:
    """Axes fall away; the result is a boolean (uint8 for uint8, as in PyTorch)."""
    value = meta(args, "input")
    return Meta(_left(args), value.dtype if value.dtype in ("uint8", None) else "bool")


def placed(args: Bound) -> Meta:
    """Where an extreme is."""
    value = meta(args, "input")
    refuse_bool(value)
    _need_elements(value.shape, args["dim"])
    return Meta(_left(args), "int64")


def extreme(args: Bound) -> Meta | dict[str, Meta]:
    """The extreme of all, or along an axis the ``values`` and their ``indices``."""
    value, dim = meta(args, "input"), args["dim"]
    _need_elements(value.shape, dim)
    if dim is None:
        return Meta(_left(args), value.dtype)
    shape = _left(args)
    return {"values": Meta(shape, value.dtype), "indices": Meta(shape, "int64")}


def middle(args: Bound) -> Meta | dict[str, Meta]:
    """As `extreme`, for anything but booleans."""
    refuse_bool(meta(args, "input"))
    return extreme(args)


def accumulated(args: Bound) -> Meta:
    """The running sum or product along an axis."""
    value = meta(args, "input")
    along(value, args["dim"])
    return Meta(value.shape, _added_dtype(value.dtype, args["dtype"]))


def along(value: Meta, dim: object, what: str = "dim") -> int | None:
    """The axis that `dim` names, from 0, or None where the shape is unknown."""
    return None if value.shape is None else axis(value.shape, dim, what)


def softmaxed(args: Bound) -> Meta:
    """The same shape, for floating-point values, or any that are made so by ``dtype``."""
    value, dtype = meta(args, "input"), args["dtype"]
    along(value, args["dim"])
    if not isinstance(dtype, str):
        need_float(value)
        return Meta(value.shape, value.dtype)
    if not is_float(dtype):
        raise DtypeError(f"'dtype' is {dtype}; a softmax is floating point")
    return Meta(value.shape, dtype)


def normalized(args: Bound) -> Meta:
    """A floating-point value scaled along axes."""
    value = meta(args, "input")
    need_float(value)
    if value.shape is not None:
        axes(value.shape, args["dim"])
    return Meta(value.shape, value.dtype)


def layer_norm(args: Bound) -> Meta:
    """A floating-point value normalised over its last axes, with weights of those axes' shape."""
    value, last = meta(args, "input"), tuple(dims_of(args, "normalized_shape"))
    need_float(*metas(args))
    dtype = one_dtype(metas(args))
    if not last:
        raise BadArgument("'normalized_shape' is empty; it names the sizes of the last axes")
    if value.shape is not None and not shapes_fit(value.shape[-len(last) :], last):
        raise ShapeError(f"'normalized_shape' is {last}, but the value's last axes are {value.shape[-len(last) :]}")
    for name in ("weight", "bias"):
        given = args.get(name)
        if isinstance(given, Meta) and given.shape is not None and not shapes_fit(given.shape, last):
            raise ShapeError(f"'{name}' has shape {given.shape}; the normalised axes have {last}")
    return Meta(value.shape, dtype)


def sorted_values(args: Bound) -> dict[str, Meta]:
    """The values in order along an axis, and where each stood."""
    value = meta(args, "input")
    along(value, args["dim"])
    return {"values": Meta(value.shape, value.dtype), "indices": Meta(value.shape, "int64")}


def sorted_indices(args: Bound) -> Meta:
    """Where each value in order along an axis stood."""
    return sorted_values(args)["indices"]


def picked(args: Bound) -> dict[str, Meta]:
    """The k chosen along an axis: ``values`` and ``indices``."""
    value, k = meta(args, "input"), integer(args, "k")
    refuse_bool(value)
    place = along(value, args["dim"])
    shape = value.shape
    have: Dim | None = None
    if shape is not None and place is not None:
        have = shape[place] if shape else 1
        shape = (*shape[:place], k, *shape[place + 1 :]) if shape else ()
    if isinstance(k, int) and (k < 0 or (isinstance(have, int) and k > have)):
        raise BadArgument(f"k is {k}, but axis {args['dim']} of the value has size {have}")
    return {"values": Meta(shape, value.dtype), "indices": Meta(shape, "int64")}


def searched(args: Bound) -> Meta:
    """Where values belong in sorted sequences of the same dtype: one sequence, or one for each row of values."""
    sequence, value = meta(args, "sorted_sequence"), args["values"]
    refuse_bool(sequence, value)
    if not isinstance(value, Meta):
        if sequence.shape is not None and len(sequence.shape) != 1:
            raise ShapeError(f"a number is looked up in one sequence, of one axis; found shape {sequence.shape}")
        return Meta((), "int64")
    one_dtype([sequence, value])
    if sequence.shape == ():
        raise ShapeError("'sorted_sequence' needs an axis; found a value without any")
    if sequence.shape is not None and value.shape is not None and len(sequence.shape) > 1:
        rows, given = sequence.shape[:-1], value.shape[:-1]
        if len(sequence.shape) != len(value.shape) or not all(map(fit, rows, given)):
            raise ShapeError(f"sequences {sequence.shape} and values {value.shape} differ in more than the last axis")
    return Meta(value.shape, "int64")


def _left(args: Bound) -> Shape | None:
    """What is left of the value's shape."""
    return without(meta(args, "input").shape, args.get("dim"), bool(args.get("keepdim")))


def _added_dtype(dtype: str | None, asked: object) -> str | None:
    if isinstance(asked, str):
        return asked
    return dtype if dtype is None or is_float(dtype) else "int64"


def _need_elements(shape: Shape | None, dims: object) -> None:
    if shape is None:
        return
    empty = [place for place in axes(shape, dims) if shape and shape[place] == 0]
    if empty:
        raise ShapeError(f"axis {empty[0]} of shape {shape} is empty, and nothing has no extreme")
