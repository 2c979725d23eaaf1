"""Results of recent jobs, and data that they used, kept here so that the next job need not fetch them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import torch

from telepatch_protocol.data_files import Rows

Kept = torch.Tensor | Rows[torch.Tensor]
"""A saved value, or a column of an upload."""


class Recent:
    """The newest results up to so many bytes.

    Args:
        most_bytes: that they take together.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._kept: OrderedDict[str, Mapping[str, Kept]] = OrderedDict()
        self._bytes = 0

    def put(self, job: str, saved: Mapping[str, Kept]) -> None:
        """Keep a result, and let the oldest go where it gets too much."""
        self.drop(job)
        size = _bytes(saved)
        if size > self._most:
            return
        self._kept[job] = saved
        self._bytes += size
        while self._bytes > self._most:
            self.drop(next(iter(self._kept)))

    def get(self, job: str) -> Mapping[str, Kept] | None:
        """The result of a job, where it is still here."""
        if job in self._kept:
            self._kept.move_to_end(job)
        return self._kept.get(job)

    def drop(self, job: str) -> None:
        """Let a result go."""
        self._bytes -= _bytes(self._kept.pop(job, {}))


def _bytes(saved: Mapping[str, Kept]) -> int:
    return sum(tensor.nbytes for tensor in saved.values())
