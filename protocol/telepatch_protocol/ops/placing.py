"""Rules of operations that take or place whole slices, diagonals and entries by index."""

from __future__ import annotations

from telepatch_protocol.dtypes import is_float
from telepatch_protocol.errors import BadArgument, IndexOutOfRange, ShapeError
from telepatch_protocol.meta import Meta
from telepatch_protocol.ops.reductions import along
from telepatch_protocol.ops.rules import (
    axis,
    chosen,
    fit,
    integer,
    meta,
    need_integer,
    need_mask,
    one_dtype,
    refuse_bool,
    shapes_fit,
    together,
)
from telepatch_protocol.ops.selecting import diagonal, scattered
from telepatch_protocol.ops.shaping import all_but, need_sizes
from telepatch_protocol.ops.table import Bound
from telepatch_protocol.sizes import Dim, Shape, Size, product


def one_entry(args: Bound) -> Meta:
    """One entry of an axis, which falls away."""
    value = meta(args, "input")
    if value.shape is None:
        return value
    return Meta(all_but(value.shape, _entry(value.shape, args)), value.dtype)


def stretch(args: Bound) -> Meta:
    """A stretch of an axis, from a place on."""
    value, start, length = meta(args, "input"), integer(args, "start"), integer(args, "length")
    need_sizes([length], "length")
    if value.shape is None:
        return value
    place = _axis_of(value.shape, args["dim"])
    size = value.shape[place]
    if isinstance(size, int) and isinstance(start, int):
        begin = start + size if start < 0 else start
        if not 0 <= begin <= size or (isinstance(length, int) and begin + length > size):
            raise IndexOutOfRange(f"{length} from {start} on is past the end of axis {place}, which has size {size}")
    return Meta((*value.shape[:place], length, *value.shape[place + 1 :]), value.dtype)


def entry_replaced(args: Bound) -> Meta:
    """The value with one entry of an axis replaced."""
    value, source = meta(args, "input"), meta(args, "src")
    dtype = one_dtype([value, source])
    if value.shape is not None:
        _need_shape(source, all_but(value.shape, _entry(value.shape, args)))
    return Meta(value.shape, dtype)


def slice_replaced(args: Bound) -> Meta:
    """The value with a slice of an axis replaced."""
    value, source, step = meta(args, "input"), meta(args, "src"), integer(args, "step")
    need_sizes([step], "step", least=1)
    dtype = one_dtype([value, source])
    if value.shape is not None:
        place = _axis_of(value.shape, args["dim"])
        length = _sliced(value.shape[place], args["start"], args["end"], step)
        _need_shape(source, (*value.shape[:place], length, *value.shape[place + 1 :]))
    return Meta(value.shape, dtype)


def diagonal_replaced(args: Bound) -> Meta:
    """The value with a diagonal of two axes replaced."""
    value, source = meta(args, "input"), meta(args, "src")
    wanted = diagonal(args).shape
    if wanted is not None:
        _need_shape(source, wanted)
    return Meta(value.shape, one_dtype([value, source]))


def copied_to(args: Bound) -> Meta:
    """The value with entries of an axis replaced."""
    return _entries_placed(args)


def scaled_added(args: Bound) -> Meta:
    """The value with multiples of other entries added to entries of an axis."""
    value, alpha = meta(args, "input"), args["alpha"]
    if isinstance(alpha, float) and value.dtype is not None and not is_float(value.dtype):
        raise BadArgument(f"'alpha' is {alpha}, which no {value.dtype} can be multiplied with; convert the value")
    return _entries_placed(args)


def filled_at(args: Bound) -> Meta:
    """The value with one number in some entries of an axis."""
    value, index, filling = meta(args, "input"), meta(args, "index"), args["value"]
    _need_entries(value, index, args["dim"])
    if isinstance(filling, Meta) and filling.shape not in ((), None):
        raise ShapeError(f"'value' is one number; found {filling}")
    return Meta(value.shape, value.dtype)


def combined_at(args: Bound) -> Meta:
    """As scatter, with what comes to one place combined."""
    chosen(args, "reduce", "sum", "prod", "mean", "amax", "amin")
    refuse_bool(meta(args, "input"))
    return scattered(args)


def taken_flat(args: Bound) -> Meta:
    """Elements picked from the flattened value."""
    value, index = meta(args, "input"), meta(args, "index")
    need_integer(index)
    return Meta(index.shape, value.dtype)


def masked(args: Bound) -> Meta:
    """The elements under a mask, in one axis."""
    value, mask = meta(args, "input"), meta(args, "mask")
    need_mask(mask)
    shape = together(value.shape, mask.shape)
    return Meta((Size.unknown() if shape is None else Size.unknown(*shape),), value.dtype)


