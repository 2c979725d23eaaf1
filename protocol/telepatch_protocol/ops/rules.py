"""How shapes and dtypes follow from those of the arguments: what all rules share, elementwise operations, indexing.

A rule takes the bound arguments (values as `Meta`) and gives a `Meta`, or one per named output. What is not known stays
unknown; what cannot be is refused here, long before anything runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from telepatch_protocol.dtypes import is_float, is_integer, result_dtype
from telepatch_protocol.errors import BadArgument, DtypeError, ShapeError
from telepatch_protocol.indexing import Element, has_unknown_rank, result_shape
from telepatch_protocol.meta import Meta
from telepatch_protocol.ops.table import Bound
from telepatch_protocol.sizes import Dim, Shape, Size, broadcast, product, times

MetaRule = Callable[[Bound], Meta]
"""A rule of an operation with one output."""

Operand = Meta | bool | int | float | Size


def meta(args: Bound, name: str) -> Meta:
    """The value given for a parameter."""
    found = args[name]
    assert isinstance(found, Meta)
    return found


def metas(args: Bound) -> list[Meta]:
    """Every value among the arguments."""
    found: list[Meta] = []
    for value in args.values():
        found += [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, Meta)]
    return found


def integer(args: Bound, name: str) -> Dim:
    """The integer or size given for a parameter."""
    found = args[name]
    assert isinstance(found, int | Size)
    return found


def dims_of(args: Bound, name: str) -> list[Dim]:
    """The integers and sizes given for a parameter."""
    found = args[name]
    return [one for one in (found if isinstance(found, list) else [found]) if isinstance(one, int | Size)]


def chosen(args: Bound, name: str, *known: str) -> str:
    """The word given for a parameter.

    Raises:
        BadArgument: none of those known.
    """
    found = args[name]
    if found not in known:
        raise BadArgument(f"'{name}' is {found!r}; it may be {', '.join(map(repr, known))}")
    return str(found)


def axis(shape: Shape, dim: object, what: str = "dim") -> int:
    """The axis that `dim` names, from 0.

    Raises:
        ShapeError: there is no such axis.
    """
    rank = max(len(shape), 1)
    if not isinstance(dim, int) or not -rank <= dim < rank:
        raise ShapeError(f"{what} is {dim}, but shape {shape} has axes from {-rank} to {rank - 1}")
    return dim % rank


def axes(shape: Shape, dims: object, what: str = "dim") -> list[int]:
    """The axes that `dims` names: one, several, or all for null.

    Raises:
        ShapeError: there is no such axis, or one is named twice.
    """
    if dims is None:
        return list(range(len(shape)))
    found = [axis(shape, dim, what) for dim in (dims if isinstance(dims, list) else [dims])]
    if len(set(found)) < len(found):
        raise ShapeError(f"{what} names an axis twice: {dims} of shape {shape}")
    return found


def fit(left: Dim, right: Dim) -> bool:
    """Whether two sizes may be equal."""
    return isinstance(left, Size) or isinstance(right, Size) or left == right


def shapes_fit(left: Shape, right: Shape) -> bool:
    """Whether two shapes may be equal."""
    return len(left) == len(right) and all(map(fit, left, right))


def together(*shapes: Shape | None) -> Shape | None:
    """The shape of values broadcast together, unknown where one is.

    Raises:
        ShapeError: they do not broadcast.
    """
    known = [shape for shape in shapes if shape is not None]
    found = broadcast(*known)
    if found is None:
        raise ShapeError(f"shapes {' and '.join(map(str, known))} do not broadcast together")
    return found if len(known) == len(shapes) else None


def mixed(operands: Iterable[Operand]) -> str | None:
    """The dtype of an operation on these, unknown where one that matters is.

    Raises:
        DtypeError: different floating-point dtypes.
    """
    operands = list(operands)
    values = [one for one in operands if isinstance(one, Meta)]
    dtypes = {one.dtype for one in values}
    if None in dtypes or (len(dtypes) > 1 and any(one.shape is None for one in values)):
        return None
    numbers = [_number_dtype(one) for one in operands if not isinstance(one, Meta)]
    return result_dtype(
        [one.dtype for one in values if one.dtype and one.shape != ()],
        [one.dtype for one in values if one.dtype and one.shape == ()],
        numbers,
    )


def one_dtype(values: Iterable[Meta]) -> str | None:
    """The dtype that all values have.

    Raises:
        DtypeError: they differ.
    """
    known = list(dict.fromkeys(one.dtype for one in values if one.dtype is not None))
    if len(known) > 1:
        raise DtypeError(f"needs values of one dtype, found {' and '.join(known)}; convert with .to('{known[0]}')")
    return known[0] if known else None


def need_float(*values: Meta, wide: bool = False) -> None:
    """Refuse what is not floating point; `wide` ones also half precision.

    Raises:
        DtypeError: another dtype.
    """
    for one in values:
        if one.dtype is not None and not is_float(one.dtype):
            raise DtypeError(f"needs a floating-point value, found {one}; convert it with .to('float32')")
        if wide and one.dtype in ("float16", "bfloat16"):
            raise DtypeError(f"needs float32 or float64, found {one}; convert it with .to('float32')")


def need_integer(value: Meta) -> None:
    """Refuse values that are no indices.

    Raises:
        DtypeError: no integer dtype.
    """
    if value.dtype is not None and not is_integer(value.dtype):
        raise DtypeError(f"needs an index of integers, found {value}; convert it with .to('int64')")


def need_mask(value: Meta) -> None:
    """Refuse values that are no masks.

    Raises:
        DtypeError: not bool.
    """
    if value.dtype not in ("bool", None):
        raise DtypeError(f"needs a mask of bool, found {value}; compare, or convert it with .to('bool')")


def refuse_bool(*operands: object) -> None:
    """Refuse booleans.

    Raises:
        DtypeError: one of the operands is or holds booleans.
    """
    for one in operands:
        if isinstance(one, bool) or (isinstance(one, Meta) and one.dtype == "bool"):
            raise DtypeError(f"is not defined for bool, found {one}; convert it, for example with .to('int64')")


def float_of(dtype: str | None) -> str | None:
    """The dtype of a function of real numbers: integers become float32."""
    return dtype if dtype is None or is_float(dtype) else "float32"


def same(args: Bound) -> Meta:
    """One value in, the same shape and dtype out."""
    value = meta(args, "input")
    return Meta(value.shape, value.dtype)


def without_bool(rule: MetaRule) -> MetaRule:
    """The rule, for operations that PyTorch does not have for booleans."""

    def ruled(args: Bound) -> Meta:
        refuse_bool(*args.values())
        return rule(args)

    return ruled


def never_bool(rule: MetaRule) -> MetaRule:
    """The rule, for operations whose result is never of booleans."""

    def ruled(args: Bound) -> Meta:
        found = rule(args)
        refuse_bool(found)
        return found

    return ruled


same_number = without_bool(same)
"""As `same`, for anything but booleans."""


def squared(args: Bound) -> Meta:
    """As `same`; booleans become int64."""
    value = meta(args, "input")
    return Meta(value.shape, "int64" if value.dtype == "bool" else value.dtype)


def floating(args: Bound) -> Meta:
    """As `same`; integers become float32."""
    value = meta(args, "input")
    return Meta(value.shape, float_of(value.dtype))


def floats_only(args: Bound) -> Meta:
    """As `same`, for operations that PyTorch has only for floating-point values."""
    value = meta(args, "input")
    need_float(value)
    return Meta(value.shape, value.dtype)


def gated(args: Bound) -> Meta:
    """As `floats_only`, exact or by an approximation."""
    chosen(args, "approximate", "none", "tanh")
    return floats_only(args)


def tested(args: Bound) -> Meta:
    """One value in, booleans of the same shape out."""
    return Meta(meta(args, "input").shape, "bool")


def operands_of(args: Bound) -> list[Operand]:
    """The values and numbers among the arguments.

    Raises:
        BadArgument: no value among them.
    """
    found = [value for value in args.values() if isinstance(value, Meta | int | float | Size)]
    if not any(isinstance(one, Meta) for one in found):
        raise BadArgument(f"needs at least one value, found only the numbers {', '.join(map(str, found))}")
    return found


def elementwise(args: Bound) -> Meta:
    """Operands broadcast together and mix dtypes; numbers do not widen a value's dtype."""
    operands = operands_of(args)
    return Meta(together(*(one.shape for one in operands if isinstance(one, Meta))), mixed(operands))


