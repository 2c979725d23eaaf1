"""Results of recent jobs, and data that they used, kept here so that the next job need not fetch them."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from telepatch_protocol.data_files import Rows
from telepatch_protocol.newest import Newest

Kept = torch.Tensor | Rows[torch.Tensor]
"""A saved value, or a column of an upload."""


EACH_BYTES = 1024
"""About what a result takes, and each of its values, beside its numbers: of very many small ones that is nearly all."""


class Recent:
    """The newest results up to so many bytes.

    Args:
        most_bytes: that they take together.
    """

    def __init__(self, most_bytes: int) -> None:
        self._kept: Newest[str, Mapping[str, Kept]] = Newest(most_bytes)

    def put(self, job: str, saved: Mapping[str, Kept]) -> None:
        """Keep a result, and let the oldest go where it gets too much."""
        own = {name: _own(one) for name, one in saved.items()}
        self._kept.put(job, own, EACH_BYTES * (1 + len(own)) + sum(one.nbytes for one in own.values()))

    def get(self, job: str) -> Mapping[str, Kept] | None:
        """The result of a job, where it is still here."""
        return self._kept.get(job)

    def drop(self, job: str) -> None:
        """Let a result go."""
        self._kept.drop(job)


def _own(value: Kept) -> Kept:
    """A value that holds on to no more than itself: one that is a part of a whole batch would keep all of that."""
    if isinstance(value, torch.Tensor) and value.untyped_storage().nbytes() > 2 * value.nbytes:
        return value.clone(memory_format=torch.contiguous_format)
    return value
