"""Rules of operations that make new values of nothing: constants and ranges."""

from __future__ import annotations

from telepatch_protocol.errors import BadArgument, DtypeError, ShapeError
from telepatch_protocol.meta import Meta
from telepatch_protocol.ops.rules import dims_of, integer, meta
from telepatch_protocol.ops.shaping import need_sizes
from telepatch_protocol.ops.table import Bound
from telepatch_protocol.sizes import Shape, Size


def made(args: Bound) -> Meta:
    """A new value of a given shape and dtype."""
    return Meta(_made_shape(args, "size"), str(args["dtype"]))


def filled(args: Bound) -> Meta:
    """A new value of a given shape; the number decides the dtype where none is asked."""
    return Meta(_made_shape(args, "size"), _number_dtype(args))


def alike(args: Bound) -> Meta:
    """A new value of another's shape, and of its dtype where none is asked."""
    value, dtype = meta(args, "input"), args["dtype"]
    return Meta(value.shape, dtype if isinstance(dtype, str) else value.dtype)


def ranged(args: Bound) -> Meta:
    """Integers from start up to, but without, end."""
    start, end, step = (integer(args, name) for name in ("start", "end", "step"))
    dtype = args["dtype"] if isinstance(args["dtype"], str) else "int64"
    if dtype == "bool":
        raise DtypeError("has no dtype bool; convert the result")
    if step == 1:
        length = end - start
    elif isinstance(start, int) and isinstance(end, int) and isinstance(step, int) and step:
        length = -((start - end) // step)
    else:
        length = 0 if step == 0 else Size.unknown()
    if step == 0 or (isinstance(length, int) and length < 0):
        raise BadArgument(f"no steps of {step} lead from {start} to {end}")
    return Meta((length,), dtype)


def spaced(args: Bound) -> Meta:
    """A number of values evenly from start to end."""
    steps = integer(args, "steps")
    need_sizes([steps], "steps")
    return Meta((steps,), not_bool(args))


def identity(args: Bound) -> Meta:
    """Ones on the diagonal."""
    rows = integer(args, "n")
    columns = rows if args["m"] is None else integer(args, "m")
    need_sizes([rows, columns], "n, m")
    return Meta((rows, columns), str(args["dtype"]))


def triangle_places(args: Bound) -> Meta:
    """The places of the elements on one side of a diagonal: a row of rows, and a row of columns."""
    rows, columns, offset = (integer(args, name) for name in ("row", "col", "offset"))
    need_sizes([rows, columns], "row, col")
    if isinstance(rows, int) and isinstance(columns, int) and isinstance(offset, int):
        below = _below(rows, columns, offset if args.get("lower") else offset - 1)
        return Meta((2, below if args.get("lower") else rows * columns - below), "int64")
    return Meta((2, Size.unknown(rows, columns)), "int64")


def lower_places(args: Bound) -> Meta:
    """As `triangle_places`, on and below the diagonal."""
    return triangle_places({**args, "lower": True})


def _made_shape(args: Bound, name: str) -> Shape:
    shape = tuple(dims_of(args, name))
    need_sizes(shape, name)
    return shape


def _number_dtype(args: Bound) -> str:
    dtype, number = args["dtype"], args["fill_value"]
    if isinstance(dtype, str):
        return dtype
    if isinstance(number, Meta):
        if number.shape not in ((), None):
            raise ShapeError(f"'fill_value' is one number; found {number}")
        raise BadArgument("'fill_value' is a value; name the dtype it becomes, for example dtype='float32'")
    return "bool" if isinstance(number, bool) else "float32" if isinstance(number, float) else "int64"


def not_bool(args: Bound) -> str:
    """The dtype asked for.

    Raises:
        DtypeError: bool.
    """
    dtype = str(args["dtype"])
    if dtype == "bool":
        raise DtypeError("has no dtype bool; convert the result")
    return dtype


def _below(rows: int, columns: int, offset: int) -> int:
    """How many elements lie on or below a diagonal: row by row one more, from none up to all columns."""
    first = max(0, -offset)  # the first row that has any
    full = max(first, min(rows, columns - offset))  # from here on rows have all
    rising = min(full, rows) - first
    growing = rising * (first + offset + 1) + rising * (rising - 1) // 2 if rising > 0 else 0
    return growing + max(0, rows - full) * columns
