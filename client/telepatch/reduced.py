"""One value of all elements' values, computed where they are: means, sums, extremes, joined parts."""

from __future__ import annotations

from typing import Any

from telepatch.builder import Builder
from telepatch.current import open_builder
from telepatch.lines import points_home
from telepatch.scope import Scope
from telepatch.values import Value
from telepatch_protocol.errors import BadArgument, TraceError
from telepatch_protocol.graph import Reduction
from telepatch_protocol.meta import UNKNOWN, Meta
from telepatch_protocol.reductions import LENGTHS, WEIGHT
from telepatch_protocol.refs import Ref


class Later(Value):
    """An output of a block, which exists once the block is over; it can be saved before."""

    def __init__(self, builder: Builder, inner: Scope, ref: str) -> None:
        assert inner.parent is not None
        super().__init__(builder, ref, UNKNOWN, inner.parent)
        self._inner = inner

    def _own_ref(self) -> str:
        if not self._inner.closed:
            raise TraceError(
                f"this is known once the {self._inner.what} is over: save it here, or use it after the block"
            )
        return super()._own_ref()

    def _top_ref(self) -> str:
        assert self._builder is not None
        assert self._scope is not None
        assert self._ref is not None
        return f"${self._builder.reach(self._scope, self._ref, top=True)[1]}"

    def _known_meta(self) -> Meta:
        builder, scope = self._builder, self._scope
        assert builder is not None
        assert scope is not None
        if builder.finished:
            name = self._name()
            return self._meta if name is None else builder.saved_meta(name)
        if self._inner.closed and not scope.closed:
            node, _, output = (self._ref or "").partition(".")
            with builder.checker.at(scope.level):
                found = builder.checker.lookup(Ref(node, output))
            self._meta = found if isinstance(found, Meta) else UNKNOWN
        return builder.outside(scope, self._meta)


class Joined(Later):
    """The values of all elements, one below the other; `lengths` says how long each part is."""

    @property
    def lengths(self) -> Later:
        """How many rows each element has, as a value of integers."""
        assert self._builder is not None
        return Later(self._builder, self._inner, f"{self._ref}.{LENGTHS}")


class Reducing:
    """What makes one value of the values of all elements of a block."""

    _builder: Builder
    _scope: Scope | None

    @points_home
    def stack(self, x: Any) -> Later:
        """The values of all elements, stacked on leading axes in the order of the names; this is what a save gives."""
        found: Later = self._reduced("stack", x)
        return found

    @points_home
    def mean(self, x: Any) -> Later:
        """The mean over all elements, in float32 at least. Elements have one shape."""
        found: Later = self._reduced("mean", x)
        return found

    @points_home
    def sum(self, x: Any) -> Later:
        """The sum over all elements: of floating values in float32 at least, of integers and masks in int64."""
        found: Later = self._reduced("sum", x)
        return found

    @points_home
    def max(self, x: Any) -> Later:
        """The largest over all elements, entry by entry."""
        found: Later = self._reduced("max", x)
        return found

    @points_home
    def min(self, x: Any) -> Later:
        """The smallest over all elements, entry by entry."""
        found: Later = self._reduced("min", x)
        return found

    @points_home
    def cat(self, x: Any) -> Joined:
        """The values of all elements one below the other along their first axis, which may differ in length.

        Returns:
            The joined value; its ``lengths`` are those of the parts.
        """
        found: Joined = self._reduced("cat", x, Joined)
        return found

    @points_home
    def weighted(self, x: Any, weight: Any) -> Later:
        """The mean over all elements, each counted by its weight: the sum of x * weight over the sum of weights.

        Args:
            x: a value made in the block.
            weight: one number per element; one and the same for all weighted means of a block.
        """
        inner, ref = self._inner(), self._made_inside(weight)
        if inner.out.get(WEIGHT, f"${ref}") != f"${ref}":
            raise BadArgument(f"all weighted means of one {inner.what} have the same weight; this is another one")
        self._builder.give(inner, ref, "sum", WEIGHT)
        found: Later = self._reduced("weighted", x)
        return found

    def _reduced(self, how: Reduction, x: Any, kind: type[Any] = Later) -> Any:
        inner, ref = self._inner(), self._made_inside(x)
        return kind(self._builder, inner, self._builder.give(inner, ref, how))

    def _inner(self) -> Scope:
        if self._scope is None or self._builder is not open_builder():
            raise TraceError("reductions belong inside the block, or after it in the job that it is a part of")
        return self._scope

    def _made_inside(self, x: Any) -> str:
        """The reference of a value in the block, where it was made in there or deeper."""
        inner = self._inner()
        if not isinstance(x, Value) or x._builder is not self._builder or x._scope is None:
            raise BadArgument(f"values made inside the {inner.what} are reduced; found {x!r}")
        ref, scope = x._own_ref(), x._scope
        while scope is not inner and scope.closed and scope.parent is not None:
            ref = self._builder.give(scope, ref)
            scope = scope.parent
        if scope is not inner:
            raise BadArgument(f"{x!r} was not made inside this {inner.what}: it is one value for all elements")
        return ref
