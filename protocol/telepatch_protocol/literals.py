"""Lists as tensors: where an operation takes a value, a list of numbers is one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from telepatch_protocol.errors import BadArgument
from telepatch_protocol.meta import Meta
from telepatch_protocol.ops.table import Op

_VALUES = ("tensor", "operand")


def list_meta(value: object) -> Meta:
    """Shape and dtype of the tensor that a nested list of numbers or booleans stands for.

    Raises:
        BadArgument: ragged, or holding something else.
    """
    kinds: set[type] = set()
    shape = _shape(value, kinds)
    if kinds <= {bool}:
        return Meta(shape, "bool" if kinds else "float32")
    if kinds <= {int}:
        return Meta(shape, "int64")
    if kinds <= {int, float}:
        return Meta(shape, "float32")
    raise BadArgument(f"a list that stands for a tensor holds {', '.join(sorted(kind.__name__ for kind in kinds))}")


def with_literals(
    op: Op, args: tuple[object, ...], kwargs: Mapping[str, object], make: Callable[[list[object]], object]
) -> tuple[tuple[object, ...], dict[str, object]]:
    """The arguments with each list that stands where a value is expected made into one by `make`."""
    kinds = {param.name: param.kind for param in op.params}

    def one(kind: str | None, value: object) -> object:
        return make(value) if kind in _VALUES and isinstance(value, list) else value

    placed = tuple(one(op.params[at].kind if at < len(op.params) else None, value) for at, value in enumerate(args))
    return placed, {name: one(kinds.get(name), value) for name, value in kwargs.items()}


def _shape(value: object, kinds: set[type]) -> tuple[int, ...]:
    if not isinstance(value, list):
        kinds.add(type(value))
        return ()
    inner = {_shape(one, kinds) for one in value}
    if len(inner) > 1:
        raise BadArgument("a list that stands for a tensor is ragged: its rows differ in length")
    return (len(value), *(inner.pop() if inner else ()))
