"""Indices as data: read from the wire, checked against a shape, and what shape they give.

The rules are PyTorch's: integers drop an axis, slices keep it, null adds one, ``...`` stands for the axes in between;
lists, values of integers and boolean masks are advanced indices and broadcast together.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from telepatch_protocol import refs
from telepatch_protocol.dtypes import is_float
from telepatch_protocol.errors import BadArgument, IndexOutOfRange, ShapeError
from telepatch_protocol.meta import Meta
from telepatch_protocol.sizes import Dim, Shape, Size, broadcast, least

if TYPE_CHECKING:
    from pydantic import JsonValue

_PART = rf"(?:-?\d{{1,18}}|\${refs.NAME}(?:\.[A-Za-z0-9_]+)?)?"
_SLICE = re.compile(rf"({_PART}):({_PART})(?::({_PART}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Slice:
    """``start:stop:step``, each a number, a size, a reference's value, or None."""

    start: object = None
    stop: object = None
    step: object = None


_ALL = Slice()


class Picked(int):
    """A number that picks one of an axis, and learns how long the shortest axis is that it picks from."""

    axis: int | None = None

    def seen(self, axis: int) -> None:
        """It picks from an axis of this length."""
        self.axis = axis if self.axis is None else min(axis, self.axis)


Element = object
"""An int, a `Slice`, None, Ellipsis, a list of ints or bools, or whatever stands for a value (`Meta` or a tensor)."""


def parse(index: list[JsonValue], lookup: Callable[[refs.Ref], object]) -> tuple[Element, ...]:
    """Read an index from the wire.

    Args:
        index: its elements as JSON.
        lookup: gives what a reference stands for: a value, a size, or a literal that is itself an element.

    Raises:
        BadArgument: an element that is no index.

    Example:
        ``parse([0, "1:", "..."], lookup)`` is ``(0, Slice(1), Ellipsis)``.
    """
    return tuple(_element(item, lookup) for item in index)


def refs_of(index: list[JsonValue] | None) -> list[refs.Ref]:
    """Every reference inside an index."""
    found: list[refs.Ref] = []

    def note(ref: refs.Ref) -> int:
        found.append(ref)
        return 1

    parse(index or [], note)
    return found


def _element(item: object, lookup: Callable[[refs.Ref], object]) -> Element:
    if item is None or (isinstance(item, int) and not isinstance(item, bool)):
        return item
    if isinstance(item, list):
        return _advanced(item)
    if isinstance(item, str):
        if item == "...":
            return Ellipsis
        if (parts := _slice_parts(item)) is not None:
            return Slice(*(_bound(part, lookup) for part in parts)) if any(parts) else _ALL
        if (ref := refs.parse(item)) is not None:
            return _value(lookup(ref))
    raise BadArgument(f"{item!r} is no index; known: integers, 'a:b:c', '...', null, lists of integers, '$values'")


@lru_cache(4096)
def _slice_parts(text: str) -> tuple[str | None, ...] | None:
    match = _SLICE.fullmatch(text)
    return None if match is None else match.groups()


def _advanced(item: list[object]) -> Element:
    kinds = {type(leaf) for leaf in _flat(item)}
    if item and not kinds:
        raise BadArgument(f"index {item!r} holds no integers; write [] to take nothing of an axis")
    if not kinds <= {int} and not kinds <= {bool}:
        raise BadArgument(f"index {item!r} holds something else than only integers or only booleans")
    _list_shape(item)
    return list(item)


def _value(found: object) -> Element:
    """What a reference gave: a value or a size, or a literal that is itself an element of an index."""
    if isinstance(found, Meta):
        if found.dtype == "uint8" or (found.dtype is not None and is_float(found.dtype)):
            raise BadArgument(
                f"a {found.dtype} value is no index; convert it with .to('int64'), or .to('bool') if a mask"
            )
        return found
    if found is None or isinstance(found, bool | int | float | str | list | tuple | dict):
        return _element(found, _no_lookup)
    return found


def _no_lookup(ref: refs.Ref) -> object:
    raise BadArgument(f"an index that stands in a constant refers to nothing; found '{ref}'")


def _bound(part: str | None, lookup: Callable[[refs.Ref], object]) -> object:
    if not part:
        return None
    if part.startswith("$"):
        ref = refs.parse(part)
        return _limit(lookup(ref)) if ref is not None else None
    return int(part)


def _limit(found: object) -> object:
    """A reference's value as an end of a slice: one integer."""
    if isinstance(found, Meta):
        if found.size is not None:
            return found.size
        if found.shape not in ((), None) or "int" not in (found.dtype or "int"):
            raise BadArgument(f"the end of a slice is one integer; found {found}")
        return Size.unknown()
    if isinstance(found, bool | float | str | list | tuple | dict):
        raise BadArgument(f"the end of a slice is one integer; found {found!r}")
    return found


