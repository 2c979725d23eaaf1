"""Tokens of a text, as the gateway tells them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Tokens:
    """One text in tokens.

    Attributes:
        ids: token ids.
        pieces: the text that each stands for.
        offsets: where each begins and ends in the text, in characters.
    """

    ids: tuple[int, ...]
    pieces: tuple[str, ...]
    offsets: tuple[tuple[int, int], ...]

    @staticmethod
    def of(row: dict[str, Any]) -> Tokens:
        """From the gateway's answer."""
        offsets = tuple((int(start), int(end)) for start, end in row.get("offsets") or ())
        return Tokens(tuple(row["ids"]), tuple(row["pieces"]), offsets)

    def find(self, piece: str) -> int:
        """The position of the first token whose text is `piece`, from 0.

        Raises:
            ValueError: there is none.
        """
        if piece not in self.pieces:
            raise ValueError(f"no token is {piece!r}; there are: {' '.join(map(repr, self.pieces))}")
        return self.pieces.index(piece)

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[int]:
        return iter(self.ids)
