"""The operations of a model's modules as its card offers them, one list for all modules that are built alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from telepatch_protocol.card import Flow, ModuleCard, Operation, PortCard, SourceCard
from telepatch_protocol.dtypes import is_integer
from telepatch_worker.attention import EAGER, attention, can_be_eager, implementation
from telepatch_worker.axes import Size, solve
from telepatch_worker.operations import Watched, can_be_watched, watching_operations

Ports = Mapping[tuple[str, str], PortCard]
Forward = Callable[[Size], None]
"""Runs the model once on an input of so many rows and positions."""


@dataclass(frozen=True)
class Offered:
    """What goes on the card: lists of operations by key, and the key of each module that has one."""

    sources: Mapping[str, SourceCard]
    keys: Mapping[str, str]


def offer(model: nn.Module, modules: Sequence[ModuleCard], forward: Forward, sizes: tuple[Size, Size]) -> Offered:
    """Watch one module of each kind in two forwards, and in two under eager attention where the model has another.

    Args:
        model: in eval mode.
        modules: their cards, with ports.
        forward: runs the model.
        sizes: of the two inputs, as those that the ports were solved with.
    """
    kinds = _kinds(model, modules)
    paths = [alike[0] for alike in kinds.values()]
    orders = {
        (module.path, port): card.order
        for module in modules
        for port, card in (("input", module.input), ("output", module.output))
        if card is not None
    }
    own = implementation(model) == EAGER
    found = _observed(model, paths, orders, forward, sizes, own)
    if not own and can_be_eager(model):
        with attention(model, eager=True):
            eager = _observed(model, paths, orders, forward, sizes, True)
        found = {path: _together(found[path], eager[path]) for path in paths}
    return _offered(kinds, found)


def _kinds(model: nn.Module, modules: Sequence[ModuleCard]) -> dict[object, list[str]]:
    """Paths of modules that fire and can be watched, those that are built alike together."""
    by_path = dict(model.named_modules())
    below = _below(modules)
    found: dict[object, list[str]] = {}
    for card in modules:
        if card.input is not None and card.input.leaves and can_be_watched(by_path[card.path]):
            inside = tuple(_shape(one, card) for one in [card, *below[card.path]])
            found.setdefault((type(by_path[card.path]), inside), []).append(card.path)
    return found


def _below(modules: Sequence[ModuleCard]) -> dict[str, list[ModuleCard]]:
    """The modules below each."""
    found: dict[str, list[ModuleCard]] = {module.path: [] for module in modules}
    for module in modules:
        path = module.path
        while path:
            path = path.rpartition(".")[0]
            found[path].append(module)
    return found


def _shape(card: ModuleCard, root: ModuleCard) -> tuple[object, ...]:
    """What a module below must share for the whole to be alike: its name, when it fires, and its tensors."""
    assert root.input is not None
    begun = root.input.order[0]
    ports = tuple(
        None if port is None else (tuple(order - begun for order in port.order), port.leaves)
        for port in (card.input, card.output)
    )
    return card.path[len(root.path) :], card.kind, ports


def _observed(
    model: nn.Module,
    paths: Sequence[str],
    orders: dict[tuple[str, str], tuple[int, ...]],
    forward: Forward,
    sizes: tuple[Size, Size],
    follow: bool,
) -> dict[str, dict[str, Operation]]:
    """The operations of each module, in the order in which they happen."""
    records: list[Watched] = []
    for size in sizes:
        with watching_operations(model, paths, orders, attention=follow) as record, torch.no_grad():
            forward(size)
        records.append(record)
    solved = solve(records[0], records[1], sizes)
    return {path: _operations(path, records[0], solved, orders) for path in paths}


def _operations(
    path: str, record: Watched, solved: Ports, orders: dict[tuple[str, str], tuple[int, ...]]
) -> dict[str, Operation]:
    calls = len(orders[path, "input"])
    found: dict[str, Operation] = {}
    for name, (line, text) in record.lines.get(path, {}).items():
        sides = {
            side: flow
            for side in ("input", "output")
            if (flow := _flow(solved.get((path, f"source.{name}.{side}")), record, calls)) is not None
        }
        if sides:
            found[name] = Operation.model_validate({"name": name, "line": line, "text": text, **sides})
    return dict(sorted(found.items(), key=lambda item: _first(item[1])))


def _flow(port: PortCard | None, record: Watched, calls: int) -> Flow | None:
    """The tensors of one side; None where calls of the module differ in how often it happens.

    Integers inside a forward are indices, and one that is out of range ends the process on a GPU: they are only read.
    """
    if port is None or len(port.order) % calls:
        return None
    times = len(port.order) // calls
    at = tuple(record.places[order] for order in port.order)
    if any(at[call * times : (call + 1) * times] != at[:times] for call in range(calls)):
        return None
    leaves = tuple(leaf.model_copy(update={"engine": True}) if is_integer(leaf.dtype) else leaf for leaf in port.leaves)
    return Flow(at=at[:times], leaves=leaves, primary=port.primary, arity=port.arity)


def _first(operation: Operation) -> tuple[int, int]:
    return min(flow.at[0] for flow in (operation.input, operation.output) if flow is not None)


def _together(usual: dict[str, Operation], eager: dict[str, Operation]) -> dict[str, Operation]:
    """Everything that happens under eager attention, in its order; with the usual tensors where those are there."""
    return {
        name: _usual(usual[name], found) if name in usual else found.model_copy(update={"eager": True})
        for name, found in eager.items()
    }


def _usual(usual: Operation, eager: Operation) -> Operation:
    sides = {}
    for side in ("input", "output"):
        have, placed = getattr(usual, side), getattr(eager, side)
        sides[side] = None if have is None or placed is None else have.model_copy(update={"at": placed.at})
    return usual.model_copy(update=sides)


def _offered(kinds: Mapping[object, list[str]], found: Mapping[str, dict[str, Operation]]) -> Offered:
    sources: dict[str, SourceCard] = {}
    keys: dict[str, str] = {}
    names: dict[str, str] = {}
    for (kind, _), paths in ((key, paths) for key, paths in kinds.items() if isinstance(key, tuple)):
        card = SourceCard(operations=tuple(found[paths[0]].values()))
        if not card.operations:
            continue
        text = card.model_dump_json()
        if text not in names:
            count = sum(1 for key in sources if key.split("/")[0] == kind.__name__)
            names[text] = kind.__name__ if not count else f"{kind.__name__}/{count + 1}"
            sources[names[text]] = card
        keys |= dict.fromkeys(paths, names[text])
    return Offered(sources, keys)
