"""What a job costs, from its checked graph alone: nothing is run, and no tensor is made.

Sizes that the data decides (how many elements a boolean mask takes) are priced at their upper bound. What nothing
bounds costs nothing here; the worker looks at every value again while it runs.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

from telepatch_protocol.card import ModelCard
from telepatch_protocol.causality import Pass
from telepatch_protocol.check import Checked
from telepatch_protocol.errors import TooLarge
from telepatch_protocol.graph import Node
from telepatch_protocol.jobs import Price
from telepatch_protocol.meta import Meta
from telepatch_protocol.order import refs_of
from telepatch_protocol.sizes import Size

ACTIVATIONS_ALIVE = 4
"""How many copies of a model's widest activation are taken to be alive at once in a forward."""


def price(checked: Checked, card: ModelCard) -> Price:
    """The price of a job.

    Args:
        checked: its graph, checked with the lengths of its inputs known.
        card: of the model that will run it.

    Raises:
        TooLarge: over one of the card's limits; the message has both numbers.
    """
    tokens = [_tokens(one, checked, card) for one in checked.schedule.passes]
    activations = max(
        (_activations(one, count, card) for one, count in zip(checked.schedule.passes, tokens, strict=True)), default=0
    )
    found = Price(
        rows=sum(_rows(one, checked) for one in checked.schedule.passes),
        tokens=sum(tokens),
        passes=len(checked.schedule.passes),
        peak_bytes=_peak(checked) + activations,
        saved_bytes=sum(_bytes(meta) for meta in checked.saves.values()),
        flops=2.0 * card.parameters * sum(tokens) + checked.flops,
    )
    _within(found, card)
    return found


def _within(found: Price, card: ModelCard) -> None:
    limits = card.limits
    for what, have, most in (
        ("rows", found.rows, limits.max_rows),
        ("bytes of values at once", found.peak_bytes, limits.max_bytes),
        ("bytes of saved values", found.saved_bytes, limits.max_saved_bytes),
    ):
        if have > most:
            raise TooLarge(
                f"the job needs {have:,} {what}; the limit of model '{card.id}' is {most:,}. "
                "Save or compute less, or split it into several jobs"
            )


def _rows(one: Pass, checked: Checked) -> int:
    return sum(_known(checked.inputs[invoke].rows, 1) for invoke in one.invokes)


def _tokens(one: Pass, checked: Checked, card: ModelCard) -> int:
    longest = card.limits.max_positions
    sizes = (checked.inputs[invoke] for invoke in one.invokes)
    return sum(_known(size.rows, 1) * _known(size.length, longest) for size in sizes)


def _activations(one: Pass, tokens: int, card: ModelCard) -> int:
    """Bytes of the widest activation up to where the forward stops."""
    place = bisect_right(card.widest, one.stop, key=lambda event: event[0])
    return tokens * card.widest[place - 1][1] * ACTIVATIONS_ALIVE if place else 0


def _peak(checked: Checked) -> int:
    """Most bytes of node values alive at once, each from where it is made to its last use; saved ones to the end."""
    last = {ref.id: place for place, node in enumerate(checked.order) for ref in refs_of(node)}
    kept = {text.lstrip("$").split(".")[0] for text in checked.graph.saves.values()}
    dying: dict[int, list[str]] = {}
    for name, place in last.items():
        dying.setdefault(place, []).append(name)
    sizes = {
        node.id: sum(_bytes(meta) for meta in _metas(checked, node)) for node in checked.order if node.kind != "set"
    }
    alive = peak = 0
    for place, node in enumerate(checked.order):
        alive += sizes.get(node.id, 0)
        peak = max(peak, alive)
        alive -= sum(sizes.get(name, 0) for name in dying.get(place, ()) if name not in kept)
        if node.id not in last and node.id not in kept:
            alive -= sizes.get(node.id, 0)
    return peak


def _metas(checked: Checked, node: Node) -> Iterable[Meta]:
    found = checked.values[node.id]
    candidates = found.values() if isinstance(found, dict) else (found,)
    return [meta for meta in candidates if isinstance(meta, Meta)]


def _bytes(meta: Meta) -> int:
    """Bytes of a value at most; one that nothing bounds counts when it is there."""
    return meta.bytes_at_most({}) or 0


def _known(dim: int | Size, otherwise: int) -> int:
    return dim if isinstance(dim, int) else otherwise
