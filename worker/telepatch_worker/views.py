"""Standard names that are part of a tensor, such as the queries of each head: views, for reading and writing alike."""

from __future__ import annotations

import torch

from telepatch_protocol.card import View
from telepatch_protocol.errors import ExecutionError
from telepatch_worker.layout import Rows


def seen(tensor: torch.Tensor, view: View | None, rows: Rows) -> torch.Tensor:
    """The tensor as a view looks at it, sharing its memory; the tensor itself where there is no view.

    Splitting an axis and taking one index of it never copies, whatever the strides, so what is written to the result is
    written to the tensor, and gradients flow through it.

    Args:
        tensor: of the whole batch.
        view: how it is looked at.
        rows: of the batch that it belongs to.

    Raises:
        ExecutionError: the tensor has other sizes in this forward than the card promises.
    """
    if view is None:
        return tensor
    try:
        found: torch.Tensor = tensor.unflatten(0, (rows.total, rows.padded)) if view.tokens else tensor
        found = found.unflatten(-1, view.split) if view.split else found
    except RuntimeError as error:
        raise ExecutionError(f"a site has shape {tuple(tensor.shape)} in this forward, not as on the card") from error
    return found if view.pick is None else found.select(found.ndim - len(view.split) + view.pick[0], view.pick[1])
