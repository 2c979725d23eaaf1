"""Rules of named products of matrices and vectors, of functions of square matrices, and of distances."""

from __future__ import annotations

from telepatch_protocol.errors import BadArgument, ShapeError
from telepatch_protocol.meta import Meta
from telepatch_protocol.ops.linear import matmul, matrix_of, need_square, smaller
from telepatch_protocol.ops.reductions import without
from telepatch_protocol.ops.room import need_room
from telepatch_protocol.ops.rules import (
    axes,
    axis,
    fit,
    integer,
    meta,
    metas,
    mixed,
    need_float,
    one_dtype,
    refuse_bool,
    shapes_fit,
    together,
)
from telepatch_protocol.ops.shaping import need_sizes
from telepatch_protocol.ops.table import Bound, Rule
from telepatch_protocol.sizes import Size, times

MOST_POWERS = 10_000
"""The largest exponent of a power of a matrix."""


def product_of(first: str, left: int, second: str, right: int) -> Rule:
    """The rule of a product of two values with so many axes each, batches of equal size."""

    def rule(args: Bound) -> Meta:
        value, other = meta(args, first), meta(args, second)
        for one, rank in ((value, left), (other, right)):
            if one.shape is not None and len(one.shape) != rank:
                raise ShapeError(f"needs shapes of {left} and {right} axes; found {value.shape} and {other.shape}")
        if left == right == 3 and value.shape and other.shape and not fit(value.shape[0], other.shape[0]):
            raise ShapeError(f"batches of {value.shape[0]} and {other.shape[0]} matrices do not pair up")
        return matmul({"input": value, "other": other})

    return rule


def sum_with_product(first: str, left: int, second: str, right: int) -> Rule:
    """The rule of a value plus such a product, to which the value broadcasts."""
    multiplied = product_of(first, left, second, right)

    def rule(args: Bound) -> Meta:
        found = multiplied(args)
        assert isinstance(found, Meta)
        value = meta(args, "input")
        need_float(value)
        dtype = one_dtype([value, found])
        if value.shape is not None and found.shape is not None:
            shape = together(value.shape, found.shape)
            if shape is None or not shapes_fit(shape, found.shape):
                raise ShapeError(f"'input' has shape {value.shape}; the product has {found.shape}")
        return Meta(found.shape, dtype)

    return rule


def inner(args: Bound) -> Meta:
    """Sums of products over the last axes of two values."""
    value, other = meta(args, "input"), meta(args, "other")
    need_float(value, other)
    dtype = one_dtype([value, other])
    if value.shape is None or other.shape is None:
        return Meta(None, dtype)
    if not value.shape or not other.shape:
        return Meta(value.shape or other.shape, dtype)
    if not fit(value.shape[-1], other.shape[-1]):
        raise ShapeError(f"shapes {value.shape} and {other.shape} differ in their last axis")
    return Meta((*value.shape[:-1], *other.shape[:-1]), dtype)


def contracted(args: Bound) -> Meta:
    """Sums of products over the last axes of one value and the first of another."""
    value, other, count = meta(args, "a"), meta(args, "b"), integer(args, "dims")
    need_float(value, other)
    dtype = one_dtype([value, other])
    if value.shape is None or other.shape is None or not isinstance(count, int):
        return Meta(None, dtype)
    if not 0 <= count <= min(len(value.shape), len(other.shape)):
        raise BadArgument(f"'dims' is {count}; shapes {value.shape} and {other.shape} have no so many axes to sum over")
    kept = len(value.shape) - count
    if not shapes_fit(value.shape[kept:], other.shape[:count]):
        raise ShapeError(f"{value.shape[kept:]} at the end of 'a' does not fit {other.shape[:count]} of 'b'")
    return Meta((*value.shape[:kept], *other.shape[count:]), dtype)


