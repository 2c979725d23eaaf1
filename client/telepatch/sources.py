"""Operations inside a module's forward, as attributes: ``layer.attn.source.attention_interface_1.output``."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

from telepatch.current import open_builder
from telepatch.lines import points_home
from telepatch.names import missing_site
from telepatch.places import Spot
from telepatch.site import Address, SiteValue, spelled_path
from telepatch.structure import Structure
from telepatch_protocol.card import Flow, Operation, SourceCard
from telepatch_protocol.errors import UnknownSite

_NESTED = ".source."


class Source:
    """The operations of a module's forward: every call and every assignment, by name.

    A call is named after what is called, an assignment after what is assigned to, both with a number, as nnsight does.
    Print it to see them with the lines of code where they stand. A function of the model's own code has operations
    inside: ``source.apply_rotary_pos_emb_0.source``.

    Example:
        >>> print(model.blocks[3].source)
        >>> model.blocks[3].source.hidden_states_1.output[:, -1] = 0
    """

    __slots__ = ("_call", "_prefix", "_spot")
    _spot: Spot
    _call: int | None
    _prefix: str

    def __init__(self, spot: Spot, call: int | None = None, prefix: str = "") -> None:
        object.__setattr__(self, "_spot", spot)
        object.__setattr__(self, "_call", call)
        object.__setattr__(self, "_prefix", prefix)
        if not self._names():
            raise UnknownSite(f"{self._spelled()} has no operations that can be reached")

    @points_home
    def __getattr__(self, name: str) -> OperationView:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._operation(name)

    @points_home
    def __setattr__(self, name: str, value: Any) -> None:
        raise missing_site(f"write what flows through an operation, such as {self._spelled()}.{name}.output = value")

    def __iter__(self) -> Iterator[OperationView]:
        return iter([self._operation(name) for name in self._names()])

    def __len__(self) -> int:
        return len(self._names())

    def __dir__(self) -> list[str]:
        return self._names()

    def __repr__(self) -> str:
        kind = self._spot.module.kind
        head = f"{self._spelled()}: operations inside {kind}, with their lines"
        return "\n".join([head, *_drawn(self._card(), self._prefix, "  ")])

    def _operation(self, name: str) -> OperationView:
        found = self._card().by_name.get(self._prefix + name)
        if found is None:
            near = difflib.get_close_matches(name, self._names(), n=1)
            hint = f" (did you mean '{near[0]}'?)" if near else ""
            raise missing_site(f"{self._spelled()} has no operation '{name}'{hint}; it has: {', '.join(self._names())}")
        return OperationView(self._spot, self._call, found)

    def _card(self) -> SourceCard:
        card = self._spot.card
        return card.sources.get(self._spot.module.source, SourceCard(operations=()))

    def _names(self) -> list[str]:
        """Of the operations here, not of those inside them."""
        found = [one.name.removeprefix(self._prefix) for one in _below(self._card(), self._prefix)]
        return [name for name in found if _NESTED not in name]

    def _spelled(self) -> str:
        inside = f".{self._prefix.removesuffix('.')}" if self._prefix else ".source"
        return spelled_path(self._spot.path) + (f".source{inside}" if self._prefix else inside)


class OperationView:
    """One operation: what it takes and returns, to be read and written, and the operations inside it."""

    __slots__ = ("_call", "_operation", "_spot")
    _spot: Spot
    _call: int | None
    _operation: Operation

    def __init__(self, spot: Spot, call: int | None, operation: Operation) -> None:
        object.__setattr__(self, "_spot", spot)
        object.__setattr__(self, "_call", call)
        object.__setattr__(self, "_operation", operation)

    @property
    @points_home
    def input(self) -> SiteValue:
        """The first tensor that it takes."""
        return self._site("input")

    @input.setter
    def input(self, value: Any) -> None:
        self._write("input", value)

    @property
    @points_home
    def output(self) -> SiteValue:
        """What it returns, or what is assigned."""
        return self._site("output")

    @output.setter
    def output(self, value: Any) -> None:
        self._write("output", value)

    @property
    @points_home
    def inputs(self) -> Structure | SiteValue:
        """Everything that it takes, by position and name."""
        return self._structure("inputs", self._operation.input)

    @property
    @points_home
    def outputs(self) -> Structure | SiteValue:
        """Everything that it returns, by position and name."""
        return self._structure("outputs", self._operation.output)

    @property
    @points_home
    def source(self) -> Source:
        """The operations inside the function that it calls."""
        return Source(self._spot, self._call, f"{self._operation.name}{_NESTED}")

    @property
    def calls(self) -> list[OperationView]:
        """The operation each time that it happens in one forward, where that is several times."""
        flow, side = self._operation.output or self._operation.input, self._spot.module.input
        times = len(flow.at) * len(side.order) if flow is not None and side is not None else 0
        return [OperationView(self._spot, at, self._operation) for at in range(times)]

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in ("input", "output"):
            raise missing_site(f"operation '{self._operation.name}' has no '{name}' to write; write input or output")
        object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        one = self._operation
        flows = [f"  {name}: {_tensors(flow)}" for name, flow in (("input", one.input), ("output", one.output)) if flow]
        eager = "   under eager attention only" if one.eager else ""
        return "\n".join([f"{one.name}, line {one.line}: {one.text}{eager}", *flows])

    def _site(self, side: str) -> SiteValue:
        return SiteValue(self._address(side), open_builder())

    def _address(self, side: str) -> Address:
        spot = self._spot
        return Address(spot.card, spot.path, "source", f"{self._operation.name}.{side}", self._call)

    @points_home
    def _write(self, side: str, value: Any) -> None:
        self._site(side)._bound().write(value)

    def _structure(self, side: str, flow: Flow | None) -> Structure | SiteValue:
        if flow is None or [leaf.path for leaf in flow.leaves] == [""]:
            return self._site(side.removesuffix("s"))
        return Structure(self._address(side), flow)


def _below(card: SourceCard, prefix: str) -> list[Operation]:
    return [one for one in card.operations if one.name.startswith(prefix)]


def _drawn(card: SourceCard, prefix: str, indent: str) -> list[str]:
    """Each operation with its line; those inside a function below it, indented."""
    here = [one for one in _below(card, prefix) if _NESTED not in one.name.removeprefix(prefix)]
    width = max((len(one.name) - len(prefix) for one in here), default=0)
    lines = []
    for one in here:
        eager = "   (eager attention)" if one.eager else ""
        lines.append(f"{indent}{one.name.removeprefix(prefix):{width}}  {one.line:>3}  {one.text}{eager}")
        lines.extend(_drawn(card, f"{one.name}{_NESTED}", indent + "    "))
    return lines


def _tensors(flow: Flow) -> str:
    return ", ".join(
        f"{leaf.path + ' ' if leaf.path else ''}{leaf.dtype} "
        f"({', '.join('?' if axis is None else str(axis) for axis in leaf.axes)})"
        for leaf in flow.leaves
    )
