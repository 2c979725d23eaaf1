"""Values that a generation carries from step to step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from telepatch import arguments
from telepatch.lines import points_home
from telepatch.scope import Scope
from telepatch.values import Value
from telepatch_protocol.errors import TraceError
from telepatch_protocol.meta import UNKNOWN, Meta
from telepatch_protocol.refs import Ref

if TYPE_CHECKING:
    from telepatch.builder import Builder


class State(Value):
    """A value that each step of a generation begins with as the last one left it; made by ``t.state(start)``.

    Inside the block it is what the step began with, and what `set` was given once that was said. After the block it is
    what the last step has left.
    """

    def __init__(self, builder: Builder, wire: str, meta: Meta, scope: Scope, first: JsonValue) -> None:
        super().__init__(builder, wire, meta, scope)
        self.wire = wire
        self.first = first
        self.next: JsonValue = None
        self._home = scope

    @points_home
    def set(self, value: Any) -> None:
        """What the next step begins with, and what the name stands for from here on; said twice, the later holds.

        Raises:
            TraceError: outside the generation's own block.
        """
        builder = self._builder
        assert builder is not None
        if self._home.closed or builder.scope is not self._home:
            raise TraceError("a state is set inside its generation's own block")
        self.next = arguments.argument(builder, "operand", value)
        if isinstance(value, Value):
            self._meta = value._known_meta()
        self._ref = self.next.removeprefix("$") if isinstance(self.next, str) else self._literal(builder, value)

    def end(self, scope: Scope) -> None:
        """The generation is over: from here on it is what the last step has left."""
        builder, parent = self._builder, scope.parent
        assert builder is not None
        assert parent is not None
        self._ref, self._scope = f"{scope.node}.{self.wire}", parent
        with builder.checker.at(parent.level):
            found = builder.checker.lookup(Ref(scope.node, self.wire))
        self._meta = found if isinstance(found, Meta) else UNKNOWN

    def _top_ref(self) -> str:
        builder, parent = self._builder, self._home.parent
        assert builder is not None
        assert parent is not None
        return f"${builder.reach(parent, f'{self._home.node}.{self.wire}', top=True)[1]}"

    def _literal(self, builder: Builder, value: Any) -> str:
        """A number as a constant, so that the name can stand for it."""
        ref = builder.constant(value)
        self.next = f"${ref}"
        return ref
