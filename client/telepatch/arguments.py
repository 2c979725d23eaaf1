"""What an author writes as an argument, as data: values become references, numbers and arrays constants."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from pydantic import JsonValue

from telepatch_protocol.dtypes import ITEM_BYTES
from telepatch_protocol.errors import BadArgument, ProtocolError
from telepatch_protocol.ops import Op
from telepatch_protocol.refs import escape
from telepatch_protocol.tensors import Tensor

if TYPE_CHECKING:
    from telepatch.builder import Builder

_VALUES = frozenset({"tensor", "operand", "number"})
_LISTS = frozenset({"shape", "ints", "dims"})
_PYTHON_DTYPES = {"float": "float32", "int": "int64"}


def reference(builder: Builder, value: object) -> str | None:
    """The reference that a proxy stands for in this trace, or None for anything else."""
    from telepatch.values import Value

    return value.reference_in(builder) if isinstance(value, Value) else None


def is_value(value: object) -> bool:
    """Whether something is a value of a trace rather than data."""
    from telepatch.values import Value

    return isinstance(value, Value)


def call_arguments(
    builder: Builder, op: Op, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[JsonValue, ...], dict[str, JsonValue]]:
    """All arguments of an operation, as its signature wants them.

    Raises:
        BadArgument: something that is no argument of any operation.
    """
    args = _gathered(op, args)
    args, kwargs = _with_a_tensor(op, args, kwargs)
    kinds = [param.kind for param in op.params]
    placed = tuple(argument(builder, kinds[at] if at < len(kinds) else "", arg) for at, arg in enumerate(args))
    named = {
        name: argument(builder, op.by_name[name].kind if name in op.by_name else "", arg)
        for name, arg in kwargs.items()
    }
    return placed, named


def _with_a_tensor(op: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Numbers that a sweep binds as tensors, where an operation needs one and is given none."""
    from telepatch.bound import Bound

    kinds: dict[object, str] = {at: param.kind for at, param in enumerate(op.params)}
    kinds |= {param.name: param.kind for param in op.params}
    given: dict[object, Any] = {
        at: one for at, one in [*enumerate(args), *kwargs.items()] if kinds.get(at) in ("tensor", "operand")
    }
    numbers = [at for at, one in given.items() if isinstance(one, Bound) and one.plain_number]
    alone = all(at in numbers or isinstance(plain(one), bool | int | float | None) for at, one in given.items())
    lifted = {at: given[at].tensor() for at in numbers if kinds[at] == "tensor" or (alone and op.name != "full")}
    named = {name: lifted.get(name, one) for name, one in kwargs.items()}
    return tuple(lifted.get(at, one) for at, one in enumerate(args)), named


