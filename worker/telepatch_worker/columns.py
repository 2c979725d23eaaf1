"""The columns of the logits that are looked at, where these are few: a logit difference needs two of a vocabulary.

The head is left out, and in its place the rows of its weights that belong to these tokens are applied.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from telepatch_protocol.errors import ExecutionError
from telepatch_protocol.graph import Call, Get
from telepatch_protocol.meta import Meta
from telepatch_protocol.sites import Place
from telepatch_worker.blank import blank
from telepatch_worker.frame import Frame
from telepatch_worker.leaves import leaf_of
from telepatch_worker.moments import Moment, location_of

Tokens = frozenset[int]

_AXES = 3
"""Rows, positions, vocabulary."""


def tokens_of(frame: Frame, moment: Moment, vocabulary: int) -> Tokens | None:
    """The tokens whose logits a read takes; None where it may be any.

    Args:
        frame: the scope of the read.
        moment: the read.
        vocabulary: how many tokens there are.
    """
    node, plan = frame.plan.nodes.get(moment.node), frame.plan
    if not isinstance(node, Get) or moment.view is not None:
        return None
    if len(node.index or ()) == _AXES:
        return _picked(frame, node.index, _AXES, vocabulary)
    users = plan.users.get(node.id, ())
    meta = plan.scope.values.get(node.id)
    if node.id in plan.kept or plan.uses.get(node.id) != len(users) or not users:
        return None
    if not isinstance(meta, Meta) or meta.shape is None or meta.shape[-1] != vocabulary:
        return None
    found: set[int] = set()
    for user in users:
        call = plan.nodes[user]
        if not isinstance(call, Call) or call.op != "index" or call.kwargs or call.args[:1] != (f"${node.id}",):
            return None
        own = _picked(frame, call.args[1], len(meta.shape), vocabulary) if len(call.args) == 2 else None
        if own is None:
            return None
        found |= own
    return frozenset(found)


def _picked(frame: Frame, index: Any, axes: int, vocabulary: int) -> Tokens | None:
    """What an index picks of the last axis, where these are numbers that are known."""
    if not isinstance(index, list):
        return None
    try:
        elements = frame.index(index)
    except ExecutionError:  # it depends on what the forward will bring
        return None
    if not elements or any(one is None for one in elements) or (Ellipsis not in elements and len(elements) != axes):
        return None
    last = elements[-1]
    numbers: list[Any] = last if isinstance(last, list) else [last]
    if not numbers or not all(type(one) is int and -vocabulary <= one < vocabulary for one in numbers):
        return None
    return frozenset(one % vocabulary for one in numbers)


@dataclass
class Columns:
    """Takes the place of the head, for some tokens.

    Attributes:
        head: of the model.
        given: the place of what it is given.
        tokens: int64 (tokens,).
    """

    head: nn.Linear
    given: Place
    tokens: torch.Tensor
    _hidden: torch.Tensor | None = field(default=None, init=False)

    def pass_by(self, location: str, value: Any) -> Any:
        """What goes on from a place."""
        if location == location_of(self.given):
            self._hidden = leaf_of(value, self.given)
        elif self._hidden is not None and location == f"{location_of(self.given).rpartition('.')[0]}.skip":
            hidden, self._hidden = self._hidden, None
            weight, bias = self.head.weight[self.tokens], self.head.bias
            few = nn.functional.linear(hidden, weight, None if bias is None else bias[self.tokens])
            wide = blank((*hidden.shape[:-1], self.head.out_features), few)
            wide[..., self.tokens] = few
            return wide
        return value


def few(wanted: Iterable[Tokens | None], vocabulary: int) -> Tokens | None:
    """All of these, if they are few."""
    found: set[int] = set()
    for one in wanted:
        if one is None:
            return None
        found |= one
    return frozenset(found) if 8 * len(found) <= vocabulary else None
