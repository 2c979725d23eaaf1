"""Modules that a sweep picks: ``model.blocks[v.layer]``."""

from __future__ import annotations

from dataclasses import replace

from telepatch.bound import Bound
from telepatch.current import open_builder
from telepatch.hole import Hole
from telepatch.names import missing_site
from telepatch.places import Spot
from telepatch.site import spelled_path
from telepatch.values import Value
from telepatch_protocol.errors import BadArgument


def swept(spot: Spot, key: Value) -> Spot:
    """The module of a list that a value picks, element by element.

    Raises:
        BadArgument: a value that no sweep binds to numbers that are known now.
        UnknownSite: a number that the list does not have.
    """
    here = spelled_path(spot.path)
    if not isinstance(key, Bound) or not key.numbers:
        raise BadArgument(
            f"a module is picked by a number or by a name that a sweep binds to numbers, {here}[v.layer]; to pick by a "
            f"computed value, read all modules at once and index that: {here}[:].output[value]"
        )
    builder = open_builder()
    if builder is not None:
        key.reference_in(builder)
    items = spot.items()
    missing = [number for number in key.numbers if number not in items]
    if missing:
        held = f"holds modules {items[0]} to {items[-1]}" if items else "is no list of modules"
        raise missing_site(f"{here} {held}; {key.spelled} goes to {missing[0]}, which is none of them")
    child = spot.child(str(key.numbers[0]))
    assert child is not None
    assert key._ref is not None
    hole = Hole.of(key.numbers[0], key._ref, key.spelled, key.home)
    return replace(child, path=(*child.path[:-1], hole))
