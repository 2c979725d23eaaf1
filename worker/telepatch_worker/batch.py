"""Several invokes in one forward: their rows one below the other, padded on the right."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Generic, Protocol, TypeVar

import torch

from telepatch_protocol.card import ModelCard
from telepatch_worker.layout import Rows
from telepatch_worker.named_inputs import NamedInput
from telepatch_worker.plan import Plan

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Batch(Generic[Key]):
    """What the model is called with, and where each invoke lies in it."""

    inputs: dict[str, Any]
    rows: dict[Key, Rows]


def pack(
    invokes: Mapping[Key, torch.Tensor], card: ModelCard, device: torch.device, *, pad: int = 0, mask: bool = False
) -> Batch[Key]:
    """Put invokes into one batch.

    Padding stands after the real tokens, where causal attention cannot see it, so a causal model needs no mask, and the
    positions are those of a run alone. An encoder gets a mask where lengths differ.

    Args:
        invokes: token ids int64 (rows, positions) of each.
        card: of the model.
        device: where the model is.
        pad: token id that fills up shorter rows.
        mask: whether an encoder gets its mask in any case.
    """
    padded = max(tokens.shape[1] for tokens in invokes.values())
    total = sum(tokens.shape[0] for tokens in invokes.values())
    ids = torch.full((total, padded), pad, dtype=torch.int64)
    real = torch.zeros_like(ids)
    rows: dict[Key, Rows] = {}
    start = 0
    for key, tokens in invokes.items():
        count, length = tokens.shape
        ids[start : start + count, :length] = tokens
        real[start : start + count, :length] = 1
        rows[key] = Rows(start, count, length, total, padded)
        start += count
    inputs: dict[str, Any] = {"input_ids": ids.to(device)}
    if card.kind == "causal":
        inputs["use_cache"] = False
    elif mask or not bool(real.all()):
        inputs["attention_mask"] = real.to(device)
    return Batch(inputs, rows)


def stack(invokes: Mapping[Key, NamedInput], device: torch.device) -> Batch[Key]:
    """Put invokes of named tensors, all of one kin, into one batch: their rows one below the other."""
    total = sum(one.rows for one in invokes.values())
    ends = accumulate(one.rows for one in invokes.values())
    rows = {
        key: Rows(end - one.rows, one.rows, one.length, total, one.length, target=one.target)
        for (key, one), end in zip(invokes.items(), ends, strict=True)
    }
    names = next(iter(invokes.values())).tensors
    inputs = {name: torch.cat([one.tensors[name] for one in invokes.values()]).to(device) for name in names}
    return Batch(dict(inputs), rows)


def groups(plans: Iterable[Plan], *, tokens: int, rows: int) -> list[list[Plan]]:
    """Jobs that run together: those of similar length, up to so many tokens with padding and so many rows; those that
    ask for gradients, or run under eager attention or an adapter, apart from those that do not; those that generate
    last, since they take long.

    Args:
        plans: the jobs.
        tokens: positions of one forward, padding included; a single job may have more.
        rows: rows of one forward; a single job may have more.
    """
    shared = sorted((plan for plan in plans if not plan.alone), key=order)
    kinds: dict[tuple[bool, bool, bool, str | None], list[Plan]] = {}
    for plan in shared:
        kinds.setdefault((plan.generates, plan.grads, plan.eager, plan.adapter), []).append(plan)
    found = {kind: pieces(alike, tokens=tokens, rows=rows) for kind, alike in kinds.items()}
    short = [group for kind in kinds if not kind[0] for group in found[kind]]
    long = [group for kind in kinds if kind[0] for group in found[kind]]
    return short + [[plan] for plan in plans if plan.alone] + long


class Sized(Protocol):
    """What takes rows of a forward."""

    @property
    def rows(self) -> int:
        """How many rows."""

    @property
    def longest(self) -> int:
        """Positions of the longest."""

    @property
    def kin(self) -> object:
        """What must be equal for two to share a forward."""


Piece = TypeVar("Piece", bound=Sized)


def order(one: Sized) -> tuple[int, str]:
    """The longest first, those of one kin together."""
    return -one.longest, str(one.kin)


def pieces(given: Iterable[Piece], *, tokens: int, rows: int, padding: int | None = None) -> list[list[Piece]]:
    """What goes into one forward each: neighbours, up to so many tokens with padding and so many rows.

    Args:
        given: in `order`.
        tokens: positions of one forward, padding included; a single piece may have more.
        rows: rows of one forward; a single piece may have more.
        padding: positions of one forward that are padding: beyond them another forward costs less.
    """
    found: list[list[Piece]] = []
    count = filled = 0
    for one in given:
        count, filled = count + one.rows, filled + one.rows * (found[-1][0].longest - one.longest if found else 0)
        alike = bool(found) and found[-1][0].kin == one.kin and (padding is None or filled <= padding)
        if alike and count <= rows and count * found[-1][0].longest <= tokens:
            found[-1].append(one)
        else:
            found.append([one])
            count, filled = one.rows, 0
    return found


def worthwhile(device: torch.device) -> int | None:
    """How much padding costs less than another forward: little where every position is computed one after the other."""
    return 128 if device.type == "cpu" else None


def halves(plans: Sequence[Plan]) -> tuple[Sequence[Plan], Sequence[Plan]]:
    """The jobs in two parts."""
    middle = len(plans) // 2
    return plans[:middle], plans[middle:]
