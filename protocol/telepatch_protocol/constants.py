"""Constants: what each form of them stands for."""

from __future__ import annotations

from pydantic import JsonValue

from telepatch_protocol.errors import BadArgument, TooLarge
from telepatch_protocol.meta import shown

MAX_RANGE = 1_000_000
"""How many numbers a range may hold."""


def numbers(bounds: JsonValue) -> list[int]:
    """The integers of ``{"range": [start, stop, step]}``, as Python's `range` gives them."""
    ok = isinstance(bounds, list) and 1 <= len(bounds) <= 3
    if not ok or not isinstance(bounds, list) or not all(type(bound) is int for bound in bounds):
        raise BadArgument(f"a range is a list of one to three integers; found {shown(bounds)}")
    if bounds[2:] == [0]:
        raise BadArgument(f"a range steps by 0; found {shown(bounds)}; give a step of 1 or more, or a negative one")
    found = range(*[bound for bound in bounds if isinstance(bound, int)])
    if found[MAX_RANGE:]:  # a range may have more numbers than its length can say
        raise TooLarge(f"a range of more than {MAX_RANGE:,} numbers; found {shown(bounds)}")
    return list(found)
