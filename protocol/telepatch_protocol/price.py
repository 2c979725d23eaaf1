"""What a job costs, from its checked graph alone: nothing is run, and no tensor is made.

Sizes that the data decides (how many elements a boolean mask takes) are priced at their upper bound. What nothing
bounds costs nothing here; the worker looks at every value again while it runs.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from telepatch_protocol.card import ModelCard
from telepatch_protocol.causality import Pass
from telepatch_protocol.checked import Checked, Scope
from telepatch_protocol.closing import SAMPLED
from telepatch_protocol.dtypes import ITEM_BYTES
from telepatch_protocol.errors import TooLarge
from telepatch_protocol.fitting import streams
from telepatch_protocol.generating import FIRST
from telepatch_protocol.graph import Fit, Generating, Grad, Map, Node
from telepatch_protocol.jobs import Price
from telepatch_protocol.meta import Meta
from telepatch_protocol.order import refs_of
from telepatch_protocol.sizes import Size
from telepatch_protocol.subgraphs import COMPUTED_TIMES, all_nodes

ACTIVATIONS_ALIVE = 4
"""How many copies of a model's widest activation are taken to be alive at once in a forward."""

_PARTS = ("then", "else", "before", "after", "evaluate")
"""What sub-graphs of nodes that have several are called."""

KEPT_FOR_GRADIENTS = 2
"""How many bytes PyTorch's graph keeps of a forward for each byte that leaves a module; some stay inside modules."""

ROWS_IN_FLIGHT = 256
TOKENS_IN_FLIGHT = 16_384
"""How much of a map runs at once at the most: rows, and positions of all rows."""

MAX_EVALUATIONS = 10_000_000
"""How many nodes a job may evaluate, each as often as loops do: more would take hours, whatever they are."""


def price(checked: Checked, card: ModelCard) -> Price:
    """The price of a job.

    Args:
        checked: its graph, checked with the lengths of its inputs known.
        card: of the model that will run it.

    Raises:
        TooLarge: over one of the card's limits; the message has both numbers.
    """
    kept = {text.lstrip("$").split(".")[0] for text in checked.graph.saves.values()}
    graphs = any(isinstance(node, Grad | Fit) for node in all_nodes(checked.graph))
    cost = _cost(checked.scope, kept, card, graphs, streams(checked.graph, all_nodes(checked.graph)))
    _within(card, "rows", cost.widest, card.limits.max_rows)
    if cost.nodes > MAX_EVALUATIONS:
        raise TooLarge(
            f"the job evaluates up to {cost.nodes:,} nodes, each as often as maps and repeats do; at most "
            f"{MAX_EVALUATIONS:,} can be. A repeat whose n is computed counts as often as its 'most' says, or "
            f"{COMPUTED_TIMES:,} times: give 'most' a lower number"
        )
    found = Price(
        rows=cost.rows,
        tokens=cost.tokens,
        passes=cost.passes,
        peak_bytes=cost.peak,
        saved_bytes=sum(_bytes(meta) for meta in checked.saves.values()),
        flops=2.0 * card.parameters * cost.tokens + cost.flops,
    )
    _within(card, "bytes of values at once", found.peak_bytes, card.limits.max_bytes)
    _within(card, "bytes of saved values", found.saved_bytes, card.limits.max_saved_bytes)
    return found


@dataclass(frozen=True, slots=True)
class _Cost:
    """What a scope costs with all that is in it; `widest`: rows outside of maps, `nodes`: evaluations."""

    rows: int
    tokens: int
    passes: int
    peak: int
    flops: float
    widest: int
    nodes: int


def _within(card: ModelCard, what: str, have: int, most: int) -> None:
    if have > most:
        raise TooLarge(
            f"the job needs {have:,} {what}; the limit of model '{card.id}' is {most:,}. "
            "Save or compute less, or split it into several jobs"
        )


def _cost(scope: Scope, kept: set[str], card: ModelCard, graphs: bool, flowing: frozenset[str]) -> _Cost:
    """What a scope costs; `flowing` are maps whose outputs are never held as a whole."""
    passes = scope.schedule.passes
    tokens = [_tokens(one, scope, card) for one in passes]
    counted = sum(tokens) + sum(_beside(one, scope, card) for one in passes)
    rows = sum(_rows(one, scope) for one in passes)
    alive = [_activations(one, count, card) for one, count in zip(passes, tokens, strict=True)]
    activations = max(alive, default=0)
    if graphs:  # of all forwards, since values keep them
        activations += sum(_graph(one, count, card) for one, count in zip(passes, tokens, strict=True))
    found = _Cost(rows, counted, len(passes), 0, scope.flops, rows, 1 + len(scope.order))
    inside: dict[str, int] = {}
    for node in scope.order:
        for name in (node.id, *(f"{node.id}.{part}" for part in _PARTS)):
            for key, body in scope.bodies.get(name, {}).items():
                one = _cost(body, set(), card, graphs and not isinstance(node, Generating), flowing)
                found, peak = _with(found, one, scope.counts[name][key], _at_once(node, scope))
                inside[node.id] = max(inside.get(node.id, 0), peak)
    made = [node for node in scope.order if isinstance(node, Generating)]
    beside = sum(inside[node.id] + _cache(node, scope, card) for node in made)  # they take their steps together
    inside |= {node.id: beside for node in made}
    inside |= {name: inside.get(name, 0) + held for name, held in scope.beside.items()}
    return replace(found, peak=max(_peak(scope, kept, inside, flowing), activations + _peak(scope, kept, {}, flowing)))


