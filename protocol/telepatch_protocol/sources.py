"""Operations inside a module's forward: how a site spells one, and when it happens.

    path:source.attention_interface_1.output                      what a call returns, or an assignment binds
    path:source.attention_interface_1.inputs.2                    one leaf of what a call takes
    path:source.attention_interface_1.source.to_0.output          an operation inside the function that is called

Two modules that are built alike share one list of operations. Those lie between the events of modules, and are counted
from the last of these, so that their order needs no number of its own on the card.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from telepatch_protocol.card import Flow, Leaf, ModelCard, ModuleCard, Operation
from telepatch_protocol.errors import UnknownSite

SIDES = ("input", "output", "inputs", "outputs")

_STEP = 2.0**-20
"""Between two events of operations: small enough that those between two events of modules never reach the second."""


@dataclass(frozen=True, slots=True)
class Events:
    """What happens at one side of a module or of an operation: when, once for each call, and with which tensors."""

    order: tuple[float, ...]
    leaves: tuple[Leaf, ...]
    primary: int


def operation_at(card: ModelCard, module: ModuleCard, text: str) -> tuple[Operation, str, str]:
    """The operation that ``NAME.output`` or ``NAME.source.NAME.inputs.0`` speaks of, the side, and the leaf.

    Raises:
        UnknownSite: the module has no such operation; the message names those it has.
    """
    name, side, leaf = _taken_apart(text)
    source = card.sources.get(module.source)
    if source is None or not source.operations:
        raise UnknownSite(f"'{module.path}' ({module.kind}) offers no operations inside its forward")
    found = source.by_name.get(name)
    if found is None:
        known = [one.name for one in source.operations]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        inside = [one for one in known if ".source." not in one]
        shown = ", ".join(inside[:30])
        raise UnknownSite(f"'{module.path}' ({module.kind}) has no operation '{name}'{hint}; it has: {shown}")
    if side is None:
        sides = " or ".join(f"'source.{name}.{one}'" for one in _sides(found))
        raise UnknownSite(f"operation '{name}' of '{module.path}' has sides; write {sides}")
    return found, side, leaf


def events_of(operation: Operation, module: ModuleCard, side: str) -> Events:
    """When it happens over all calls of its module, and with which tensors.

    Raises:
        UnknownSite: no tensor flows there.
    """
    flow = operation.input if side.startswith("input") else operation.output
    if flow is None or module.input is None:
        sides = ", ".join(_sides(operation)) or "none"
        raise UnknownSite(
            f"no tensor flows through the {side} of operation '{operation.name}' of '{module.path}'; it has: {sides}"
        )
    return Events(tuple(_orders(flow, module.input.order)), flow.leaves, flow.primary)


def _orders(flow: Flow, calls: tuple[int, ...]) -> list[float]:
    return [call + after + (number + 1) * _STEP for call in calls for after, number in flow.at]


def _sides(operation: Operation) -> list[str]:
    return [name for name, flow in (("input", operation.input), ("output", operation.output)) if flow is not None]


def _taken_apart(text: str) -> tuple[str, str | None, str]:
    """Name of the operation, side (None where there is none), and leaf."""
    parts = text.split(".")
    at = next((at for at, part in enumerate(parts) if part in SIDES), None)
    if at is None:
        return text, None, ""
    return ".".join(parts[:at]), parts[at], ".".join(parts[at + 1 :])
