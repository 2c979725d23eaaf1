"""The logits that a generation needs: those of the last position of each row, and no others if the model lets us."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from telepatch_worker.moments import Moment
from telepatch_worker.past import parameters_of

_PARAMETER = "logits_to_keep"


class Head:
    """Asks a model for the last logits of each row.

    Args:
        module: the model.
    """

    def __init__(self, module: PreTrainedModel) -> None:
        found = module.get_output_embeddings()
        self._path = next((path for path, one in module.named_modules() if one is found and path), None)
        self._takes = _PARAMETER in parameters_of(module)
        # where transformers' own helper slices, positions of each row can be asked for; elsewhere only of all rows
        self._by_row = "slice_logits_to_keep" in inspect.unwrap(type(module).forward).__globals__

    def narrow(self, ends: Sequence[int], moments: Iterable[Moment], device: torch.device) -> dict[str, Any]:
        """What to call the model with, so that it computes no more logits than needed.

        Args:
            ends: positions of each row.
            moments: of all jobs: where one of them looks at the head, it sees all positions.
            device: of the model.
        """
        if not self._takes or max(ends) == 1 or any(self._at_head(moment) for moment in moments):
            return {}
        if min(ends) == max(ends):
            return {_PARAMETER: 1}
        last = torch.tensor(ends, device=device) - 1
        return {_PARAMETER: last[:, None] if self._by_row else last.unique()}

    def last(self, logits: torch.Tensor, ends: Sequence[int], narrowed: Mapping[str, Any]) -> torch.Tensor:
        """float32 (rows, vocabulary): the logits of each row's last position."""
        if min(ends) == max(ends) or (narrowed and self._by_row):
            found = logits[:, -1]
        else:
            last = torch.tensor(ends, device=logits.device) - 1
            kept = torch.searchsorted(narrowed[_PARAMETER], last) if narrowed else last
            found = logits[torch.arange(len(ends), device=logits.device), kept]
        return found.to(torch.float32, copy=True)  # a view would keep all logits of a long prompt alive

    def _at_head(self, moment: Moment) -> bool:
        path = moment.place.path
        return path in ("", self._path) or path.startswith(f"{self._path}.")
