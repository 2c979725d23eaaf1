"""A model's tree as text: repeated layers folded, standard names shown, taken names marked."""

from __future__ import annotations

from itertools import groupby

from telepatch.places import Spot, module_aliases
from telepatch_protocol.card import Axis, ModelCard, PortCard

TAKEN = frozenset({"input", "output", "inputs", "outputs", "param", "calls", "source"})
"""Names that mean something else on every module, so that children of that name are reached as items."""


def draw(spot: Spot) -> str:
    """The modules from `spot` down."""
    name = ".".join(map(str, spot.path)) or spot.card.id
    return "\n".join([f"{name}: {_described(spot)}", *_children(spot, "  ")])


def _children(spot: Spot, indent: str) -> list[str]:
    lines: list[str] = []
    found = [(name, child) for name in spot.own_children() if (child := spot.child(name)) is not None]
    aliases = _aliases(spot.card)
    for _, run in groupby(found, key=lambda pair: _shape(pair[1]) if pair[0].isdigit() else pair[0]):
        same = list(run)
        name, child = same[0]
        shown = f"[{name}]" if len(same) == 1 and name.isdigit() else name
        if len(same) > 1:
            shown = f"[{name}..{same[-1][0]}]"
        standard = aliases.get(_general(child.native))
        known = [*([standard] if standard is not None else []), *spot.names.of(_general(child.native))]
        alias = f"   = {', '.join(known)}" if known else ""
        taken = f'   reach it as ["{name}"]' if name in TAKEN else ""
        count = f"{len(same)} x " if len(same) > 1 else ""
        lines.append(f"{indent}{shown}: {count}{_described(child)}{alias}{taken}")
        lines.extend(_children(child, indent + "  "))
    return lines


def _aliases(card: ModelCard) -> dict[str, str]:
    """The standard name of each path that has one, layers taken together."""
    return {path: alias for alias, path in module_aliases(card).items() if alias != path}


def _general(path: str) -> str:
    """A path that stands for all layers alike."""
    return ".".join("*" if one.isdigit() else one for one in path.split("."))


def _described(spot: Spot) -> str:
    module = spot.module
    flow = f" {_tensor(module.input)} -> {_tensor(module.output)}" if module.input and module.output else ""
    ports = ", ".join(spot.ports())
    return f"{module.kind}{flow}" + (f"   {ports}" if ports else "")


def _tensor(side: PortCard) -> str:
    if not side.leaves:
        return "()"
    return f"({', '.join(map(_axis, side.leaves[side.primary].axes))})"


def _axis(axis: Axis) -> str:
    return "?" if axis is None else str(axis)


def _shape(spot: Spot) -> tuple[object, ...]:
    """What two modules must share to be drawn as one."""
    module = spot.module
    own = (module.kind, _described(spot), tuple(sorted(module.params)))
    return (*own, *(_shape(child) for name in spot.own_children() if (child := spot.child(name)) is not None))
