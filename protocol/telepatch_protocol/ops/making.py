"""Rules of operations that make new values: constants, ranges and random numbers."""

from __future__ import annotations

from telepatch_protocol.dtypes import is_float, is_integer
from telepatch_protocol.errors import BadArgument, DtypeError, ShapeError
from telepatch_protocol.meta import Meta
from telepatch_protocol.ops.rules import dims_of, integer, meta, metas
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
    return Meta((steps,), _not_bool(args))


def identity(args: Bound) -> Meta:
    """Ones on the diagonal."""
    rows = integer(args, "n")
    columns = rows if args["m"] is None else integer(args, "m")
    need_sizes([rows, columns], "n, m")
    return Meta((rows, columns), str(args["dtype"]))


def drawn(args: Bound) -> Meta:
    """Random numbers of a floating-point dtype."""
    _check_key(args)
    dtype = str(args["dtype"])
    if not is_float(dtype):
        raise DtypeError(f"'dtype' is {dtype}; these numbers are floating point (randint gives integers)")
    return Meta(_made_shape(args, "size"), dtype)


def drawn_integers(args: Bound) -> Meta:
    """Random integers from low up to, but without, high."""
    _check_key(args)
    low, high = args["low"], args["high"]
    if isinstance(low, int) and isinstance(high, int) and low >= high:
        raise BadArgument(f"there is no integer from {low} up to, but without, {high}")
    return Meta(_made_shape(args, "size"), _not_bool(args))


def shuffled(args: Bound) -> Meta:
    """The integers below n in random order."""
    _check_key(args)
    n = integer(args, "n")
    need_sizes([n], "n")
    return Meta((n,), "int64")


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


def _not_bool(args: Bound) -> str:
    dtype = str(args["dtype"])
    if dtype == "bool":
        raise DtypeError("has no dtype bool; convert the result")
    return dtype


def _check_key(args: Bound) -> None:
    for part in metas(args):
        if part.dtype is not None and not is_integer(part.dtype):
            raise DtypeError(f"a key holds integers; found {part}")
