"""Tokens of a text, as the gateway tells them, and positions by the words that stand there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

from telepatch.lines import points_home
from telepatch_protocol.errors import BadArgument

_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Tokens:
    """One text in tokens.

    Attributes:
        ids: token ids.
        pieces: the text that each stands for.
        offsets: where each begins and ends in the text, in characters.
        text: the text; of chat messages, what the chat template made of them.
    """

    ids: tuple[int, ...]
    pieces: tuple[str, ...]
    offsets: tuple[tuple[int, int], ...]
    text: str = ""

    @staticmethod
    def of(row: dict[str, Any], ids: Sequence[int] | None = None) -> Tokens:
        """From the gateway's answer; of `ids` only the pieces are told, which are the text then."""
        pieces = tuple(row["pieces"])
        offsets = tuple((int(start), int(end)) for start, end in row.get("offsets") or ())
        text = row.get("text", "")
        if not offsets or not text:
            offsets, text = tuple(pairwise(accumulate(map(len, pieces), initial=0))), "".join(pieces)
        return Tokens(tuple(row["ids"] if ids is None else ids), pieces, offsets, text)

    @points_home
    def find(self, text: str, which: int | None = None) -> int:
        """The position of the token in which a piece of text ends, from 0.

        Args:
            text: any part of the whole text; it may lie inside one token or go over several.
            which: of several occurrences, the first (0), the second (1), ... or the last (-1).

        Raises:
            BadArgument: it does not occur, or several times and `which` is left out; the message shows where.

        Example:
            >>> model.tokenize("When Mary and John went").find("Mary")
            1
        """
        return _last(self.span(text, which))

    @points_home
    def find_all(self, text: str) -> list[int]:
        """Positions of all occurrences, as `find` tells them; none, if there are none."""
        return [_last(span) for span in self._spans(text)]

    @points_home
    def span(self, text: str, which: int | None = None) -> slice:
        """The tokens that a piece of text touches, as a slice.

        Args:
            text, which: as `find` takes them.

        Raises:
            BadArgument: as `find`.

        Example:
            >>> name = model.tokenize("When John Smith went").span("John Smith")
            >>> h = model.blocks[3].resid_post[:, name].mean(1)
        """
        found = self._spans(text)
        if not found:
            raise BadArgument(f"{text!r} does not occur in this text; its tokens are {self._listed()}")
        if which is None and len(found) > 1:
            places = ", ".join(f"{_last(span)} ({''.join(self.pieces[span])!r})" for span in found)
            raise BadArgument(
                f"{text!r} occurs {len(found)} times, at {places}; say which=0 for the first, which=-1 for the last, "
                "or take all with find_all"
            )
        if which is not None and not -len(found) <= which < len(found):
            raise BadArgument(f"{text!r} occurs {len(found)} times, counted from 0; there is no which={which}")
        return found[which or 0]

    def _spans(self, text: str) -> list[slice]:
        if not isinstance(text, str) or not text:
            raise BadArgument(f"positions are found by a piece of the text; found {text!r}")
        found: list[slice] = []
        begin = self.text.find(text)
        while begin >= 0:
            end = begin + len(text)
            touched = [at for at, (first, last) in enumerate(self.offsets) if first < end and last > begin]
            if touched and slice(touched[0], touched[-1] + 1) not in found:
                found.append(slice(touched[0], touched[-1] + 1))
            begin = self.text.find(text, end)
        return found

    def _listed(self) -> str:
        shown = " ".join(f"{at}:{piece!r}" for at, piece in enumerate(self.pieces[:_SHOWN]))
        return shown + (f" ... {len(self.pieces)} in all" if len(self.pieces) > _SHOWN else "")

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[int]:
        return iter(self.ids)


class TokenRows(list[Tokens]):
    """Several texts in tokens; positions are asked of all at once where they are the same in all."""

    @points_home
    def find(self, text: str, which: int | None = None) -> int:
        """As `Tokens.find`, where every row has it at one position.

        Raises:
            BadArgument: as `Tokens.find`, or the rows differ; ``[row.find(...) for row in rows]`` has each.
        """
        return _last(self.span(text, which))

    @points_home
    def span(self, text: str, which: int | None = None) -> slice:
        """As `Tokens.span`, where it is the same in every row."""
        found = [row.span(text, which) for row in self]
        if not found or any(span != found[0] for span in found):
            places = ", ".join(str(_last(span)) for span in found) or "nowhere"
            raise BadArgument(f"{text!r} is at different positions in these rows: {places}; ask each row for its own")
        return found[0]


def _last(span: slice) -> int:
    return int(span.stop) - 1
