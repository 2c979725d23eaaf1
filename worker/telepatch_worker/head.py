"""The logits that a generation needs: those of the last position of each row, and no others if the model lets us."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from telepatch_worker.moments import Moment
from telepatch_worker.past import parameters_of


class Head:
    """What the head of a model can leave out.

    Args:
        module: the model.

    Attributes:
        path: of the head; None where there is none that can be told.
        parameter: by which the model is told which logits to keep.
        takes: whether it can be told so.
        by_row: whether it takes other positions of each row.
    """

    parameter = "logits_to_keep"

    def __init__(self, module: PreTrainedModel) -> None:
        found = module.get_output_embeddings()
        self.path = next((path for path, one in module.named_modules() if one is found and path), None)
        self.takes = self.parameter in parameters_of(module)
        # where transformers' own helper slices, positions of each row can be asked for; elsewhere only of all rows
        self.by_row = "slice_logits_to_keep" in inspect.unwrap(type(module).forward).__globals__

    def narrow(self, ends: Sequence[int], moments: Iterable[Moment], device: torch.device) -> dict[str, Any]:
        """What to call the model with, so that it computes no more logits than needed.

        Args:
            ends: positions of each row.
            moments: of all jobs: where one of them looks at the head, it sees all positions.
            device: of the model.
        """
        if not self.takes or max(ends) == 1 or any(self.has(moment) for moment in moments):
            return {}
        if min(ends) == max(ends):
            return {self.parameter: 1}
        last = torch.tensor(ends, device=device) - 1
        return {self.parameter: last[:, None] if self.by_row else last.unique()}

    def last(self, logits: torch.Tensor, ends: Sequence[int], narrowed: Mapping[str, Any]) -> torch.Tensor:
        """float32 (rows, vocabulary): the logits of each row's last position."""
        if min(ends) == max(ends) or (narrowed and self.by_row):
            found = logits[:, -1]
        else:
            last = torch.tensor(ends, device=logits.device) - 1
            kept = torch.searchsorted(narrowed[self.parameter], last) if narrowed else last
            found = logits[torch.arange(len(ends), device=logits.device), kept]
        return found.to(torch.float32, copy=True)  # a view would keep all logits of a long prompt alive

    def has(self, moment: Moment) -> bool:
        """Whether somebody looks at the head, or at what the model returns."""
        path = moment.place.path
        return path in ("", self.path) or path.startswith(f"{self.path}.")
