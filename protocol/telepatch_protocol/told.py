"""Small values that are told while a job runs: how large they may be."""

from __future__ import annotations

from telepatch_protocol.errors import TooLarge
from telepatch_protocol.meta import Meta
from telepatch_protocol.sizes import most_elements

MOST_TOLD = 1024
"""How many numbers one value holds at most that is emitted or logged."""


def check_told(name: str, meta: Meta, how: str) -> None:
    """Refuse a value that is known to be too large; others are looked at when they are there.

    Args:
        name: under which it is told.
        meta: what is known of it.
        how: ``emitted`` or ``logged``.

    Raises:
        TooLarge: with its size.
    """
    numbers = None if meta.shape is None else most_elements(meta.shape)
    if numbers is not None and numbers > MOST_TOLD:
        instead = "give it out" if how == "emitted" else "save it, or log a part or a norm of it"
        raise TooLarge(f"'{name}' is {how} with {numbers:,} numbers; at most {MOST_TOLD:,} are; {instead}")
