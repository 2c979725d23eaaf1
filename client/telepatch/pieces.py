"""Values taken apart along an axis, for axes whose length is known."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, NoReturn

from telepatch.lines import points_home
from telepatch.operators import Arithmetic
from telepatch_protocol.errors import ShapeError
from telepatch_protocol.sizes import Dim


class Pieces(Arithmetic):
    """What gives several values of one."""

    @abstractmethod
    def __getitem__(self, key: Any) -> Any: ...

    @abstractmethod
    def _dims(self) -> tuple[Dim, ...]:
        """Sizes of the axes."""

    @abstractmethod
    def _refuse(self, what: str, instead: str) -> NoReturn:
        """The error for what cannot be done before anything has run."""

    @points_home
    def unbind(self, dim: int = 0) -> tuple[Any, ...]:
        """The parts along an axis whose length is known.

        Raises:
            TraceError: the length is not known yet.
        """
        size = self._dims()[dim]
        if not isinstance(size, int):
            self._refuse("take apart", "the length of that axis is not known yet; use operations on whole axes")
        whole: tuple[Any, ...] = (slice(None),) * (dim % len(self._dims()))
        return tuple(self[(*whole, at)] for at in range(size))

    @points_home
    def split(self, split_size: int | Sequence[int], dim: int = 0) -> tuple[Any, ...]:
        """Neighbouring pieces along an axis whose length is known.

        Args:
            split_size: length of every piece (the last may be shorter), or the length of each.
            dim: the axis.

        Raises:
            TraceError: the length of the axis is not known yet.
            ShapeError: lengths that do not add up to it.

        Example:
            >>> query, key, value = model.transformer.h[0].attn.c_attn.output.split(48, dim=-1)
        """
        size = self._dims()[dim]
        if not isinstance(size, int):
            self._refuse("split", "the length of that axis is not known yet; use slices")
        if isinstance(split_size, int):
            ends = [*range(split_size, size, split_size), size] if split_size > 0 else []
        else:
            ends = list(itertools.accumulate(split_size))
        if not ends or ends[-1] != size:
            raise ShapeError(f"pieces of {split_size} do not make up axis {dim}, which has size {size}")
        whole: tuple[Any, ...] = (slice(None),) * (dim % len(self._dims()))
        return tuple(self[(*whole, slice(begin, end))] for begin, end in itertools.pairwise([0, *ends]))

    @points_home
    def chunk(self, chunks: int, dim: int = 0) -> tuple[Any, ...]:
        """As many equal pieces along an axis whose length is known; the last may be shorter.

        Raises:
            TraceError: the length of the axis is not known yet.
            ShapeError: a number of pieces below one.
        """
        size = self._dims()[dim]
        if chunks < 1:
            raise ShapeError(f"an axis is cut into one piece or more; found {chunks}")
        return self.split(-(-size // chunks) if isinstance(size, int) else 1, dim)
