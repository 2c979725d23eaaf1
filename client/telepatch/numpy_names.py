"""numpy's functions on values: by another name where the vocabulary has the same thing, refused by name where not."""

from __future__ import annotations

from typing import Any

import numpy as np

from telepatch import operations
from telepatch.current import open_builder
from telepatch.lines import points_home
from telepatch_protocol.dtypes import ITEM_BYTES
from telepatch_protocol.errors import BadArgument, TraceError, UnknownOperation
from telepatch_protocol.ops import OPS

UFUNCS: dict[str, str] = {
    "subtract": "sub",
    "multiply": "mul",
    "divide": "div",
    "true_divide": "div",
    "power": "pow",
    "negative": "neg",
    "absolute": "abs",
    "fabs": "abs",
    "greater": "gt",
    "greater_equal": "ge",
    "less": "lt",
    "less_equal": "le",
    "equal": "eq",
    "not_equal": "ne",
    "invert": "bitwise_not",
    "conjugate": "clone",
    "arctan": "atan",
    "arctan2": "atan2",
    "arcsin": "asin",
    "arccos": "acos",
    "arcsinh": "asinh",
    "arccosh": "acosh",
    "arctanh": "atanh",
    "radians": "deg2rad",
    "degrees": "rad2deg",
    "fix": "trunc",
    "rint": "round",
    "mod": "remainder",
}
"""numpy's universal functions whose operation has another name; all others go by their own."""

FUNCTIONS: dict[str, str] = {
    "concatenate": "cat",
    "concat": "cat",
    "max": "amax",
    "min": "amin",
    "clip": "clamp",
    "expand_dims": "unsqueeze",
    "absolute": "abs",
    "var": "var",
    "std": "std",
    "ravel": "flatten",
    "tensordot": "tensordot",
    "broadcast_to": "expand",
    "astype": "to",
    "prod": "prod",
    "swapaxes": "transpose",
    "moveaxis": "movedim",
    "permute_dims": "permute",
    "copy": "clone",
    "repeat": "repeat_interleave",
    "row_stack": "vstack",
    "array_equal": "equal",
    "fix": "trunc",
    "argwhere": "nonzero",
}
"""numpy's other functions whose operation has another name."""

REDUCTIONS: dict[str, str] = {"add": "sum", "multiply": "prod", "maximum": "amax", "minimum": "amin"}
ARGUMENTS: dict[str, str] = {
    "axis": "dim",
    "axes": "dims",
    "keepdims": "keepdim",
    "ddof": "correction",
    "a_min": "min",
    "a_max": "max",
    "reps": "dims",
}
"""numpy's names of arguments, as PyTorch has them."""

OTHERWISE = frozenset({"median", "nanmedian", "pad", "vander", "select", "lstsq"})
"""Names that mean something else to PyTorch: its median of an even number of numbers is the lower of the two, its pad
counts axes from the last, its vander has powers from zero on, its lstsq gives the solution alone."""

IDLE = frozenset({"subok", "optimize", "casting", "order"})
"""numpy's arguments that change no number."""

NUMPY_DTYPES = frozenset(ITEM_BYTES) - {"bfloat16"}
"""Dtypes of values that numpy has, too."""

_DEFAULT = getattr(np, "_NoValue", None)


@points_home
def ufunc(called: np.ufunc, method: str, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``np.exp(value)``, ``array + value`` and their like."""
    from telepatch.looking import looked

    if open_builder() is None:
        return getattr(called, method)(*looked(inputs), **looked(kwargs))
    name = UFUNCS.get(called.__name__, called.__name__)
    if kwargs.pop("out", None) is not None:
        raise TraceError("values cannot be changed in place, so 'out' has no place inside a trace")
    if method == "reduce" and called.__name__ in REDUCTIONS:
        return _apply(REDUCTIONS[called.__name__], inputs, kwargs)
    if method != "__call__":
        raise TraceError(f"numpy.{called.__name__}.{method} is no operation of the vocabulary")
    return _apply(name, inputs, kwargs)


@points_home
def function(called: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``np.concatenate([a, b])``, ``np.where(c, a, b)`` and their like."""
    from telepatch.looking import looked

    if open_builder() is None:
        return called(*looked(args), **looked(kwargs))
    if called is np.transpose:
        return _transposed(*args, **kwargs)
    if called is np.shape or called is np.ndim:
        return args[0].shape if called is np.shape else args[0].ndim
    if called is np.sort:
        return _apply("sort", args, kwargs).values
    if called in (np.std, np.var):
        kwargs = {"ddof": 0} | kwargs  # PyTorch's own default is 1
    if called is np.linalg.norm and len(args) == 2 and kwargs.get("axis") is None:
        raise BadArgument("numpy's norm of a whole matrix by an order has no counterpart; give axis=..., or no order")
    if called is np.meshgrid:
        kwargs = {"indexing": "xy"} | kwargs  # PyTorch's own default is "ij"
    if called is np.unique and len(args) > 1:
        raise BadArgument("say by name what numpy's unique gives beside the values: return_inverse, return_counts")
    if called is np.clip:
        args, kwargs = args[:1], dict(zip(("min", "max"), args[1:], strict=False)) | kwargs
    return _apply(FUNCTIONS.get(called.__name__, called.__name__), args, kwargs)


def on_arrays(name: str, array: np.ndarray[Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A method of a value that has come back: numpy's own, with PyTorch's names of arguments.

    Raises:
        BadArgument: numpy has nothing of that name.
    """
    back = {"dim": "axis", "keepdim": "keepdims", "correction": "ddof"}
    renamed = {back.get(key, key): one for key, one in kwargs.items()}
    wanted = renamed.get("dtype", args[0] if args else None)
    if name == "to" and wanted in NUMPY_DTYPES:
        return array.astype(wanted)
    if hasattr(array, name):
        return getattr(array, name)(*args, **renamed)
    if isinstance(getattr(np, name, None), np.ufunc):
        return getattr(np, name)(array, *args, **renamed)
    raise BadArgument(
        f"'{name}' is an operation of a trace, and this value has come back already; "
        "compute with .numpy() or .torch(), or do it inside the block"
    )


def _apply(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if name in OTHERWISE or (name not in OPS and name not in operations.LOGICAL):
        raise UnknownOperation(
            f"numpy's '{name}' has no counterpart in the vocabulary; dir(telepatch.ops) lists what values can do"
        )
    takes = OPS[operations.LOGICAL.get(name, name)].by_name
    given = {
        ARGUMENTS.get(key, key): one
        for key, one in kwargs.items()
        if one is not _DEFAULT and one is not None and key not in IDLE and not (key == "where" and one is True)
    }
    if "dims" in takes and "dim" in given:
        along = given.pop("dim")
        given["dims"] = list(along) if isinstance(along, list | tuple) else [along]
    return operations.apply(name, *args, **given)


def _transposed(value: Any, axes: Any = None) -> Any:
    return value.T if axes is None else operations.apply("permute", value, list(axes))
