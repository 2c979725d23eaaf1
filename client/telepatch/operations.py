"""Operations of the vocabulary as Python functions, made from its table when they are first asked for."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

from telepatch import arguments
from telepatch.builder import Builder
from telepatch.current import open_builder
from telepatch.lines import points_home
from telepatch_protocol.errors import DtypeError, TraceError
from telepatch_protocol.ops import OPS, Op, Param, find_op
from telepatch_protocol.ops.table import REQUIRED

LOGICAL = {f"bitwise_{name}": f"logical_{name}" for name in ("and", "or", "xor", "not")}
"""What the operators of Python, numpy and PyTorch on masks are called, with the operation that each is."""


@points_home
def apply(name: str, *args: Any, **kwargs: Any) -> Any:
    """Put an operation into the open trace.

    Raises:
        TraceError: no trace is open.
        GraphError: an unknown operation, or arguments it cannot take.
    """
    builder = open_builder()
    if builder is None:
        raise TraceError(
            f"'{name}' is part of a trace and none is open; use it inside 'with model.trace(...)', "
            "or look at the value with .numpy() and use numpy"
        )
    return apply_in(builder, name, args, kwargs)


def apply_in(builder: Builder, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Put an operation into a trace and give its value, or all of its values."""
    from telepatch.outputs import made

    if name in LOGICAL:
        name = _logical(name, args)
    op = find_op(name)
    placed, named = arguments.call_arguments(builder, op, args, kwargs)
    node, found = builder.call(name, placed, named)
    return made(builder, node, found)


def _logical(name: str, args: tuple[Any, ...]) -> str:
    """Python's ``&``, ``|``, ``^`` and ``~`` are for masks here; on numbers they mean bits, which nobody computes."""
    for one in args:
        found = "bool" if isinstance(one, bool) else str(getattr(one, "dtype", type(one).__name__))
        if found.removeprefix("torch.") not in ("bool", "unknown"):
            raise DtypeError(
                f"'{name}' joins masks of booleans; found {found}. Compare first, as in (value > 0), or say .to('bool')"
            )
    return LOGICAL[name]


@cache
def function(name: str) -> Callable[..., Any]:
    """The operation as a function, with signature and documentation.

    Raises:
        UnknownOperation: not in the vocabulary.
    """
    op = find_op(name)

    def call(*args: Any, **kwargs: Any) -> Any:
        return apply(name, *args, **kwargs)

    return _described(call, op)


def names() -> list[str]:
    """Names of all operations."""
    return sorted(OPS)


def describe(op: Op) -> str:
    """What an operation does, for help()."""
    gives = f"\n\nGives {', '.join(op.outputs)}." if op.outputs else ""
    said = op.doc or f"The operation '{op.name}' of the vocabulary; it computes what torch.{op.name} does."
    return f"{said}\n\nSignature: {op}{gives}"


def _described(call: Callable[..., Any], op: Op) -> Callable[..., Any]:
    call.__name__ = call.__qualname__ = op.name
    call.__module__ = "telepatch.ops"
    call.__doc__ = describe(op)
    vars(call)["__signature__"] = inspect.Signature([_parameter(param) for param in op.params])
    return call


def _parameter(param: Param) -> inspect.Parameter:
    default = inspect.Parameter.empty if param.default is REQUIRED else param.default
    return inspect.Parameter(
        param.name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=param.kind
    )