def looked_up(args: Bound) -> Meta:
    """Rows of a matrix, picked by integers of any shape."""
    index, weight = meta(args, "input"), meta(args, "weight")
    need_integer(index)
    if weight.shape is not None and len(weight.shape) != 2:
        raise ShapeError(f"'weight' is a matrix with one row for each integer; found shape {weight.shape}")
    if index.shape is None or weight.shape is None:
        return Meta(None, weight.dtype)
    return Meta((*index.shape, weight.shape[1]), weight.dtype)


def diagonal_or_matrix(args: Bound) -> Meta:
    """A matrix of a vector on its diagonal, or the diagonal of a matrix."""
    value, offset = meta(args, "input"), integer(args, "diagonal")
    if value.shape is None:
        return value
    if len(value.shape) not in (1, 2):
        raise ShapeError(f"needs a vector or a matrix, found shape {value.shape}")
    if len(value.shape) == 1:
        return Meta((value.shape[0] + _far(offset),) * 2, value.dtype)
    return diagonal({"input": value, "offset": offset, "dim1": 0, "dim2": 1})


def embedded(args: Bound) -> Meta:
    """The last axis on a diagonal of two new axes."""
    value, offset = meta(args, "input"), integer(args, "offset")
    if value.shape is None:
        return value
    if not value.shape:
        raise ShapeError("needs an axis to put on a diagonal; found a value without any")
    shape = (*value.shape, 1)
    first, second = (axis(shape, args[name], name) for name in ("dim1", "dim2"))
    if first == second:
        raise ShapeError(f"dim1 and dim2 name the same axis of shape {value.shape} and one more")
    side = value.shape[-1] + _far(offset)
    rest = list(value.shape[:-1])
    for place in sorted((first, second)):
        rest.insert(place, side)
    return Meta(tuple(rest), value.dtype)


def flat_on_diagonal(args: Bound) -> Meta:
    """A square matrix with all elements on a diagonal."""
    value, offset = meta(args, "input"), integer(args, "offset")
    if value.shape is None:
        return value
    return Meta((product(value.shape) + _far(offset),) * 2, value.dtype)


def _far(offset: Dim) -> Dim:
    return abs(offset) if isinstance(offset, int) else Size.unknown()


def _axis_of(shape: Shape, dim: object) -> int:
    if not shape:
        raise ShapeError("a value without axes has none to take a part of")
    return axis(shape, dim)


def _entry(shape: Shape, args: Bound) -> int:
    """The axis that an entry is taken of, once the entry is known to be there."""
    place, index = _axis_of(shape, args["dim"]), integer(args, "index")
    size = shape[place]
    if isinstance(size, int) and isinstance(index, int) and not -size <= index < size:
        raise IndexOutOfRange(f"index {index} is past the end of axis {place}, which has size {size}")
    return place


def _sliced(size: Dim, start: object, end: object, step: Dim) -> Dim:
    """How many entries a slice takes."""
    bounds = [one for one in (start, end) if one is None or isinstance(one, int)]
    if len(bounds) == 2 and isinstance(size, int) and isinstance(step, int):
        return len(range(*slice(bounds[0], bounds[1], step).indices(size)))
    return size if start in (None, 0) and end is None and step == 1 else Size.unknown(size)


def _need_shape(source: Meta, wanted: Shape) -> None:
    if source.shape is not None and not shapes_fit(source.shape, wanted):
        raise ShapeError(f"'src' has shape {source.shape}; what it replaces has {wanted}")


def _need_entries(value: Meta, index: Meta, dim: object) -> int | None:
    need_integer(index)
    if index.shape is not None and len(index.shape) > 1:
        raise ShapeError(f"'index' has one axis; found shape {index.shape}")
    return along(value, dim)


def _entries_placed(args: Bound) -> Meta:
    value, index, source = meta(args, "input"), meta(args, "index"), meta(args, "source")
    place = _need_entries(value, index, args["dim"])
    dtype = one_dtype([value, source])
    if value.shape is None or index.shape is None or source.shape is None or place is None:
        return Meta(value.shape, dtype)
    count = product(index.shape)
    wanted = (*value.shape[:place], count, *value.shape[place + 1 :]) if value.shape else source.shape
    if not shapes_fit(source.shape, wanted) or not (value.shape or fit(product(source.shape), count)):
        raise ShapeError(f"'source' has shape {source.shape}; {count} entries of axis {place} have {wanted}")
    return Meta(value.shape, dtype)