def chained(args: Bound) -> Meta:
    """The product of two matrices or more, of which the first and the last may be vectors."""
    values = metas(args)
    need_float(*values)
    if len(values) < 2:
        raise BadArgument("multiplies two matrices or more; found one")
    for place, value in enumerate(values):
        ends = place in (0, len(values) - 1)
        if value.shape is not None and len(value.shape) != 2 and not (ends and len(value.shape) == 1):
            raise ShapeError(f"multiplies matrices, the first and last of which may be vectors; found {value.shape}")
    found = values[0]
    for value in values[1:]:
        found = matmul({"input": found, "other": value})
    return found


def crossed(args: Bound) -> Meta:
    """The vectors at right angles to two others of three numbers each."""
    value, other = meta(args, "input"), meta(args, "other")
    refuse_bool(value, other)
    dtype = one_dtype([value, other])
    if value.shape is not None and other.shape is not None and len(value.shape) != len(other.shape):
        raise ShapeError(f"needs values of as many axes; found {value.shape} and {other.shape}")
    shape = together(value.shape, other.shape)
    for one in (value, other):
        if one.shape is not None and not fit((one.shape or (1,))[axis(one.shape, args["dim"])], 3):
            raise ShapeError(f"needs three numbers along dim {args['dim']}; found shape {one.shape}")
    return Meta(shape, dtype)


def kronecker(args: Bound) -> Meta:
    """Every product of two values' elements, as one value in blocks."""
    value, other = meta(args, "input"), meta(args, "other")
    dtype = mixed([value, other])
    if value.shape is None or other.shape is None:
        return Meta(None, dtype)
    rank = max(len(value.shape), len(other.shape))
    left, right = ((1,) * (rank - len(one)) + one for one in (value.shape, other.shape))
    return Meta(tuple(map(times, left, right)), dtype)


def traced(args: Bound) -> Meta:
    """The sum of a matrix's diagonal; integers add up to int64."""
    value = meta(args, "input")
    if value.shape is not None and len(value.shape) != 2:
        raise ShapeError(f"needs a matrix, found shape {value.shape}")
    refuse_bool(value)
    return Meta((), value.dtype if value.dtype is None or "float" in value.dtype else "int64")


def square_to(count: int, name: str = "A") -> Rule:
    """The rule of a function of square matrices whose result keeps so many of a matrix's two axes."""

    def rule(args: Bound) -> Meta:
        rows, columns, batch, dtype = matrix_of(args, name)
        if batch is None:
            return Meta(None, dtype)
        need_square(rows, columns)
        return Meta((*batch, *(rows, columns)[2 - count :]), dtype)

    return rule


def signed_log(args: Bound) -> dict[str, Meta]:
    """A sign, and the logarithm of what it was taken from."""
    found = square_to(0)(args)
    assert isinstance(found, Meta)
    return {"sign": found, "logabsdet": found}


def powered(args: Bound) -> Meta:
    """As `square_to`, by an exponent that is not endless."""
    exponent = integer(args, "n")
    if isinstance(exponent, int) and abs(exponent) > MOST_POWERS:
        raise BadArgument(f"'n' is {exponent}; powers go up to {MOST_POWERS}")
    found = square_to(2)(args)
    assert isinstance(found, Meta)
    return found


def singular_values(args: Bound) -> Meta:
    """As many numbers as a matrix's shorter side."""
    rows, columns, batch, dtype = matrix_of(args)
    return Meta(None if batch is None else (*batch, smaller(rows, columns)), dtype)


def least_squares(args: Bound) -> Meta:
    """``X`` for which ``A X`` comes nearest to ``B``."""
    rows, columns, batch, _ = matrix_of(args)
    right = meta(args, "B")
    dtype = one_dtype(metas(args))
    if batch is None or right.shape is None:
        return Meta(None, dtype)
    if len(right.shape) < 2 or not fit(right.shape[-2], rows):
        raise ShapeError(f"A has {rows} rows; B has shape {right.shape}, whose axis before the last has another size")
    return Meta((*(together(batch, right.shape[:-2]) or ()), columns, right.shape[-1]), dtype)


