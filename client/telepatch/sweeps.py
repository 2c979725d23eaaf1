"""Sweeps and rows: a block that is written once, for one element, and runs for every one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from telepatch.blocks import Block
from telepatch.bound import Bound
from telepatch.builder import Builder
from telepatch.columns import Column, columns, zipped
from telepatch.lines import placed, points_home
from telepatch.names import missing_name
from telepatch.reduced import Reducing
from telepatch.scope import Scope
from telepatch.trace import Invocation, one_form
from telepatch_protocol.card import ModelCard
from telepatch_protocol.errors import BadArgument, TraceError
from telepatch_protocol.graph import Map, Node, Options
from telepatch_protocol.sizes import Dim

if TYPE_CHECKING:
    from telepatch.lab import Lab

PROMPT = "prompt"
"""What the inputs of ``each`` are called where they have no other name."""


class Elements(Block, Reducing):
    """A block that runs once per element; its names are bound to one element at a time."""

    grid: ClassVar[bool] = False

    def __init__(self, lab: Lab | None, card: ModelCard, options: Options, given: dict[str, Any]) -> None:
        super().__init__(lab, card, options)
        for name in given:
            if name in dir(type(self)):
                raise BadArgument(f"'{name}' means something else on a {self.what}; choose another name")
        self._given = given
        self._bound: dict[str, Bound] = {}
        self._scope: Scope | None = None

    @points_home
    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name in self._bound:
            return self._bound[name]
        known = ", ".join(self._given)
        if name in self._given:
            raise placed(TraceError(f"'{name}' is bound inside the block of this {self.what}, which has not begun"))
        raise missing_name(f"this {self.what} has no '{name}'; it goes over {known}")

    def __dir__(self) -> list[str]:
        return [*object.__dir__(self), *self._given]

    def _fits(self, other: Builder) -> TraceError | None:
        if other.scope.kind not in ("cond", "generate"):
            return None
        return TraceError(f"a {other.scope.what} runs no forward; open the {self.what} before it")

    def _begin(self) -> None:
        builder = self._builder
        found = columns(builder, self._given, self.what)
        self._given = dict.fromkeys(self._given)
        self._scope, self._bound = open_map(builder, self.what, found, grid=self.grid)

    def _end(self) -> None:
        if self._scope is not None:
            self._builder.close(self._scope)


class Sweep(Elements):
    """Every combination of the elements of several lists: ``with model.sweep(layer=range(12), head=range(12)) as v:``.

    ``v.layer`` is one of them. What is made inside and saved, or used after the block, has an axis for each name in
    front, in the order of the names; ``v.mean(x)``, ``v.sum(x)``, ``v.max(x)``, ``v.min(x)``, ``v.cat(x)`` and
    ``v.weighted(x, weight)`` make one value of all elements' on the server instead.
    """

    what = "sweep"
    grid = True


class Each(Elements):
    """Rows of one or several lists, taken together: ``with model.each(prompts) as row:``.

    Where inputs are given without a name, the block reads and writes the model for each of them, as a trace does.
    """

    what = "each"

    def __init__(
        self, lab: Lab | None, card: ModelCard, options: Options, given: dict[str, Any], *, runs: bool
    ) -> None:
        super().__init__(lab, card, options, given)
        self._runs = runs

    def _begin(self) -> None:
        super()._begin()
        if self._runs:
            forward = self._builder.begin_run()
            form = one_form(self._builder.card, self._bound[PROMPT])
            Invocation(self._builder, form, forward, self._edits).__enter__()

    def _end(self) -> None:
        if self._runs:
            self._builder.end_run()
        super()._end()


def open_map(builder: Builder, what: str, found: tuple[Column, ...], *, grid: bool) -> tuple[Scope, dict[str, Bound]]:
    """Begin a map over columns; gives its scope and what its names stand for in there."""
    lead: tuple[Dim, ...] = tuple(column.count for column in found) if grid else (zipped(found, what),)
    over: dict[str, Any] = {column.wire: column.over for column in found}

    def make(scope: Scope) -> Node:
        return Map(id=scope.node, over=over, grid=grid and len(over) > 1, body=scope.graph(), reduce=dict(scope.reduce))

    scope = builder.open("map", what, make, {column.wire: column.element for column in found}, lead)
    builder.checker.samples |= {column.wire: column.numbers[0] for column in found if column.numbers}
    short = {"sweep": "v", "each": "row"}.get(what, "element")
    return scope, {
        column.name: Bound(
            builder,
            column.wire,
            column.meta,
            scope,
            spelled=f"{short}.{column.name}",
            numbers=column.numbers,
            form=column.form,
            plain_number=column.plain_number,
        )
        for column in found
    }