def argument(builder: Builder, kind: str, value: Any) -> JsonValue:
    """One argument of a parameter of that kind."""
    if kind == "index":
        return list(index(builder, value))
    ref = reference(builder, value)
    if ref is not None:
        return ref
    if kind == "dtype":
        return dtype_name(value)
    if kind == "tensors" and isinstance(value, list | tuple):
        return [argument(builder, "tensor", one) for one in value]
    if kind == "key":
        return [argument(builder, "number", one) for one in (value if isinstance(value, list | tuple) else [value])]
    value = plain(value)
    if isinstance(value, np.ndarray):
        return _array(builder, kind, value)
    if kind in _VALUES and isinstance(value, bool | int | float | list | tuple):
        return _number(builder, value)
    if isinstance(value, list | tuple):
        return [argument(builder, "int" if kind in _LISTS else kind, one) for one in value]
    if isinstance(value, str):
        return escape(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return _literal(value)
    raise BadArgument(f"{_shown(value)} cannot be sent; arguments are values, numbers, lists, arrays and dtypes")


def written(builder: Builder, value: Any) -> JsonValue:
    """A value that is written to a site."""
    return argument(builder, "operand", value)


def index(builder: Builder, key: Any) -> list[JsonValue]:
    """An index as the wire spells it; numbers in it become constants.

    Raises:
        BadArgument: an element that indexes nothing.
    """
    return [_element(builder, item) for item in (key if isinstance(key, tuple) else (key,))]


def literal_index(key: Any) -> list[JsonValue] | None:
    """An index of literals alone, for the part of another job's result; None where it holds values or arrays."""
    found: list[JsonValue] = []
    for item in map(plain, key if isinstance(key, tuple) else (key,)):
        if item is None or (isinstance(item, int) and not isinstance(item, bool)):
            found.append(item)
        elif item is Ellipsis:
            found.append("...")
        elif isinstance(item, slice) and all(_is_bound(bound) for bound in (item.start, item.stop, item.step)):
            found.append(_slice_text(*("" if bound is None else str(int(bound)) for bound in _bounds(item))))
        elif isinstance(item, list) and item and all(type(one) is int for one in item):
            found.append(list(item))
        else:
            return None
    return found


def plain(value: Any) -> Any:
    """Numbers of numpy and PyTorch as Python's, PyTorch's tensors as arrays (bfloat16 apart), the rest as it is."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.item() if value.ndim == 0 else value
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return value.detach().item() if value.ndim == 0 else _from_torch(value)
    return value


class Bfloat16(np.ndarray[Any, Any]):
    """A float32 array whose numbers are meant as bfloat16."""


def tensor_of(array: np.ndarray[Any, Any], dtype: str | None = None) -> Tensor:
    """An array as it is sent: double precision becomes single unless a dtype is asked for.

    Raises:
        BadArgument: a dtype that values cannot have.
    """
    if dtype == "bfloat16" or (dtype is None and isinstance(array, Bfloat16)):
        return Tensor(np.asarray(array, dtype=np.float32), "bfloat16")
    wanted = dtype or ("float32" if array.dtype == np.float64 else None)
    try:
        return Tensor.of(np.array(array, dtype=wanted, copy=True, subok=False))
    except (ProtocolError, ValueError, TypeError):
        known = ", ".join(ITEM_BYTES)
        raise BadArgument(f"an array of dtype {array.dtype} cannot be sent; known: {known}") from None


def dtype_name(value: Any) -> str | None:
    """The name of a dtype given as text, or as numpy, PyTorch or Python has it.

    Raises:
        BadArgument: no dtype that values can have.
    """
    if value is None:
        return None
    name = value if isinstance(value, str) else getattr(value, "__name__", None) or str(value)
    name = name.rpartition(".")[2]
    name = _PYTHON_DTYPES.get(name, name) if not isinstance(value, str) else name
    if name not in ITEM_BYTES:
        raise BadArgument(f"{value!r} is no dtype here; known: {', '.join(ITEM_BYTES)}")
    return name


def _gathered(op: Op, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """``x.permute(0, 2, 1)`` as ``x.permute((0, 2, 1))``: the rest belongs to the list; ``arange(n)`` from 0."""
    if op.name == "arange" and len(args) == 1:
        return (0, *args)
    for at, param in enumerate(op.params[: len(args)]):
        if param.kind == "tensors" and not isinstance(args[at], list | tuple):
            return (*args[:at], list(args[at:]))
        sizes = param.kind == "shape" and len(args) > at + 1 and all(_is_size(one) for one in args[at:])
        if sizes or (param.kind in _LISTS and len(args) > len(op.params)):
            return (*args[:at], list(args[at:]))
    return args


def _is_size(value: Any) -> bool:
    return not isinstance(value, bool | list | tuple | str) and value is not None


def _number(builder: Builder, value: Any) -> str:
    """A number or list of numbers as a constant; long lists, and those with infinities, as an attached tensor."""
    if isinstance(value, list | tuple):
        if _holds_values(value):
            _mixed(value)
        found = _literal(value)
        text = str(found)
        if len(text) > 2000 or "inf" in text or "nan" in text:
            return f"${builder.attach(tensor_of(np.asarray(value)))}"
        return f"${builder.constant(found)}"
    return f"${builder.constant(_literal(value))}"


def _array(builder: Builder, kind: str, array: np.ndarray[Any, Any]) -> JsonValue:
    if kind in _LISTS:
        return [int(one) for one in array.ravel()]
    return f"${builder.attach(tensor_of(array))}"


def _from_torch(value: Any) -> np.ndarray[Any, Any]:
    found = value.detach().cpu()
    if str(found.dtype) == "torch.bfloat16":
        found = found.float().numpy().view(Bfloat16)
        return np.asanyarray(found)
    return np.asanyarray(found.numpy())


def _literal(value: Any) -> JsonValue:
    if isinstance(value, list | tuple):
        return [_literal(plain(one)) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**63:
        raise BadArgument(f"the integer {value} does not fit into 64 bits")
    if isinstance(value, bool | int | float):
        return value
    raise BadArgument(f"{_shown(value)} is no number; lists in arguments hold numbers")


def _holds_values(value: Any) -> bool:
    from telepatch.values import Value

    if isinstance(value, list | tuple):
        return any(_holds_values(one) for one in value)
    return isinstance(value, Value)


def holds_values(key: Any) -> bool:
    """Whether an index holds values of the open trace."""
    items = key if isinstance(key, tuple) else (key,)
    flat = [part for one in items for part in ((one.start, one.stop, one.step) if isinstance(one, slice) else (one,))]
    return any(_holds_values(one) for one in flat)


def _mixed(value: Any) -> NoReturn:
    raise BadArgument(
        "a list with values in it is no value; join them with telepatch.stack([...]) or telepatch.cat([...])"
    )


def _element(builder: Builder, item: Any) -> JsonValue:
    ref = reference(builder, item)
    if ref is not None:
        return ref
    item = plain(item)
    if item is None or item is Ellipsis:
        return None if item is None else "..."
    if isinstance(item, slice):
        return _slice_text(*(_bound(builder, bound) for bound in _bounds(item)))
    if isinstance(item, bool):
        raise BadArgument(f"{item} is no index; index with a mask of booleans, or with integers")
    if isinstance(item, int):
        return f"${builder.constant(item)}"
    if isinstance(item, list | tuple):
        if _holds_values(item):
            _mixed(item)
        return f"${builder.constant(_literal(list(item)))}"
    if isinstance(item, np.ndarray):
        return f"${builder.attach(tensor_of(item))}"
    raise BadArgument(
        f"{_shown(item)} is no index; known: integers, slices, None, ..., lists, arrays, values of integers or masks"
    )


def _bounds(item: slice) -> tuple[Any, Any, Any]:
    return plain(item.start), plain(item.stop), plain(item.step)


def _is_bound(bound: Any) -> bool:
    return bound is None or (isinstance(plain(bound), int) and not isinstance(bound, bool))


def _bound(builder: Builder, bound: Any) -> str:
    if bound is None:
        return ""
    ref = reference(builder, bound)
    if ref is not None:
        return ref
    if isinstance(bound, int) and not isinstance(bound, bool):
        return f"${builder.constant(bound)}"
    raise BadArgument(f"{_shown(bound)} is no bound of a slice; use integers or sizes")


def _slice_text(start: str, stop: str, step: str) -> str:
    return f"{start}:{stop}:{step}" if step else f"{start}:{stop}"


def _shown(value: object) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) < 60 else text[:57] + '...'}"
