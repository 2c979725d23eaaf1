"""What a fit remembers of its steps: the loss of each, what was logged, and what evaluations gave."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from telepatch_protocol.errors import TooLarge
from telepatch_protocol.fitting import EVALUATED, LOGGED, LOSS
from telepatch_worker.folds import stacked

MOST_LOGGED = 4096
"""How many numbers a step may log under one name."""

Tensors = dict[str, torch.Tensor]


class Diary:
    """Numbers by step."""

    def __init__(self) -> None:
        self._losses: list[float] = []
        self._rows: dict[str, list[torch.Tensor]] = {}

    def note(self, loss: float, logged: Mapping[str, torch.Tensor]) -> None:
        """One more step.

        Raises:
            TooLarge: something that is no small value.
        """
        self._losses.append(loss)
        self._add(LOGGED, logged)

    def judge(self, found: Mapping[str, torch.Tensor]) -> None:
        """One more evaluation."""
        self._add(EVALUATED, found)

    def _add(self, kind: str, found: Mapping[str, torch.Tensor]) -> None:
        for name, value in found.items():
            if value.numel() > MOST_LOGGED:
                raise TooLarge(f"'{name}' holds {value.numel():,} numbers at each step; at most {MOST_LOGGED:,} can be")
            self._rows.setdefault(f"{kind}.{name}", []).append(value.clone())

    def kept(self) -> Tensors:
        """As a checkpoint holds it."""
        found = {f"diary.{name}": stacked(rows, (len(rows),)) for name, rows in self._rows.items()}
        return {"losses": torch.tensor(self._losses, dtype=torch.float64), **found}

    def restore(self, kept: Mapping[str, torch.Tensor]) -> None:
        """Go back to what a checkpoint holds."""
        self._losses = kept["losses"].tolist()
        named = {name.removeprefix("diary."): rows for name, rows in kept.items() if name.startswith("diary.")}
        self._rows = {name: list(rows) for name, rows in named.items()}

    def outputs(self, logged: Iterable[str], evaluated: Iterable[str], device: torch.device) -> Tensors:
        """All of it, by the names of a fit's outputs."""
        names = [*(f"{LOGGED}.{name}" for name in logged), *(f"{EVALUATED}.{name}" for name in evaluated)]
        found = {name: _stacked(self._rows.get(name, [])).to(device) for name in names}
        return {LOSS: torch.tensor(self._losses, dtype=torch.float32, device=device), **found}


def _stacked(rows: list[torch.Tensor]) -> torch.Tensor:
    """What came so far; nothing, where a fit ended before its first evaluation."""
    return stacked(rows, (len(rows),)) if rows else torch.zeros(0)
