"""Whether rows of different jobs can share a forward of a model at all: measured, not believed.

A module of somebody's own may normalise over its batch, and a quantised one may take its scale from it. Then what one
job gets would depend on its company, so the card says that its jobs run alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from telepatch_protocol.card import PortCard
from telepatch_worker.probe import Record, watch

Ports = Mapping[tuple[str, str], PortCard]


def rows_are_apart(model: nn.Module, inputs: Mapping[str, torch.Tensor | bool], ports: Ports, bound: float) -> bool:
    """Whether the first row gives the same alone as in company, at every place of the model.

    Args:
        model: in eval mode.
        inputs: of several rows, which are the first axis of each tensor.
        ports: of the model's card: which axes of what it computes are rows.
        bound: how far company may move a number, relative to the largest beside it.
    """
    together = _leaves(watch(model, inputs))
    first = {name: value[:1] if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}
    alone = _leaves(watch(model, first))
    return all(
        _close(together[key].narrow(axes.index("row"), 0, 1), alone[key], bound)
        for key, axes in _row_places(ports).items()
        if key in together and key in alone
    )


def _row_places(ports: Ports) -> dict[tuple[str, str, int, str], tuple[object, ...]]:
    """The axes of each tensor of each call that has rows and only axes that are known."""
    return {
        (module, port, call, leaf.path): leaf.axes
        for (module, port), card in ports.items()
        for call in range(len(card.order))
        for leaf in card.leaves
        if leaf.solved and "row" in leaf.axes
    }


def _leaves(record: Record) -> dict[tuple[str, str, int, str], torch.Tensor]:
    tensors = {id(tensor): tensor for tensor in record.tensors}
    return {
        (module, port, call, leaf.path): tensors[leaf.identity]
        for (module, port), events in record.calls().items()
        for call, event in enumerate(events)
        for leaf in event.leaves
    }


def _close(one: torch.Tensor, other: torch.Tensor, bound: float) -> bool:
    if one.shape != other.shape:
        return False
    if not one.is_floating_point():
        return torch.equal(one, other)
    most = float(other.abs().nan_to_num(0, 0, 0).max()) if other.numel() else 0.0
    return torch.allclose(one.double(), other.double(), rtol=0, atol=2 * bound * most + 1e-30, equal_nan=True)
