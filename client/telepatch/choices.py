"""`cond`: one of two values, or of two computations of which only one is done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import JsonValue

from telepatch import arguments
from telepatch.builder import Builder
from telepatch.current import needed_builder
from telepatch.lines import points_home
from telepatch.outputs import made
from telepatch.scope import Scope
from telepatch_protocol.errors import BadArgument
from telepatch_protocol.graph import Cond, Node, SubGraph
from telepatch_protocol.subgraphs import VALUE


@points_home
def cond(condition: Any, then: Any, otherwise: Any) -> Any:
    """Choose by one value that is known when it runs.

    Args:
        condition: one boolean or number.
        then, otherwise: values, or functions without arguments that make one (or a tuple or dict of several, the same
            in both). Of two functions only the chosen one's operations are done. They compute: a conditional write is a
            write of ``telepatch.where(condition, new, old)``.

    Returns:
        What the chosen one gives.

    Raises:
        TraceError: no trace or session is open.
        ShapeError: a condition of several elements; `telepatch.where` chooses element by element.

    Example:
        >>> with model.trace("Hello"):
        ...     h = model.blocks[2].output[:, -1]
        ...     small = telepatch.cond(h.norm() > 10, lambda: h / h.norm(), h).save()
    """
    builder = needed_builder("telepatch.cond")
    test = arguments.argument(builder, "operand", condition)
    id = builder.id()
    first, one = _branch(builder, id, then)
    second, other = _branch(builder, id, otherwise)
    if _shape_of(one) != _shape_of(other):
        raise BadArgument("both branches of a cond give the same: one value, or tuples of one length, or equal names")
    node: Node = Cond.model_validate({"id": id, "if": test, "then": first, "else": second})
    found = builder.add(node)
    whole = made(builder, id, found)
    if not isinstance(one, tuple | dict):
        return whole
    parts = [whole[name] for name in _names(one)]
    return tuple(parts) if isinstance(one, tuple) else dict(zip(one, parts, strict=True))


def _branch(builder: Builder, id: str, given: Any) -> tuple[SubGraph | JsonValue, Any]:
    """A branch for the wire, and what its author's function gave."""
    if not callable(given):
        return arguments.argument(builder, "operand", given), None
    return _computed(builder, id, given)


def _computed(builder: Builder, id: str, function: Callable[[], Any]) -> tuple[SubGraph | JsonValue, Any]:
    scope = builder.open("cond", "cond", _unmade, node=id)
    with builder.giving_up():
        found = function()
        if isinstance(found, list):
            found = tuple(found)
        refs = [arguments.argument(builder, "operand", one) for one in _parts(found)]
        scope.out = {name: str(ref) for name, ref in zip(_names(found), refs, strict=True)}
        builder.leave(scope)
    if not scope.nodes() and not isinstance(found, tuple | dict):
        return refs[0], found
    return scope.graph(), found


def _unmade(scope: Scope) -> Node:
    raise AssertionError("a branch is a part of its cond")


def _parts(found: Any) -> list[Any]:
    if found is None:
        raise BadArgument("a branch of a cond gives a value; this function returned nothing")
    return list(found.values()) if isinstance(found, dict) else list(found) if isinstance(found, tuple) else [found]


def _names(found: Any) -> list[str]:
    if isinstance(found, tuple | dict):
        return [f"{VALUE}{at}" for at in range(len(found))]
    return [VALUE]


def _shape_of(found: Any) -> object:
    return tuple(found) if isinstance(found, dict) else len(found) if isinstance(found, tuple) else None