def result_shape(shape: Shape, index: tuple[Element, ...], what: str) -> Shape:
    """The shape of ``value[index]``.

    Args:
        shape: of the value.
        index: its elements, as `parse` gives them.
        what: names the value in errors.

    Raises:
        IndexOutOfRange: an integer past the end of its axis, or more indices than axes.
        ShapeError: advanced indices that do not broadcast together.
        BadArgument: two ``...``, or a slice that steps backwards.
    """
    items = _expand(shape, index, what)
    kept: list[Dim] = []
    advanced: list[Shape] = []
    places: list[int] = []  # for each advanced index, how many axes are kept before it
    axis = 0
    for item in items:
        if item is None:
            kept.append(1)
            continue
        if isinstance(item, Slice):
            kept.append(_sliced(shape[axis], item))
        elif _is_advanced(item):
            advanced.append(_advanced_shape(shape, axis, item, what))
            places.append(len(kept))
        else:
            _check_integer(shape, axis, item, what)
        axis += _consumed(item)
    if not advanced:
        return tuple(kept)
    together = broadcast(*advanced)
    if together is None:
        raise ShapeError(f"the indices of {what} do not broadcast: {', '.join(map(str, advanced))}")
    # Their common axes stand where the advanced indices stood, or in front if kept axes lie between those.
    first = places[0] if places[0] == places[-1] else 0
    return (*kept[:first], *together, *kept[first:])


def has_unknown_rank(index: tuple[Element, ...]) -> bool:
    """Whether an index holds a value whose number of axes is unknown, so that nothing follows from it."""
    return any(isinstance(item, Meta) and item.shape is None for item in index)


def _expand(shape: Shape, index: tuple[Element, ...], what: str) -> list[Element]:
    used = sum(_consumed(item) for item in index if item is not None and item is not Ellipsis)
    if used > len(shape):
        raise IndexOutOfRange(f"{what} has {len(shape)} axes, shape {shape}; the index names {used}")
    dots = [place for place, item in enumerate(index) if item is Ellipsis]
    if len(dots) > 1:
        raise BadArgument(f"the index of {what} holds more than one '...'")
    fill: list[Element] = [Slice()] * (len(shape) - used)
    items = list(index)
    if dots:
        return [*items[: dots[0]], *fill, *items[dots[0] + 1 :]]
    return [*items, *fill]


def _is_advanced(item: Element) -> bool:
    return isinstance(item, list) or (isinstance(item, Meta) and (item.shape != () or item.dtype == "bool"))


def _consumed(item: Element) -> int:
    if isinstance(item, Meta) and item.dtype == "bool" and item.shape is not None:
        return len(item.shape)
    if isinstance(item, list) and _is_mask(item):
        return len(_list_shape(item))
    return 1


def _is_mask(item: list[object]) -> bool:
    first: object = item
    while isinstance(first, list) and first:
        first = first[0]
    return isinstance(first, bool)


def _list_shape(item: object) -> Shape:
    if not isinstance(item, list):
        return ()
    inner = {_list_shape(one) for one in item}
    if len(inner) > 1:
        raise ShapeError(f"the index {item!r} is ragged")
    return (len(item), *(inner.pop() if inner else ()))


def _advanced_shape(shape: Shape, axis: int, item: Element, what: str) -> Shape:
    if isinstance(item, Meta):
        assert item.shape is not None
        if item.dtype == "bool":
            _check_mask(shape, axis, item.shape, what)
            return (Size.unknown(*item.shape),)
        return item.shape
    assert isinstance(item, list)
    if _is_mask(item):
        _check_mask(shape, axis, _list_shape(item), what)
        return (sum(1 for leaf in _flat(item) if leaf),)
    for one in _flat(item):
        _check_integer(shape, axis, one, what)
    return _list_shape(item)


def _flat(item: object) -> list[object]:
    return [leaf for one in item for leaf in _flat(one)] if isinstance(item, list) else [item]


def _check_mask(shape: Shape, axis: int, mask: Shape, what: str) -> None:
    for offset, have in enumerate(mask):
        want = shape[axis + offset]
        if isinstance(have, int) and isinstance(want, int) and have != want:
            raise IndexOutOfRange(
                f"a mask of shape {mask} does not fit {what}, whose axis {axis + offset} has size {want}"
            )


def _check_integer(shape: Shape, axis: int, item: Element, what: str) -> None:
    dim = shape[axis]
    if isinstance(item, Picked) and isinstance(dim, int):
        item.seen(dim)
    if isinstance(item, int) and isinstance(dim, int) and not -dim <= item < dim:
        raise IndexOutOfRange(f"index {item} is past the end of axis {axis} of {what}, which has size {dim}")


def _sliced(dim: Dim, item: Slice) -> Dim:
    start, stop = item.start, item.stop
    step = 1 if item.step is None else item.step
    if isinstance(step, int) and step < 1:
        raise BadArgument(f"a slice steps by {step}; steps are positive (use flip to reverse)")
    if start is None and stop is None and step == 1:
        return dim
    known = all(bound is None or isinstance(bound, int) for bound in (start, stop, step))
    if isinstance(dim, int) and known:
        return len(range(*slice(start, stop, step).indices(dim)))
    if isinstance(dim, Size) and step == 1:
        return _symbolic(dim, 0 if start is None else start, stop)
    return Size.unknown(dim)


def _symbolic(dim: Size, start: object, stop: object) -> Dim:
    """The length of a slice of an axis of unknown length, taken to be no shorter than the slice's ends ask for."""
    if not isinstance(start, int) or not isinstance(stop, int | None):
        return Size.unknown(dim)
    sure = least(dim)
    if start >= 0 and (stop is None or stop < 0):
        return dim - start if stop is None else dim + stop - start
    if start < 0 and stop is None:
        return -start if -start <= sure else Size.unknown(-start)
    if stop is not None and (start < 0) == (stop < 0):
        length = max(0, stop - start)
        reach = -start if start < 0 else stop
        return length if length == 0 or reach <= sure else Size.unknown(length)
    return Size.unknown(dim)