def arithmetic(step: Callable[[Dim, Dim], Dim]) -> MetaRule:
    """As `elementwise`; on sizes the result is a size again, and may stand in shapes."""

    def rule(args: Bound) -> Meta:
        found = elementwise(args)
        left, right = (_as_size(args[name]) for name in ("input", "other"))
        if left is None or right is None:
            return found
        return Meta(found.shape, found.dtype, step(left, right))

    return rule


added = arithmetic(lambda left, right: left + right)
subtracted = without_bool(arithmetic(lambda left, right: left - right))
multiplied = arithmetic(times)


def divided(args: Bound) -> Meta:
    """As `elementwise`, with a floating-point result unless it is rounded."""
    found = elementwise(args)
    if args["rounding_mode"] is None:
        return Meta(found.shape, float_of(found.dtype))
    chosen(args, "rounding_mode", "trunc", "floor")
    refuse_bool(found)
    return found


def powered(args: Bound) -> Meta:
    """As `elementwise`; integers have no negative powers."""
    found = elementwise(args)
    refuse_bool(found)
    other = args["exponent"]
    if isinstance(other, int) and other < 0 and found.dtype is not None and is_integer(found.dtype):
        raise DtypeError(f"integers have no power {other}; convert the value with .to('float32')")
    return found


def compared(args: Bound) -> Meta:
    """As `elementwise`, with booleans as result."""
    found = elementwise(args)
    return Meta(found.shape, "bool")


