"""How much an operation may make on its way to a result that is smaller."""

from __future__ import annotations

from telepatch_protocol.errors import TooLarge
from telepatch_protocol.sizes import Shape, most_elements

MOST_ON_THE_WAY = 2**28
"""Elements of the largest intermediate result; the price of a job sees arguments and results only."""


def need_room(shape: Shape | None, what: str) -> None:
    """Refuse an intermediate result that is too large, where its size is known.

    Args:
        shape: of the intermediate result.
        what: it holds, for the message.

    Raises:
        TooLarge: more elements than an operation may make on its way.
    """
    count = None if shape is None else most_elements(shape)
    if count is not None and count > MOST_ON_THE_WAY:
        raise TooLarge(
            f"makes {what} of {count:,} numbers on its way, and {MOST_ON_THE_WAY:,} is the most; compute it in parts"
        )
