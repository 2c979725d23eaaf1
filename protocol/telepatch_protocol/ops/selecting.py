"""Rules of operations that pick or place elements by index."""

from __future__ import annotations

from telepatch_protocol.errors import DtypeError, ShapeError
from telepatch_protocol.meta import Meta
from telepatch_protocol.ops.reductions import along
from telepatch_protocol.ops.rules import axis, fit, integer, meta, need_integer, one_dtype
from telepatch_protocol.ops.shaping import all_but, need_sizes
from telepatch_protocol.ops.table import Bound
from telepatch_protocol.sizes import Dim, Shape, Size, product


def gathered(args: Bound) -> Meta:
    """Elements picked along one axis by an index of as many axes."""
    value, index = meta(args, "input"), meta(args, "index")
    need_integer(index)
    _check_rows(value.shape, index.shape, args["dim"], "index")
    return Meta(index.shape, value.dtype)


def scattered(args: Bound) -> Meta:
    """The value with elements replaced, or added to, along one axis."""
    value, index, source = meta(args, "input"), meta(args, "index"), args["src"]
    need_integer(index)
    _check_rows(value.shape, index.shape, args["dim"], "index")
    if isinstance(source, Meta):
        one_dtype([value, source])
        if source.shape is not None and index.shape is not None and not _within(index.shape, source.shape):
            raise ShapeError(f"index {index.shape} is larger than src {source.shape}")
    return Meta(value.shape, value.dtype)


def index_selected(args: Bound) -> Meta:
    """Entries of one axis, picked by an index of one axis."""
    value, index = meta(args, "input"), meta(args, "index")
    need_integer(index)
    if index.shape is not None and len(index.shape) > 1:
        raise ShapeError(f"'index' has one axis; found shape {index.shape}")
    place = along(value, args["dim"])
    if value.shape is None or place is None:
        return value
    count = Size.unknown() if index.shape is None else product(index.shape)
    return Meta((*value.shape[:place], count, *value.shape[place + 1 :]) if value.shape else (), value.dtype)


def taken(args: Bound) -> Meta:
    """Elements picked along one axis by an index that broadcasts over the others."""
    value, index, dim = meta(args, "input"), meta(args, "indices"), args["dim"]
    if index.dtype not in ("int64", None):
        raise DtypeError(f"'indices' are int64; found {index}; convert with .to('int64')")
    if dim is None:
        return Meta(None if index.shape is None else (product(index.shape),), value.dtype)
    if value.shape is None or index.shape is None:
        return Meta(None, value.dtype)
    if len(value.shape) != len(index.shape):
        raise ShapeError(f"value {value.shape} and indices {index.shape} differ in their number of axes")
    place = axis(value.shape, dim)
    pairs = list(zip(all_but(value.shape, place), all_but(index.shape, place), strict=True))
    if any(1 not in pair and not fit(*pair) for pair in pairs):
        raise ShapeError(f"value {value.shape} and indices {index.shape} do not broadcast outside axis {place}")
    rest = [_wider(left, right) for left, right in pairs]
    return Meta((*rest[:place], index.shape[place], *rest[place:]) if value.shape else (), value.dtype)


def one_hot(args: Bound) -> Meta:
    """Each integer as a vector with a single one."""
    value, classes = meta(args, "input"), integer(args, "num_classes")
    if value.dtype not in ("int64", None):
        raise DtypeError(f"needs int64, found {value}; convert it with .to('int64')")
    need_sizes([classes], "num_classes", least=1)
    return Meta(None if value.shape is None else (*value.shape, classes), "int64")


def nonzero(args: Bound) -> Meta:
    """The places of all elements that are not zero, one per row."""
    shape = meta(args, "input").shape
    return Meta(None if shape is None else (Size.unknown(*shape), len(shape)), "int64")


def triangle(args: Bound) -> Meta:
    """The value with zeros on one side of a diagonal of its last two axes."""
    value = meta(args, "input")
    if value.shape is not None and len(value.shape) < 2:
        raise ShapeError(f"needs two axes, found shape {value.shape}")
    return Meta(value.shape, value.dtype)


def diagonal(args: Bound) -> Meta:
    """A diagonal over two axes, as the last axis."""
    value, offset = meta(args, "input"), integer(args, "offset")
    if value.shape is None:
        return value
    first, second = (axis(value.shape, args[name], name) for name in ("dim1", "dim2"))
    if first == second:
        raise ShapeError(f"dim1 and dim2 name the same axis of shape {value.shape}")
    rows, columns = value.shape[first], value.shape[second]
    rest = tuple(dim for place, dim in enumerate(value.shape) if place not in (first, second))
    if not isinstance(rows, int) or not isinstance(columns, int) or not isinstance(offset, int):
        length: Dim = rows if rows == columns and offset == 0 else Size.unknown(rows)
    else:
        length = max(0, min(rows, columns - offset) if offset >= 0 else min(rows + offset, columns))
    return Meta((*rest, length), value.dtype)


def _wider(left: Dim, right: Dim) -> Dim:
    if isinstance(left, int) and left != 1:
        return left
    return right if left == 1 or (isinstance(right, int) and right != 1) else left


def _within(small: Shape, large: Shape) -> bool:
    return len(small) == len(large) and all(
        isinstance(have, Size) or isinstance(want, Size) or have <= want
        for have, want in zip(small, large, strict=True)
    )


def _check_rows(shape: Shape | None, index: Shape | None, dim: object, what: str) -> None:
    """Refuse an index that is longer than the value on another axis than the one it picks along."""
    if shape is None:
        return
    place = axis(shape, dim)
    if index is None:
        return
    if len(shape or (1,)) != len(index or (1,)):
        raise ShapeError(f"value {shape} and {what} {index} differ in their number of axes")
    if shape and index and not _within(all_but(index, place), all_but(shape, place)):
        raise ShapeError(f"{what} {index} is longer than value {shape} outside axis {place}")
