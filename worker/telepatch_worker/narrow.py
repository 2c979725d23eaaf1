"""The narrow head: logits of the positions that jobs look at, and of no others.

A vocabulary is wide: of a small model, the logits of all positions cost as much as a third of the rest. The model is
told which positions to keep, and what it gives is put where a reader expects it, among positions that nobody looks at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from telepatch_protocol.card import ModelCard
from telepatch_protocol.errors import ExecutionError
from telepatch_protocol.graph import Get
from telepatch_protocol.indexing import Slice
from telepatch_protocol.sites import Place
from telepatch_worker.blank import blank
from telepatch_worker.columns import Columns, few, tokens_of
from telepatch_worker.frame import Frame
from telepatch_worker.head import Head
from telepatch_worker.layout import Rows
from telepatch_worker.leaves import read_leaf, replace_leaf
from telepatch_worker.moments import Moment, location_of

Positions = frozenset[int]


def looked_at(frame: Frame, moment: Moment, length: int) -> Positions | None:
    """The positions that a read of logits takes; None where it may be any.

    Args:
        frame: the scope of the read.
        moment: the read.
        length: positions of the input.
    """
    node = frame.plan.nodes.get(moment.node)
    if not isinstance(node, Get) or moment.view is not None or len(node.index or ()) < 2:
        return None
    try:
        row, at, *_ = frame.index(node.index)
    except ExecutionError:  # it depends on what the forward will bring
        return None
    if isinstance(row, bool) or not isinstance(row, int | Slice):
        return None
    if isinstance(at, Slice):
        ends: list[Any] = [at.start, at.stop, at.step]
        plain = all(one is None or isinstance(one, int) for one in ends)
        return frozenset(range(length)[slice(*ends)]) if plain else None
    if isinstance(at, int) and not isinstance(at, bool) and -length <= at < length:
        return frozenset({at % length})
    return None


@dataclass(frozen=True)
class Wide:
    """Puts the logits of some positions where they are among all.

    Attributes:
        place: of the logits.
        kept: int64 (rows, kept positions), the positions of each row.
        padded: positions of the whole batch.
        tokens: int64 (tokens,), where the others have no logits; None for all.
    """

    place: Place
    kept: torch.Tensor
    padded: int
    tokens: torch.Tensor | None = None

    def pass_by(self, location: str, value: Any) -> Any:
        """What goes on from a place."""
        if location != location_of(self.place):
            return value
        narrow = read_leaf(value, self.place)
        wide = blank((narrow.shape[0], self.padded, narrow.shape[2]), narrow)
        rows = torch.arange(narrow.shape[0], device=narrow.device)[:, None]
        if self.tokens is None:
            wide[rows, self.kept] = narrow
        else:
            wide[rows[..., None], self.kept[..., None], self.tokens] = narrow[..., self.tokens]
        return replace_leaf(value, self.place, wide)


@dataclass(frozen=True)
class Look:
    """An input that takes part in a forward, and what is read and written of it.

    Attributes:
        frame: its scope.
        moments: of it.
        rows: where it lies in the end.
    """

    frame: Frame
    moments: Sequence[Moment]
    rows: Rows


class NarrowHead:
    """Keeps the head of a model narrow.

    Args:
        module: the model.
        card: of the model.
    """

    def __init__(self, module: PreTrainedModel, card: ModelCard) -> None:
        self._head = Head(module)
        self._card = card
        self._logits = {place for place in (_logits(card, self._head.path), _logits(card, "")) if place is not None}
        found = module.get_output_embeddings()
        self._linear = found if type(found) is nn.Linear else None
        self._given = None if self._head.path is None else _given(card, self._head.path)

    def narrow(self, looks: Iterable[Look], device: torch.device) -> tuple[Mapping[str, Any], Sequence[Wide | Columns]]:
        """What to call the model with, and what puts the logits in their places; nothing where it is not worth it.

        Args:
            looks: every input of the forward.
            device: of the model.
        """
        looks = list(looks)
        at_head = [(look, moment) for look in looks for moment in look.moments if self._head.has(moment)]
        places = {moment.place for _, moment in at_head}
        if not self._head.takes or not at_head or not places <= self._logits:
            return {}, ()
        if any(moment.writes for _, moment in at_head):
            return {}, ()
        given, wide = self._positions(at_head, looks[0].rows, places, device)
        columns = self._columns(at_head, device)
        if wide is not None and columns is not None:
            wide = replace(wide, tokens=columns.tokens)
        return given, [one for one in (columns, wide) if one is not None]

    def _positions(
        self, at_head: Sequence[tuple[Look, Moment]], rows: Rows, places: Iterable[Place], device: torch.device
    ) -> tuple[Mapping[str, Any], Wide | None]:
        wanted: list[set[int]] = [set() for _ in range(rows.total)]
        for look, moment in at_head:
            found = looked_at(look.frame, moment, look.rows.length)
            if found is None:
                return {}, None
            for row in range(look.rows.start, look.rows.start + look.rows.count):
                wanted[row] |= found
        if not self._head.by_row:
            wanted = [set().union(*wanted)] * rows.total
        most = max(1, *map(len, wanted))
        if 2 * most > rows.padded:
            return {}, None
        kept = torch.tensor([[*sorted(one), *[0] * (most - len(one))] for one in wanted], device=device)
        first = min(places, key=lambda place: not place.path)  # the head itself comes before the model's end
        given = kept if self._head.by_row else kept[0]
        return {self._head.parameter: given}, Wide(first, kept, rows.padded)

    def _columns(self, at_head: Sequence[tuple[Look, Moment]], device: torch.device) -> Columns | None:
        if self._linear is None or self._given is None:
            return None
        vocabulary = self._linear.out_features
        found = few((tokens_of(look.frame, moment, vocabulary) for look, moment in at_head), vocabulary)
        if found is None:
            return None
        return Columns(self._linear, self._given, torch.tensor(sorted(found), device=device))


def _given(card: ModelCard, path: str) -> Place | None:
    """The place of what a module is given."""
    module = card.by_path.get(path)
    if module is None or module.input is None or len(module.input.order) != 1:
        return None
    return Place(path, "input", module.input.leaves[module.input.primary].path)


def _logits(card: ModelCard, path: str | None) -> Place | None:
    """The place of the logits in what a module returns."""
    module = None if path is None else card.by_path.get(path)
    if module is None or module.output is None or len(module.output.order) != 1:
        return None
    leaf = module.output.leaves[module.output.primary]
    return Place(module.path, "output", leaf.path) if leaf.axes == ("row", "pos", card.vocabulary) else None
