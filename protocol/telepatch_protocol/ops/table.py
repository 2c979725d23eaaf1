"""What an operation is: a name, a typed signature in PyTorch's argument names, named outputs, and a shape rule.

A signature is written as ``"input: tensor, dim: dims = None, keepdim: bool = False"``. The kinds of parameter:

    tensor    a value
    operand   a value or a number
    tensors   a list of values
    number    a number; ``"inf"``, ``"-inf"``, ``"nan"`` are numbers
    int       an integer or a size
    bool      true or false
    dim       an axis, counted from either end
    dims      an axis, or a list of axes
    shape     a list of integers and sizes
    ints      an integer or a list of integers
    dtype     the name of a dtype
    text      a string, such as the equation of einsum
    index     elements of an index, as `telepatch_protocol.indexing.parse` gives them
    key       an integer or a list of integers and values: the seed of a random operation

A parameter whose default is None also takes null.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import EllipsisType

from telepatch_protocol.dtypes import ITEM_BYTES
from telepatch_protocol.errors import BadArgument, GraphError
from telepatch_protocol.indexing import Slice
from telepatch_protocol.meta import Meta
from telepatch_protocol.sizes import Size

REQUIRED = object()
"""Default of a parameter that has none."""

KINDS = (
    *("tensor", "operand", "tensors", "number", "int", "bool", "dim", "dims"),
    *("shape", "ints", "dtype", "text", "index", "key"),
)
"""Every kind of parameter."""

_NUMBERS = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter of an operation; `optional` ones also take null."""

    name: str
    kind: str
    default: object = REQUIRED

    @property
    def optional(self) -> bool:
        """Whether null is a value of it."""
        return self.default is None

    def __str__(self) -> str:
        return f"{self.name}: {self.kind}" + ("" if self.default is REQUIRED else f" = {self.default}")


Bound = Mapping[str, object]
"""Arguments by parameter name; values are `Meta` for a rule, tensors for a kernel."""

Rule = Callable[[Bound], Meta | dict[str, Meta]]
"""The output of an operation, or its outputs by name, from its arguments."""


@dataclass(frozen=True)
class Op:
    """One operation of the vocabulary.

    Attributes:
        name: as on the wire and in PyTorch.
        signature: its parameters, as text.
        rule: shapes and dtypes of the outputs from those of the arguments; a mapping where this call has several.
        outputs: names of the outputs where there are several, in PyTorch's order. `max`, `min` and `median` have
            several only when given a `dim`: the rule's answer decides.
        method: whether a proxy offers it as a method, with its first parameter as self.
        doc: one line for the reference.
    """

    name: str
    signature: str
    rule: Rule
    outputs: tuple[str, ...] = ()
    method: bool = True
    doc: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "rule", _named(self.name, self.rule))

    @cached_property
    def params(self) -> tuple[Param, ...]:
        """The parameters in order."""
        return tuple(_param(part) for part in self.signature.split(", ") if part)

    @cached_property
    def by_name(self) -> dict[str, Param]:
        """The parameters by name."""
        return {param.name: param for param in self.params}

    def __str__(self) -> str:
        return f"{self.name}({self.signature})"


def bind(op: Op, args: tuple[object, ...], kwargs: Mapping[str, object]) -> dict[str, object]:
    """Arguments by parameter name, defaults filled in, every one of its parameter's kind.

    Args:
        op: the operation.
        args: arguments by position; where the last parameter is a list of values, they may follow one by one.
        kwargs: arguments by name.

    Raises:
        BadArgument: too many, an unknown or doubly given name, a missing one, or one of the wrong kind.
    """
    args = _gathered(op, args)
    if len(args) > len(op.params):
        raise BadArgument(f"{op} takes {len(op.params)} arguments; {len(args)} were given")
    given = {param.name: value for param, value in zip(op.params, args, strict=False)}
    for name, value in kwargs.items():
        if name not in op.by_name:
            raise BadArgument(f"{op} has no argument '{name}'")
        if name in given:
            raise BadArgument(f"{op} was given '{name}' twice")
        given[name] = value
    return {param.name: _accept(op, param, given.get(param.name, param.default)) for param in op.params}


def _named(name: str, rule: Rule) -> Rule:
    """The rule, whose refusals begin with the operation's name."""

    def ruled(args: Bound) -> Meta | dict[str, Meta]:
        try:
            return rule(args)
        except GraphError as error:
            raise type(error)(f"{name}: {error.detail}") from None

    return ruled


def _gathered(op: Op, args: tuple[object, ...]) -> tuple[object, ...]:
    """Positional arguments, values that follow one by one made into the list that the last parameter takes."""
    last = len(op.params) - 1
    if last < 0 or op.params[last].kind != "tensors" or len(args) <= last or isinstance(args[last], list | tuple):
        return args
    return (*args[:last], list(args[last:]))