def generations(scope: Scope, card: ModelCard) -> Iterator[tuple[int, int]]:
    """Rows and positions at the end, with its prompt, of every generation in a scope; the unknown counts as one."""
    for node in scope.order:
        if isinstance(node, Generating):
            yield _read(node, scope, card, 1)
        for name in (node.id, *(f"{node.id}.{part}" for part in _PARTS)):
            for body in scope.bodies.get(name, {}).values():
                yield from generations(body, card)


def _cache(node: Generating, scope: Scope, card: ModelCard) -> int:
    """Bytes of what a generation keeps of all that it has read, at its end."""
    rows, positions = _read(node, scope, card, card.limits.max_positions)
    return rows * positions * card.cache_bytes


def _read(node: Generating, scope: Scope, card: ModelCard, unknown: int) -> tuple[int, int]:
    """Rows of a generation, and positions that it has read at its end; the last token is never read."""
    first = scope.bodies[node.id][FIRST].inputs[node.invoke.id]
    longest = _known(first.length, unknown) + sum(scope.counts[node.id].values()) - 1
    return _known(first.rows, 1), min(longest, card.limits.max_positions)


def _at_once(node: Node, scope: Scope) -> int:
    """How many evaluations of a node's sub-graph run at once at the most: all elements of a map, a batch of a fit."""
    if isinstance(node, Fit):
        return scope.counts[f"{node.id}.batch"][()]
    return ROWS_IN_FLIGHT if isinstance(node, Map) else 1


def _with(total: _Cost, one: _Cost, count: int, most: int) -> tuple[_Cost, int]:
    """The cost with a sub-graph that is evaluated so often, and the bytes that it takes while it is."""
    at_once = max(1, min(count, most, _in_flight(one)))
    found = _Cost(
        rows=total.rows + one.rows * count,
        tokens=total.tokens + one.tokens * count,
        passes=total.passes + one.passes * -(-count // at_once),
        peak=0,
        flops=total.flops + one.flops * count,
        widest=max(total.widest, one.widest),
        nodes=total.nodes + one.nodes * count,
    )
    return found, one.peak * at_once


def _in_flight(one: _Cost) -> int:
    """How many elements of a map run at once."""
    by_rows = ROWS_IN_FLIGHT // max(1, one.rows)
    return max(1, min(by_rows, TOKENS_IN_FLIGHT // max(1, one.tokens)))


def _rows(one: Pass, scope: Scope) -> int:
    return sum(_known(scope.inputs[invoke].rows, 1) for invoke in one.invokes)


def _tokens(one: Pass, scope: Scope, card: ModelCard) -> int:
    longest = card.limits.max_positions
    sizes = (scope.inputs[invoke] for invoke in one.invokes)
    return sum(_known(size.rows, 1) * _known(size.length, longest) for size in sizes)


def _beside(one: Pass, scope: Scope, card: ModelCard) -> int:
    """Positions that are none of an input's own: those of images, and of what a decoder is given."""
    sizes = (scope.inputs[invoke] for invoke in one.invokes)
    return sum(_known(size.rows, 1) * (_known(size.target, card.limits.max_positions) + size.beside) for size in sizes)


def _activations(one: Pass, tokens: int, card: ModelCard) -> int:
    """Bytes of the widest activation up to where the forward stops."""
    stop = one.stop
    head, width = card.widest[-1] if card.widest else (0, 0)
    if one.events[-1].node == SAMPLED and width == card.vocabulary * ITEM_BYTES[card.dtype]:
        # a generation has logits of the newest position alone, unless somebody looks at others
        stop = max([head - 1, *(event.order for event in one.events[:-1])])
    place = bisect_right(card.widest, stop, key=lambda event: event[0])
    return tokens * card.widest[place - 1][1] * ACTIVATIONS_ALIVE if place else 0


def _graph(one: Pass, tokens: int, card: ModelCard) -> int:
    """Bytes that a forward leaves behind for gradients, from the first place at which something depends on a value."""
    first = min((event.order for event in one.events if event.tracked or event.writes), default=one.stop)
    return tokens * KEPT_FOR_GRADIENTS * sum(width for order, width in card.leaving if first <= order <= one.stop)


def _peak(scope: Scope, kept: set[str], inside: dict[str, int], flowing: frozenset[str]) -> int:
    """Most bytes of node values alive at once, each from where it is made to its last use; kept ones to the end.

    Args:
        scope: whose nodes.
        kept: nodes whose values are kept.
        inside: bytes that sub-graphs of nodes take while they are evaluated.
        flowing: nodes whose values are never held as a whole.
    """
    last = {ref.id: place for place, node in enumerate(scope.order) for ref in refs_of(node)}
    dying: dict[int, list[str]] = {}
    for name, place in last.items():
        dying.setdefault(place, []).append(name)
    held = [node for node in scope.order if node.kind != "set" and node.id not in flowing]
    sizes = {node.id: sum(_bytes(meta) for meta in _metas(scope, node)) for node in held}
    alive = peak = 0
    for place, node in enumerate(scope.order):
        alive += sizes.get(node.id, 0)
        peak = max(peak, alive + inside.get(node.id, 0))
        alive -= sum(sizes.get(name, 0) for name in dying.get(place, ()) if name not in kept)
        if node.id not in last and node.id not in kept:
            alive -= sizes.get(node.id, 0)
    return peak


def _metas(scope: Scope, node: Node) -> Iterable[Meta]:
    found = scope.values[node.id]
    candidates = found.values() if isinstance(found, dict) else (found,)
    return [meta for meta in candidates if isinstance(meta, Meta)]


def _bytes(meta: Meta) -> int:
    """Bytes of a value at most; one that nothing bounds counts when it is there."""
    return meta.bytes_at_most({}) or 0


def _known(dim: int | Size, otherwise: int) -> int:
    return dim if isinstance(dim, int) else otherwise
