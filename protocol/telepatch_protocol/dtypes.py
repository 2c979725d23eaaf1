"""Names of dtypes, as PyTorch spells them, with the bytes one element takes and how they mix."""

from __future__ import annotations

from collections.abc import Iterable

from telepatch_protocol.errors import DtypeError

ITEM_BYTES: dict[str, int] = {
    "bool": 1,
    "uint8": 1,
    "int8": 1,
    "int16": 2,
    "int32": 4,
    "int64": 8,
    "float16": 2,
    "bfloat16": 2,
    "float32": 4,
    "float64": 8,
}
"""Every dtype that a value may have."""

_ORDER = {"bool": 0, "uint8": 1, "int8": 1, "int16": 2, "int32": 3, "int64": 4}


def is_float(dtype: str) -> bool:
    """Whether it is a floating-point dtype."""
    return "float" in dtype


def is_integer(dtype: str) -> bool:
    """Whether it is an integer dtype; bool is none."""
    return "int" in dtype


def mix(left: str, right: str) -> str:
    """The dtype of an operation on two tensors that both have axes.

    Raises:
        DtypeError: two different floating-point dtypes, which never mix silently.
    """
    if left == right:
        return left
    if is_float(left) and is_float(right):
        raise DtypeError(f"{left} and {right} do not mix; convert one, for example with .to('{left}')")
    if is_float(left) or is_float(right):
        return left if is_float(left) else right
    if {left, right} == {"uint8", "int8"}:
        return "int16"
    return left if _ORDER[left] >= _ORDER[right] else right


def result_dtype(tensors: Iterable[str], scalars: Iterable[str], numbers: Iterable[str]) -> str:
    """The dtype of an operation on values of several kinds, by PyTorch's rule.

    A value without axes does not widen one with axes, and a plain number widens neither, unless it is of a higher
    category: bool, integer, floating point.

    Args:
        tensors: dtypes of the values that have axes.
        scalars: dtypes of the values without axes.
        numbers: dtypes that plain numbers would have.

    Raises:
        DtypeError: two different floating-point dtypes among `tensors`, or among `scalars` where they decide.

    Example:
        ``result_dtype(["float16"], ["float32"], ["int64"])`` is ``"float16"``.
    """
    dtype = _dominant(_mixed(tensors), _mixed(scalars))
    return _dominant(dtype, _mixed(numbers)) or "float32"


def _mixed(dtypes: Iterable[str]) -> str | None:
    found: str | None = None
    for dtype in dtypes:
        found = dtype if found is None else mix(found, dtype)
    return found


def _dominant(higher: str | None, lower: str | None) -> str | None:
    if higher is None or lower is None:
        return higher or lower
    if is_float(higher):
        return higher
    return mix(higher, lower) if higher == "bool" or is_float(lower) else higher