def logical(args: Bound) -> Meta:
    """Operands broadcast together, each true where it is not zero; dtypes need not mix."""
    operands = operands_of(args)
    return Meta(together(*(one.shape for one in operands if isinstance(one, Meta))), "bool")


def clamped(args: Bound) -> Meta:
    """As `elementwise`, with at least one bound."""
    if args["min"] is None and args["max"] is None:
        raise BadArgument("needs 'min', 'max' or both")
    found = elementwise(args)
    refuse_bool(found)
    return found


def interpolated(args: Bound) -> Meta:
    """Two floating-point values of one dtype, and a weight."""
    need_float(*metas(args))
    return Meta(together(*(one.shape for one in metas(args))), one_dtype(metas(args)))


def selected(args: Bound) -> Meta:
    """``where``: a mask, and what to take where it is true and where it is false."""
    need_mask(meta(args, "condition"))
    operands = [value for name, value in args.items() if name != "condition" and isinstance(value, Operand)]
    return Meta(together(*(one.shape for one in metas(args))), mixed(operands))


def masked_fill(args: Bound) -> Meta:
    """A value with one number written where a mask is true."""
    value, filling = meta(args, "input"), args["value"]
    need_mask(meta(args, "mask"))
    if isinstance(filling, Meta) and filling.shape not in ((), None):
        raise ShapeError(f"'value' is one number; found {filling}")
    if isinstance(filling, float) and not math.isfinite(filling) and value.dtype and not is_float(value.dtype):
        raise DtypeError(f"{filling} is no {value.dtype}; convert the value with .to('float32')")
    return Meta(together(value.shape, meta(args, "mask").shape), value.dtype)


def indexed(args: Bound) -> Meta:
    """``input[index]``."""
    index = args["index"]
    assert isinstance(index, tuple)
    return index_meta(meta(args, "input"), index, "the value")


def index_meta(value: Meta, index: tuple[Element, ...], what: str) -> Meta:
    """The part of a value that an index takes; `what` names the value in errors."""
    if value.shape is None or has_unknown_rank(index):
        return Meta(None, value.dtype)
    return Meta(result_shape(value.shape, index, what), value.dtype)


def size_of(args: Bound) -> Meta:
    """The size of one axis, as a number that may stand in shapes."""
    shape = meta(args, "input").shape
    if shape == ():
        raise ShapeError("a value without axes has no size along one")
    return Meta((), "int64", Size.unknown() if shape is None else shape[axis(shape, args["dim"])])


def count_of(args: Bound) -> Meta:
    """The number of elements, as a number that may stand in shapes."""
    shape = meta(args, "input").shape
    return Meta((), "int64", Size.unknown() if shape is None else product(shape))


def converted(args: Bound) -> Meta:
    """The same values in the asked dtype."""
    dtype = args["dtype"]
    assert isinstance(dtype, str)
    return Meta(meta(args, "input").shape, dtype)


def _number_dtype(number: object) -> str:
    if isinstance(number, bool):
        return "bool"
    return "float32" if isinstance(number, float) else "int64"


def _as_size(value: object) -> Dim | None:
    if isinstance(value, Meta):
        return value.size
    return value if isinstance(value, int | Size) and not isinstance(value, bool) else None
