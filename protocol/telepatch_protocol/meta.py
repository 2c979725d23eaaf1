"""What is known of a value before anything runs: its shape, its dtype, and for a size its number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from telepatch_protocol.dtypes import ITEM_BYTES
from telepatch_protocol.sizes import Dim, Shape, Size, most_elements, product, substitute


@dataclass(frozen=True, slots=True)
class Meta:
    """A value's shape and dtype.

    Attributes:
        shape: sizes of its axes, integers or symbols; None where even their number is unknown.
        dtype: as PyTorch names it; None where unknown.
        size: the number itself, where the value is a length taken from another value.
    """

    shape: Shape | None
    dtype: str | None
    size: Dim | None = None

    def bytes(self) -> int | None:
        """Bytes that the value takes, or None while a size is unknown."""
        if self.shape is None or self.dtype is None:
            return None
        count = product(self.shape)
        return None if isinstance(count, Size) else count * ITEM_BYTES[self.dtype]

    def bytes_at_most(self, lengths: Mapping[str, int]) -> int | None:
        """Bytes that the value takes at most, given what named lengths are; None where nothing bounds it."""
        if self.shape is None or self.dtype is None:
            return None
        count = most_elements(self.shape, lengths)
        return None if count is None else count * ITEM_BYTES[self.dtype]

    def substitute(self, lengths: Mapping[str, int]) -> Meta:
        """The same value once some lengths are known."""
        shape = None if self.shape is None else tuple(substitute(dim, lengths) for dim in self.shape)
        return Meta(shape, self.dtype, None if self.size is None else substitute(self.size, lengths))

    def __str__(self) -> str:
        shape = "unknown shape" if self.shape is None else f"({', '.join(map(repr, self.shape))})"
        return f"{self.dtype or 'unknown dtype'} {shape}"


UNKNOWN = Meta(None, None)
"""Nothing is known."""


def shown(value: object) -> str:
    """A value as error messages show it: short."""
    text = str(value) if isinstance(value, Meta) else repr(value)
    return text if len(text) < 80 else text[:77] + "..."
