"""What a fit changes: parameters, and state that is carried from step to step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from telepatch.bound import Bound
from telepatch.builder import Builder
from telepatch.lines import points_home
from telepatch.names import missing_name
from telepatch.scope import Scope
from telepatch_protocol import refs
from telepatch_protocol.errors import TraceError, UnknownName
from telepatch_protocol.graph import Call
from telepatch_protocol.meta import Meta
from telepatch_protocol.order import refs_of

if TYPE_CHECKING:
    from telepatch.fit import Fit

_EARLY = "a parameter begins with a value from before the block, or made of numbers alone"


class Renewed(Bound):
    """A parameter or a state of a fit: inside its block a value, and in ``with f.after():`` it can be set."""

    def __init__(self, fit: Fit, name: str, wire: str, meta: Meta, scope: Scope) -> None:
        assert fit._builder is not None
        super().__init__(fit._builder, wire, meta, scope, spelled=f"f.{name}")
        self._fit = fit
        self._name_there = name

    @points_home
    def set(self, value: Any) -> None:
        """Give it another value for the steps that follow, of the same shape and dtype.

        Args:
            value: made in the block, or a number. What was made in the body is that of the last batch.

        Raises:
            TraceError: outside ``with f.after():``.
        """
        self._fit._renew(self._name_there, value)


class Names:
    """The data of a fit by name: ``f.row.label``, ``f.batch.x``."""

    def __init__(self, values: dict[str, Bound], spelled: str) -> None:
        self._values = values
        self._spelled = spelled

    def __getattr__(self, name: str) -> Bound:
        if name.startswith("_"):
            raise AttributeError(name)
        if name not in self._values:
            known = ", ".join(self._values)
            raise missing_name(f"{self._spelled} has no '{name}'; there are: {known}")
        return self._values[name]

    def __dir__(self) -> list[str]:
        return [*object.__dir__(self), *self._values]


class Outputs:
    """Outputs of a fit that have names of their own."""

    def __init__(self, fit: Fit, kind: str, names: tuple[str, ...]) -> None:
        self._values = {name: fit._output(f"{kind}.{name}") for name in names}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name not in self._values:
            raise missing_name(f"there is no '{name}'; there are: {', '.join(self._values) or 'none'}")
        return self._values[name]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._values.values())

    def __dir__(self) -> list[str]:
        return [*object.__dir__(self), *self._values]


def hoisted(builder: Builder, scope: Scope, ref: str) -> None:
    """Take what a value inside a block is made of out of the block, where a parameter begins.

    Raises:
        TraceError: it depends on what exists only inside.
    """
    assert scope.parent is not None
    for node in list(_made_of(scope, ref)):
        scope.drop(node.id)
        with builder.checker.at(scope.level):
            builder.checker.forget([node.id])
        try:
            with builder.checker.at(scope.parent.level):
                builder.checker.node(node)
        except UnknownName:
            raise TraceError(_EARLY) from None
        scope.parent.take(node, builder.slot())


def _made_of(scope: Scope, ref: str) -> Iterator[Call]:
    """The nodes of a scope that a value needs, each after those it needs itself."""
    found = refs.parse(ref)
    held = {node.id: node for node in scope.nodes()}
    stack, order = [found.id] if found is not None else [], dict[str, Call]()
    while stack:
        node = held.get(stack.pop())
        if node is None:
            continue
        if not isinstance(node, Call):
            raise TraceError(_EARLY)
        order.pop(node.id, None)
        order[node.id] = node
        stack += [one.id for one in refs_of(node)]
    yield from reversed(order.values())
