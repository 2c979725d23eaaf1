"""`repeat`: a part of a trace several times, with values that each time begins with as the last left them."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from pydantic import JsonValue

from telepatch import arguments
from telepatch.bound import Bound
from telepatch.builder import Builder
from telepatch.columns import wire_name
from telepatch.current import needed_builder
from telepatch.lines import Place, here, placed, points_home
from telepatch.names import missing_name
from telepatch.reduced import Later
from telepatch.scope import Scope
from telepatch.values import Value
from telepatch_protocol.errors import BadArgument, GraphError, TraceError
from telepatch_protocol.graph import Node
from telepatch_protocol.graph import Repeat as RepeatNode
from telepatch_protocol.meta import Meta
from telepatch_protocol.sizes import Size
from telepatch_protocol.subgraphs import COMPUTED_TIMES, STEP


class Step(Bound):
    """How often the block has run before; an inner repeat has a count of its own."""

    def reference_in(self, builder: Builder) -> str:
        """Its name, or inside another repeat that of the same number as a value."""
        inner = next((scope for scope in builder.scope.around() if scope.kind in ("repeat", "generate")), None)
        if builder is not self._builder or inner is None or inner is self.home or self.home.closed:
            return super().reference_in(builder)
        return self.tensor().reference_in(builder)

    def tensor(self) -> Value:
        """The count as a value; made where the name means it."""
        if self._tensor is None:
            assert self._builder is not None
            node, found = self._builder.call("full", ([], f"${STEP}"), {"dtype": "int64"}, self.home)
            assert isinstance(found, Meta)
            self._tensor = Value(self._builder, node, found, self.home)
        return self._tensor


class Repeat:
    """A block that runs several times: ``with telepatch.repeat(10, y=start) as loop:``.

    ``loop.y`` is a carried value, renewed by ``loop.y = ...``; after the block it is the last one. ``loop.step`` counts
    from 0. Other values that are made inside are stacked over the steps, where they are used after the block.
    """

    def __init__(self, n: Any, carried: dict[str, Any], most: int | None = None) -> None:
        for name in carried:
            if name in dir(Repeat):
                raise BadArgument(f"'{name}' means something else on a repeat; choose another name")
        if most is not None and (isinstance(most, bool) or not isinstance(most, int)):
            raise BadArgument(f"most is an integer, as a repeat is priced by it before anything runs; found {most!r}")
        self._n = n
        self._most = most
        self._carried = carried
        self._builder: Builder | None = None
        self._scope: Scope | None = None
        self._wires: dict[str, str] = {}
        self._now: dict[str, Any] = {}
        self._refs: dict[str, str] = {}
        self._starts: dict[str, JsonValue] = {}
        self._assigned: dict[str, Place | None] = {}
        self._while: str | None = None
        self._step: Step | None = None

    @points_home
    def __enter__(self) -> Repeat:
        if self._builder is not None:
            raise TraceError("this repeat was used before; each block needs a new telepatch.repeat(...)")
        builder = self._builder = needed_builder("telepatch.repeat")
        times = arguments.argument(builder, "operand", self._n)
        for name, start in self._carried.items():
            self._wires[name] = wire_name(builder, name, self._wires.values())
            self._starts[name] = arguments.argument(builder, "operand", start)
        metas = {name: builder.checker.written(self._starts[name]) for name in self._carried}

        def make(scope: Scope) -> Node:
            carry = {self._wires[name]: start for name, start in self._starts.items()}
            found = {
                "id": scope.node,
                "n": times,
                "most": self._most,
                "carry": carry,
                "body": scope.graph(),
                "while": self._while,
            }
            return RepeatNode.model_validate(found)

        bound: dict[str, object] = {self._wires[name]: meta for name, meta in metas.items()}
        known = arguments.plain(self._n)
        lead = known if isinstance(known, int) else Size.unknown(COMPUTED_TIMES if self._most is None else self._most)
        scope = self._scope = builder.open("repeat", "repeat", make, bound | {STEP: Meta((), "int64")}, (lead,))
        self._step = Step(builder, STEP, Meta((), "int64"), scope, spelled="loop.step", plain_number=True)
        for name, meta in metas.items():
            self._now[name] = Bound(builder, self._wires[name], meta, scope, spelled=f"loop.{name}")
            self._refs[name] = f"${self._wires[name]}"
        return self

    @points_home
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        builder, scope = self._builder, self._scope
        if builder is None or scope is None:
            return
        if error is not None:
            builder.give_up(error)
            return
        scope.fixed = frozenset(self._wires.values())
        for name, wire in self._wires.items():
            scope.out[wire] = self._refs[name]
        try:
            builder.close(scope)
        except GraphError as found:
            named = next((name for name in self._assigned if f"'{self._wires[name]}'" in found.detail), None)
            place = self._assigned.get(named or "")
            if found.node == scope.node and place is not None:
                found.file, found.line = place.file, place.line
            raise
        for name, wire in self._wires.items():
            self._now[name] = Later(builder, scope, f"{scope.node}.{wire}")

    @property
    @points_home
    def step(self) -> Bound:
        """How often the block has run before, from 0."""
        if self._step is None:
            raise TraceError("loop.step counts inside the block of the repeat, which has not begun")
        return self._step

    @points_home
    def while_(self, condition: Any) -> None:
        """Go on only while one value, computed in the block, is true; at most as often as the repeat says.

        Args:
            condition: one boolean or number, looked at after each time.

        Raises:
            TraceError: outside the block, or said twice.
        """
        builder, scope = self._open("while_()")
        if self._while is not None:
            raise TraceError("this repeat has a condition already; join two with &")
        if not isinstance(condition, Value):
            raise BadArgument(f"a repeat goes on while a value made in its block holds; found {condition!r}")
        self._while = condition.reference_in(builder)
        scope.lead = (Size.unknown(*scope.lead),)

    @points_home
    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name not in self._now:
            if name in self._carried:
                raise placed(TraceError(f"loop.{name} stands for something inside the block, which has not begun"))
            raise missing_name(f"this repeat carries {', '.join(self._carried) or 'nothing'}; there is no '{name}'")
        return self._now[name]

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            object.__setattr__(self, name, value)
        else:
            self._renew(name, value)

    @points_home
    def _renew(self, name: str, value: Any) -> None:
        if name not in self._carried:
            known = ", ".join(self._carried) or "nothing"
            raise BadArgument(f"this repeat carries {known}; to carry '{name}' say repeat(n, {name}=start)")
        builder, _ = self._open(f"loop.{name} = ...")
        self._refs[name] = str(arguments.argument(builder, "operand", value))
        self._now[name] = value
        self._assigned[name] = here()

    def _open(self, what: str) -> tuple[Builder, Scope]:
        if self._builder is None or self._scope is None or self._scope.closed:
            raise TraceError(f"{what} belongs inside the block of the repeat")
        if self._builder.scope is not self._scope:
            raise TraceError(
                f"{what} belongs to the repeat's own block, and a {self._builder.scope.what} is open inside it"
            )
        return self._builder, self._scope

    def __repr__(self) -> str:
        return f"<repeat of {', '.join(self._carried) or 'nothing'}>"


@points_home
def repeat(n: Any, /, *, most: int | None = None, **carried: Any) -> Repeat:
    """A part of a trace or session several times.

    Args:
        n: how often, at most; an integer or a value of one.
        most: how large a value of `n` may turn out to be: the job is priced by it, and ends with an error where it is
            more. 1,000 if left out.
        carried: values that each time begins with as the last left them, with what they are at first. They keep their
            shape and dtype.

    Returns:
        A context manager; see `Repeat`.

    Raises:
        BadArgument: a name that means something else.

    Example:
        >>> with model.trace("Hello"):
        ...     with telepatch.repeat(20, y=model.blocks[2].output[:, -1]) as loop:
        ...         loop.y = loop.y * 0.9
        ...         loop.while_(loop.y.norm() > 1)
        ...     end = loop.y.save()
    """
    return Repeat(n, carried, most)
