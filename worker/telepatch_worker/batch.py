"""Several invokes in one forward: their rows one below the other, padded on the right."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch

from telepatch_protocol.card import ModelCard
from telepatch_worker.layout import Rows
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


def groups(plans: Iterable[Plan], *, tokens: int, rows: int) -> list[list[Plan]]:
    """Jobs that run together: those under one kind of attention and of similar length, up to so many tokens and rows.

    Args:
        plans: the jobs.
        tokens: positions of one forward, padding included; a single job may have more.
        rows: rows of one forward; a single job may have more.
    """
    found: list[list[Plan]] = []
    shared = sorted((plan for plan in plans if not plan.alone), key=lambda plan: (plan.eager, -plan.longest))
    for plan in shared:
        last = found[-1] if found and found[-1][0].eager == plan.eager else []
        count = sum(one.rows for one in last) + plan.rows
        if last and count <= rows and count * last[0].longest <= tokens:
            last.append(plan)
        else:
            found.append([plan])
    return found + [[plan] for plan in plans if plan.alone]


def halves(plans: Sequence[Plan]) -> tuple[Sequence[Plan], Sequence[Plan]]:
    """The jobs in two parts."""
    middle = len(plans) // 2
    return plans[:middle], plans[middle:]