def triangular(args: Bound) -> Meta:
    """``X`` such that ``A X = B``, or ``X A = B``, for a triangular ``A``."""
    rows, columns, batch, _ = matrix_of(args)
    right = meta(args, "B")
    dtype = one_dtype(metas(args))
    if batch is None or right.shape is None:
        return Meta(None, dtype)
    need_square(rows, columns)
    place = -2 if args["left"] else -1
    if len(right.shape) < 2 or not fit(right.shape[place], rows):
        raise ShapeError(f"A has {rows} rows; B has shape {right.shape}")
    return Meta((*(together(batch, right.shape[:-2]) or ()), *right.shape[-2:]), dtype)


def matrix_norm(args: Bound) -> Meta:
    """The norm of matrices that lie along two axes."""
    value, order, dims = meta(args, "A"), args["ord"], args["dim"] or [-2, -1]
    need_float(value)
    known = ("fro", "nuc", "1", "-1", "2", "-2", "inf", "-inf")
    if order not in known:
        raise BadArgument(f"'ord' is {order!r}; it may be {', '.join(map(repr, known))}")
    if order in ("nuc", "2", "-2"):
        need_float(value, wide=True)
    if value.shape is None:
        return value
    if len(value.shape) < 2:
        raise ShapeError(f"needs a matrix, found shape {value.shape}")
    if len(axes(value.shape, dims)) != 2:
        raise BadArgument(f"'dim' is {dims}; a matrix lies along two axes")
    return Meta(without(value.shape, dims, bool(args["keepdim"])), value.dtype)


def rank(args: Bound) -> Meta:
    """How many of a matrix's rows are independent."""
    _, _, batch, _ = matrix_of(args)
    return Meta(batch, "int64")


def powers_of(args: Bound) -> Meta:
    """A row of powers for each number of the last axis."""
    value, count = meta(args, "x"), args["N"]
    refuse_bool(value)
    if value.dtype is not None and "float" in value.dtype:
        need_float(value, wide=True)
    if value.shape is None:
        return Meta(None, value.dtype)
    if not value.shape:
        raise ShapeError("needs a vector of numbers; found a value without axes")
    columns = integer(args, "N") if count is not None else value.shape[-1]
    need_sizes([columns], "N", least=2)
    dtype = value.dtype
    return Meta((*value.shape, columns), "int64" if dtype is not None and "float" not in dtype else dtype)


def distances(args: Bound) -> Meta:
    """The distance of each row of one matrix from each row of another."""
    left, right = meta(args, "x1"), meta(args, "x2")
    need_float(left, right, wide=True)
    dtype = one_dtype([left, right])
    _need_order(args)
    if left.shape is None or right.shape is None:
        return Meta(None, dtype)
    if len(left.shape) < 2 or len(right.shape) < 2 or not fit(left.shape[-1], right.shape[-1]):
        raise ShapeError(f"needs matrices with rows of one length; found {left.shape} and {right.shape}")
    return Meta((*(together(left.shape[:-2], right.shape[:-2]) or ()), left.shape[-2], right.shape[-2]), dtype)


def own_distances(args: Bound) -> Meta:
    """The distance of each two rows of a matrix, each pair once."""
    value = meta(args, "input")
    need_float(value, wide=True)
    _need_order(args)
    if value.shape is None:
        return Meta((Size.unknown(),), value.dtype)
    if len(value.shape) != 2:
        raise ShapeError(f"needs a matrix of rows, found shape {value.shape}")
    rows = value.shape[0]
    return Meta((rows * (rows - 1) // 2 if isinstance(rows, int) else Size.unknown(rows, rows),), value.dtype)


def paired_distance(args: Bound) -> Meta:
    """The distance of each two vectors along the last axis, after broadcasting."""
    left, right = meta(args, "x1"), meta(args, "x2")
    need_float(left, right)
    shape = together(left.shape, right.shape)
    need_room(shape, "differences")
    dtype = one_dtype([left, right])
    if shape is None:
        return Meta(None, dtype)
    if not shape:
        raise ShapeError("needs vectors; found two values without axes")
    return Meta((*shape[:-1], *((1,) if args["keepdim"] else ())), dtype)


def _need_order(args: Bound) -> None:
    order = args["p"]
    if isinstance(order, int | float) and not order >= 0:
        raise BadArgument(f"'p' is {order}; it is zero or more")
