"""`map`: a function of values once per element, as Python's own has it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from telepatch.columns import columns
from telepatch.current import needed_builder
from telepatch.lines import points_home
from telepatch.reduced import Joined, Later, Reducing
from telepatch.sweeps import open_map
from telepatch.values import Value
from telepatch_protocol.errors import BadArgument
from telepatch_protocol.graph import Reduction


class _Map(Reducing):
    def __init__(self, builder: Any, scope: Any, how: Reduction) -> None:
        self._builder, self._scope, self._how = builder, scope, how

    def give(self, result: Any) -> Any:
        """What the function gave, as what it is over all elements."""
        if isinstance(result, tuple | list):
            return type(result)(self.give(one) for one in result)
        if isinstance(result, dict):
            return {name: self.give(one) for name, one in result.items()}
        if not isinstance(result, Value):
            raise BadArgument(f"the function of a map gives values, or a tuple, list or dict of them; found {result!r}")
        return self._reduced(self._how, result, Joined if self._how == "cat" else Later)


_HOW: tuple[Reduction, ...] = ("stack", "cat", "sum", "mean", "max", "min")


@points_home
def map(function: Callable[..., Any], *over: Any, reduce: Reduction = "stack") -> Any:
    """Apply a function to each element of one or several lists, ranges, arrays or values, taken together.

    The function is called once, with values that stand for any element; it may run the model in a trace of its own.

    Args:
        function: takes one element of each, and gives a value, or a tuple, list or dict of values.
        over: what to go over, all of one length.
        reduce: how the elements' values become one: ``stack``, ``cat``, ``sum``, ``mean``, ``max`` or ``min``.

    Returns:
        What the function gave, over all elements.

    Raises:
        TraceError: no trace or session is open.
        ShapeError: lists of different lengths, or elements of different shapes.

    Example:
        >>> with model.trace("Hello"):
        ...     every = model.blocks[:].output
        ...     norms = telepatch.map(lambda h: h.norm(dim=-1), every).save()
    """
    if reduce not in _HOW:
        raise BadArgument(f"a map's values become one by {', '.join(_HOW)}; found {reduce!r}")
    builder = needed_builder("telepatch.map")
    named = {"item" if at == 0 else f"item{at}": one for at, one in enumerate(over)}
    scope, bound = open_map(builder, "map", columns(builder, named, "map"), grid=False)
    with builder.giving_up():
        found = _Map(builder, scope, reduce).give(function(*bound.values()))
        builder.close(scope)
    return found
