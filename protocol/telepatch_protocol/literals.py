"""Lists and numbers as tensors: where an operation takes a value, a list of numbers is one, and so is a number."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from telepatch_protocol.errors import BadArgument
from telepatch_protocol.meta import Meta
from telepatch_protocol.ops.table import Op, is_value

MAX_AXES = 32
"""How deep a list may nest that stands for a tensor."""

_VALUES = ("tensor", "operand")


def list_meta(value: object) -> Meta:
    """Shape and dtype of the tensor that a number or boolean, or a nested list of them, stands for.

    Raises:
        BadArgument: ragged, or holding something else.
    """
    kinds: set[type] = set()
    shape = _shape(value, kinds)
    if len(shape) > MAX_AXES:
        raise BadArgument(f"a list that stands for a tensor nests {len(shape)} lists; {MAX_AXES} can be")
    if kinds <= {bool}:
        return Meta(shape, "bool" if kinds else "float32")
    if kinds <= {int}:
        return Meta(shape, "int64")
    if kinds <= {int, float}:
        return Meta(shape, "float32")
    raise BadArgument(f"a list that stands for a tensor holds {', '.join(sorted(kind.__name__ for kind in kinds))}")


def with_literals(
    op: Op, args: tuple[object, ...], kwargs: Mapping[str, object], make: Callable[[object], object]
) -> tuple[tuple[object, ...], dict[str, object]]:
    """The arguments with what stands for a value made into one by `make`.

    That is a list where a value is expected, a number where nothing but a value is, and the first number of an
    operation on values and numbers that gets numbers only.
    """
    named = {param.name: param.kind for param in op.params}
    kinds = [op.params[at].kind if at < len(op.params) else None for at in range(len(args))]
    given = [*zip(kinds, args, strict=True), *((named.get(name), value) for name, value in kwargs.items())]
    lonely = not any(is_value(value) or isinstance(value, list) for kind, value in given if kind in _VALUES)

    def one(kind: str | None, value: object, *, first: bool) -> object:
        number = isinstance(value, bool | int | float) and (
            kind == "tensor" or (kind == "operand" and lonely and first)
        )
        return make(value) if number or (kind in _VALUES and isinstance(value, list)) else value

    placed = tuple(one(kind, value, first=at == 0) for at, (kind, value) in enumerate(zip(kinds, args, strict=True)))
    return placed, {name: one(named.get(name), value, first=False) for name, value in kwargs.items()}


def _shape(value: object, kinds: set[type]) -> tuple[int, ...]:
    if not isinstance(value, list):
        kinds.add(type(value))
        return ()
    inner = {_shape(one, kinds) for one in value}
    if len(inner) > 1:
        raise BadArgument("a list that stands for a tensor is ragged: its rows differ in length")
    return (len(value), *(inner.pop() if inner else ()))
