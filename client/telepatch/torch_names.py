"""PyTorch's functions on values, and PyTorch's tensors from them; PyTorch itself is never imported unasked."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np

from telepatch import operations
from telepatch.current import open_builder
from telepatch.lines import points_home
from telepatch_protocol.errors import BadArgument, TraceError, UnknownOperation
from telepatch_protocol.ops import OPS, Param

if TYPE_CHECKING:
    import torch

NAMES: dict[str, str] = {
    "truediv": "div",
    "true_divide": "div",
    "divide": "div",
    "multiply": "mul",
    "subtract": "sub",
    "negative": "neg",
    "absolute": "abs",
    "concat": "cat",
    "concatenate": "cat",
    "greater": "gt",
    "less": "lt",
    "and": "bitwise_and",
    "or": "bitwise_or",
    "xor": "bitwise_xor",
    "invert": "bitwise_not",
    "floordiv": "floor_divide",
    "mod": "remainder",
    "swapaxes": "transpose",
    "swapdims": "transpose",
    "moveaxis": "movedim",
    "ravel": "flatten",
    "argwhere": "nonzero",
    "arccos": "acos",
    "arccosh": "acosh",
    "arcsin": "asin",
    "arcsinh": "asinh",
    "arctan": "atan",
    "arctan2": "atan2",
    "arctanh": "atanh",
    "fix": "trunc",
    "expit": "sigmoid",
    "inverse": "inv",
    "vdot": "dot",
    "row_stack": "vstack",
    "trapz": "trapezoid",
    "ger": "outer",
    "log_sigmoid": "logsigmoid",
    "linalg_vector_norm": "norm",
    "clip": "clamp",
    "view": "reshape",
}
"""PyTorch's names for operations that the vocabulary has under another of its names."""

CASTS: dict[str, str] = {
    "float": "float32",
    "double": "float64",
    "half": "float16",
    "bfloat16": "bfloat16",
    "long": "int64",
    "int": "int32",
    "short": "int16",
    "bool": "bool",
}
"""PyTorch's methods that only convert, with the dtype that each gives."""

IN_PLACE = frozenset(
    {f"{name}_" for name in OPS}
    | {"zero_", "fill_", "copy_", "normal_", "uniform_"}
    | {f"__i{name}__" for name in ("and", "or", "xor", "mod", "pow", "floordiv")}
)
"""PyTorch's methods and operators that change what they are called on."""

PIECES = frozenset({"unbind", "split", "chunk"})
"""What gives several values of one, by indexing it several times."""

IDLE: dict[str, object] = {
    "_stacklevel": 3,
    "inplace": False,
    "return_indices": False,
    "norm_type": 2.0,
    "scale_grad_by_freq": False,
    "sparse": False,
    "antialias": False,
    "dropout_p": 0.0,
    "sorted": True,
    "compute_mode": "use_mm_for_euclid_dist_if_necessary",
}
"""Arguments that PyTorch's functions hand on by themselves, with the values that ask for nothing."""

REFLECTED = {
    "radd": "add",
    "rsub": "sub",
    "rmul": "mul",
    "rdiv": "div",
    "rtruediv": "div",
    "rpow": "pow",
    "rmatmul": "matmul",
}
"""Operators whose operands come in the other order."""


@points_home
def function(called: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``torch.softmax(value, -1)``, ``tensor + value`` and their like."""
    if open_builder() is None:
        return called(*_tensors(args), **_tensors(kwargs))
    spelled = str(getattr(called, "__name__", called))
    if spelled in IN_PLACE:
        raise TraceError("a PyTorch tensor cannot be changed in place by a value of a trace; write a = a + value")
    name = spelled.strip("_")
    if name in REFLECTED and name not in OPS:
        return operations.apply(REFLECTED[name], args[1], args[0], **kwargs)
    name = _known(name)
    if name in PIECES:
        return getattr(args[0], name)(*args[1:], **{key: one for key, one in kwargs.items() if one is not None})
    if name == "getitem":
        raise BadArgument(
            "a PyTorch tensor cannot be indexed with a value of a trace; send it along with telepatch.tensor"
        )
    if name not in OPS and name not in operations.LOGICAL:
        raise UnknownOperation(
            f"torch's '{name}' is not in the vocabulary; dir(telepatch.ops) lists what values can do"
        )
    takes = OPS[operations.LOGICAL.get(name, name)].by_name
    given = {key: one for key, one in kwargs.items() if not _idle(takes.get(key), key, one)}
    return operations.apply(name, *args, **given)


def _known(name: str) -> str:
    """The name of an operation under which PyTorch's own is known here."""
    if name in OPS or name in NAMES:
        return name if name in OPS else NAMES[name]
    bare = name.removeprefix("linalg_").removeprefix("special_")
    return name if name == "linalg_norm" else NAMES.get(bare, bare)


def _idle(param: Param | None, name: str, value: Any) -> bool:
    """Whether PyTorch fills in this argument itself, with what changes nothing."""
    if value is None:
        return param is None or not param.optional
    return param is None and name in IDLE and isinstance(value, bool | int | float | str) and value == IDLE[name]


def to_torch(array: np.ndarray[Any, Any], dtype: str) -> torch.Tensor:
    """An array as a PyTorch tensor of that dtype.

    Raises:
        BadArgument: PyTorch is not installed.
    """
    try:
        library = importlib.import_module("torch")
    except ImportError:
        raise BadArgument("PyTorch is not installed here; use .numpy(), or install torch") from None
    found: torch.Tensor = library.from_numpy(np.array(array))
    return found.to(library.bfloat16) if dtype == "bfloat16" else found


def _tensors(thing: Any) -> Any:
    """The thing with the tensor of every value in it in place of the value."""
    from telepatch.values import Value

    if isinstance(thing, Value):
        return thing.torch()
    if isinstance(thing, list | tuple):
        return type(thing)(_tensors(one) for one in thing)
    return {key: _tensors(one) for key, one in thing.items()} if isinstance(thing, dict) else thing
