"""Solve which axes of every site count rows and positions, from two watched forwards of different sizes.

A size alone says nothing: with twelve heads, a batch of twelve rows looks the same as the head axis. Two forwards whose
rows and positions are four different primes do say it: an axis that did not change is fixed, one that went from the
first number of rows to the second counts rows, and so on; any other is unknown (None).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

from torch import nn

from telepatch_protocol.card import Axis, Leaf, PortCard
from telepatch_worker.probe import Event, Record, Seen

_PRINCIPAL = ("hidden_states", "inputs_embeds", "input_ids", "input", "x")
_RESULTS = ("logits", "last_hidden_state")


@dataclass(frozen=True)
class Size:
    """The rows and positions of one watched forward, and positions of what a decoder is given, if there is one."""

    rows: int
    positions: int
    target: int = 0


_PRIMES = tuple(
    number for number in range(3, 8200) if all(number % factor for factor in range(2, math.isqrt(number) + 1))
)


def model_sizes(model: nn.Module) -> set[int]:
    """Every number that is a size of the model's own: of parameters, buffers, and in its configuration."""
    found = {size for tensor in [*model.parameters(), *model.buffers()] for size in tensor.shape}
    config = getattr(model, "config", None)
    values = config.to_dict().values() if config is not None else ()
    return found | {value for value in values if type(value) is int}


def choose_sizes(taken: set[int], most: int, least: int = 1) -> tuple[Size, Size]:
    """Two sizes of four different primes that, as their products, are no size of the model's own.

    Args:
        taken: sizes of the model's own.
        most: the largest number of positions that the model takes.
        least: the smallest.

    Returns:
        Sizes with fewer rows than positions; a model that takes only a few positions gets two of those, and rows of
        primes beyond them.
    """
    free = [prime for prime in _PRIMES if prime not in taken]
    if least > 1:
        return _long_enough(free, taken, most, least)
    for one, two, three, four in zip(free, free[1:], free[2:], free[3:], strict=False):
        if four > most:
            break
        if not {one * three, two * four} & taken:
            return Size(one, three), Size(two, four)
    beyond = [prime for prime in free if prime > most]
    return Size(beyond[0], max(1, most - 1)), Size(beyond[1], max(2, most))


def _long_enough(free: list[int], taken: set[int], most: int, least: int) -> tuple[Size, Size]:
    """Sizes of at least so many positions."""
    one, two, *_ = free
    long = [prime for prime in free if max(least, two + 1) <= prime <= most]
    for three, four in itertools.pairwise(long):
        if not {one * three, two * four} & taken:
            return Size(one, three), Size(two, four)
    return Size(one, max(least, most - 1)), Size(two, most)


def with_targets(sizes: tuple[Size, Size], taken: set[int]) -> tuple[Size, Size]:
    """The same sizes with positions of what a decoder is given: two more primes that nothing else is."""
    one, two = sizes
    used = {number for size in sizes for number in (size.rows, size.positions, size.rows * size.positions)}
    first, second, *_ = (prime for prime in _PRIMES if prime not in used | taken)
    return replace(one, target=first), replace(two, target=second)


def solve_axis(first: int, second: int, sizes: tuple[Size, Size]) -> Axis:
    """What an axis counts that had these sizes in the two forwards."""
    one, two = sizes
    if first == second:
        return first
    meanings: dict[tuple[int, int], Axis] = {
        (one.rows, two.rows): "row",
        (one.positions, two.positions): "pos",
        (one.target, two.target): "target",
        (one.rows * one.positions, two.rows * two.positions): "row*pos",
    }
    return meanings.get((first, second))


def _axes(first: Seen, second: Seen | None, sizes: tuple[Size, Size]) -> tuple[Axis, ...]:
    if second is None or len(first.shape) != len(second.shape):
        return (None,) * len(first.shape)
    return tuple(solve_axis(a, b, sizes) for a, b in zip(first.shape, second.shape, strict=True))


def _merge(one: tuple[Axis, ...], other: tuple[Axis, ...] | None) -> tuple[Axis, ...]:
    """The axes on which two calls of one module agree."""
    if other is None or len(one) != len(other):
        return (None,) * len(one)
    return tuple(a if a == b else None for a, b in zip(one, other, strict=True))


def _engine_identities(record: Record) -> set[int]:
    """Tensors passed anywhere under one of the engine's names: they are the engine's wherever they turn up."""
    return record.owned | {leaf.identity for event in record.events for leaf in event.leaves if leaf.engine}


def _is_position_table(dtype: str, axes: tuple[Axis, ...]) -> bool:
    """Integers along the positions that all rows share are position ids, whatever they are called."""
    return dtype == "int64" and axes in {("pos",), (1, "pos"), ("target",), (1, "target")}


def _leaves(firsts: list[Event], seconds: list[Event], sizes: tuple[Size, Size], owned: set[int]) -> tuple[Leaf, ...]:
    """Leaves of the first call; their axes hold for every call."""
    solved: list[dict[str, tuple[Axis, ...]]] = []
    for one, two in zip(firsts, seconds, strict=True):
        partners = {leaf.path: leaf for leaf in two.leaves}
        solved.append({leaf.path: _axes(leaf, partners.get(leaf.path), sizes) for leaf in one.leaves})
    leaves = []
    for leaf in firsts[0].leaves:
        axes = solved[0][leaf.path]
        for call in solved[1:]:
            axes = _merge(axes, call.get(leaf.path))
        engine = leaf.engine or leaf.identity in owned or _is_position_table(leaf.dtype, axes)
        leaves.append(Leaf(path=leaf.path, axes=axes, dtype=leaf.dtype, engine=engine))
    return tuple(leaves)


def _primary(port: str, leaves: tuple[Leaf, ...]) -> int:
    """Which leaf ``input`` or ``output`` means.

    The first positional tensor, or the named one where a module is called by keywords; of a result, the logits or the
    last hidden state; else the first that is not the engine's.
    """
    places = {leaf.path: index for index, leaf in reversed(list(enumerate(leaves)))}
    if port.endswith("input"):
        positional = [index for index, leaf in enumerate(leaves) if leaf.path.partition(".")[0].isdigit()]
        if positional:
            return positional[0]
    for name in _PRINCIPAL if port.endswith("input") else _RESULTS:
        if name in places:
            return places[name]
    return next((index for index, leaf in enumerate(leaves) if not leaf.engine), 0)


def solve(first: Record, second: Record, sizes: tuple[Size, Size]) -> dict[tuple[str, str], PortCard]:
    """The card of every port that fires as often in both forwards.

    Args:
        first: the forward of the first size; order numbers are its.
        second: the forward of the second size.
        sizes: their rows and positions.

    Returns:
        Port cards by module path and port. What fired in one of them only, or not equally often, is left out: it
        depends on the data.
    """
    owned = _engine_identities(first)
    others = second.calls()
    found: dict[tuple[str, str], PortCard] = {}
    for (module, port), firsts in first.calls().items():
        seconds = others.get((module, port), [])
        if len(firsts) != len(seconds) or not firsts[0].leaves:
            continue
        leaves = _leaves(firsts, seconds, sizes, owned)
        arities = {event.arity for event in [*firsts, *seconds]}
        found[module, port] = PortCard(
            order=tuple(event.order for event in firsts),
            leaves=leaves,
            primary=_primary(port, leaves),
            arity=firsts[0].arity if len(arities) == 1 else None,
        )
    return found