def _param(text: str) -> Param:
    left, _, default = text.partition(" = ")
    name, _, kind = left.partition(": ")
    if kind not in KINDS:
        raise ValueError(f"{text!r}: no kind {kind!r}")
    return Param(name, kind, _number(default) if _is_number(default) else _DEFAULTS.get(default, default))


_DEFAULTS: dict[str, object] = {"": REQUIRED, "None": None, "True": True, "False": False}


def _is_number(text: str) -> bool:
    return text.lstrip("-").replace(".", "", 1).replace("e-", "", 1).isdigit()


def _number(text: str) -> int | float:
    return int(text) if text.lstrip("-").isdigit() else float(text)


def _accept(op: Op, param: Param, value: object) -> object:
    if value is REQUIRED:
        raise BadArgument(f"{op} needs '{param.name}'")
    if value is None and param.optional:
        return None
    found = _ACCEPT[param.kind](value)
    if found is _REFUSED:
        raise BadArgument(f"{op.name}: '{param.name}' is {_a(param.kind)}; found {_shown(value)}. Signature: {op}")
    return found


_REFUSED = object()


def _a(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def _shown(value: object) -> str:
    text = str(value) if isinstance(value, Meta) else repr(value)
    return text if len(text) < 80 else text[:77] + "..."


_PLAIN = (bool, int, float, str, list, tuple, dict, Size, Slice, EllipsisType)


def is_value(value: object) -> bool:
    """Whether it stands for a tensor: a `Meta`, or whatever a worker computes with."""
    return value is not None and not isinstance(value, _PLAIN)


def _tensor(value: object) -> object:
    return value if is_value(value) else _REFUSED


def _operand(value: object) -> object:
    return value if is_value(value) or isinstance(value, bool | Size) else _as_number(value)


def _tensors(value: object) -> object:
    if not isinstance(value, list | tuple) or not value:
        return _REFUSED
    return list(value) if all(is_value(one) for one in value) else _REFUSED


def _as_number(value: object) -> object:
    if isinstance(value, str):
        return _NUMBERS.get(value, _REFUSED)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else _REFUSED


def _int(value: object) -> object:
    if isinstance(value, bool):
        return _REFUSED
    if isinstance(value, int | Size):
        return value
    return _size_of(value)


def _size_of(value: object) -> object:
    """A value may stand where an integer is expected if it is one number: a size, or an integer computed from one."""
    if isinstance(value, Meta):
        if value.size is not None:
            return value.size
        return Size.unknown() if value.shape in ((), None) and "int" in (value.dtype or "int") else _REFUSED
    item = getattr(value, "item", None)
    if item is None or getattr(value, "ndim", 1) != 0:
        return _REFUSED
    number = item()
    return number if isinstance(number, int) and not isinstance(number, bool) else _REFUSED


def _ints(value: object) -> object:
    if not isinstance(value, list | tuple):
        return _int(value)
    found = [_int(one) for one in value]
    return _REFUSED if any(one is _REFUSED for one in found) else found


def _shape(value: object) -> object:
    found = _ints(value)
    return [found] if isinstance(found, int | Size) else found


def _dim(value: object) -> object:
    return value if isinstance(value, int) and not isinstance(value, bool) else _REFUSED


def _dims(value: object) -> object:
    if not isinstance(value, list | tuple):
        return _dim(value)
    return _REFUSED if any(_dim(one) is _REFUSED for one in value) else list(value)


def _index(value: object) -> object:
    parts = tuple(value) if isinstance(value, list | tuple) else (value,)
    refused = any(isinstance(one, bool | float | str | dict) for one in parts)
    return _REFUSED if refused else parts


def _key(value: object) -> object:
    parts = value if isinstance(value, list | tuple) else [value]
    ok = parts and all(is_value(one) or isinstance(_dim(one), int) for one in parts)
    return list(parts) if ok else _REFUSED


def _instance(kind: type) -> Callable[[object], object]:
    return lambda value: value if isinstance(value, kind) else _REFUSED


_ACCEPT: dict[str, Callable[[object], object]] = {
    "tensor": _tensor,
    "operand": _operand,
    "tensors": _tensors,
    "number": _as_number,
    "int": _int,
    "bool": _instance(bool),
    "dim": _dim,
    "dims": _dims,
    "shape": _shape,
    "ints": _ints,
    "dtype": lambda value: value if isinstance(value, str) and value in ITEM_BYTES else _REFUSED,
    "text": _instance(str),
    "index": _index,
    "key": _key,
}
