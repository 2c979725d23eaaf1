"""How jobs end, and whom they tell of it and of what comes before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from telepatch_protocol.errors import ErrorRecord, TelepatchError
from telepatch_worker.checkpoints import Keep

Progress = Callable[[str, int, int], None]
"""Told the id of a job, how many of its forwards are done, and how many there are."""

Values = Callable[[str, dict[str, Any]], None]
"""Told the id of a job, and small values of it as they come: tokens of its generations, and what it emits."""


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes:
        id: of the job.
        saved: tensors by name, on the model's device; None where it failed.
        error: why it failed; None where it did not.
        warnings: what is allowed but surely not meant.
        seconds: time it took, that of shared forwards included.
        copied: gives `saved` in memory of the host, where it is on its way there.
    """

    id: str
    saved: dict[str, torch.Tensor] | None
    error: TelepatchError | None = None
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0
    copied: Callable[[], dict[str, torch.Tensor]] | None = None

    def at_hand(self) -> dict[str, torch.Tensor]:
        """What was saved, in memory of the host as far as that was begun; may wait for it."""
        return (self.saved or {}) if self.copied is None else self.copied()

    @property
    def record(self) -> ErrorRecord | None:
        """The error as data."""
        return None if self.error is None else self.error.record()


def quiet(job: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


def unseen(job: str, values: dict[str, Any]) -> None:
    """Values that nobody watches."""


def unkept(job: str, checkpoints: bytes, seconds: float) -> None:
    """Checkpoints that nobody keeps."""


def unheard(outcome: Outcome) -> None:
    """An end that nobody waits for."""


def always() -> bool:
    """Go on."""
    return True


def boundless() -> int:
    """As much at once as goes into a forward."""
    return 2**31 - 1


class Settled:
    """Where it is told how jobs ended."""

    def __init__(self, ended: Callable[[Outcome], None]) -> None:
        self._ended = ended

    def add(self, outcome: Outcome) -> None:
        """One more."""
        self._ended(outcome)


@dataclass(frozen=True)
class Desk:
    """Whom jobs that run talk to; `room` says how many tokens of a map go into one turn."""

    cancelled: Callable[[], set[str]]
    progress: Progress
    values: Values
    keep: Keep
    settled: Settled
    room: Callable[[], int] = boundless
