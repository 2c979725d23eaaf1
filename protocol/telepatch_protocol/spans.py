"""What a `map` goes over: lists, ranges and leading axes, one after the other or as a grid."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from telepatch_protocol.checked import Key
from telepatch_protocol.data import Column
from telepatch_protocol.errors import BadArgument, ShapeError
from telepatch_protocol.literals import list_meta
from telepatch_protocol.meta import Meta, shown
from telepatch_protocol.sizes import Dim, Size, most


@dataclass(frozen=True, slots=True)
class Span:
    """What one name of a map is bound to, element by element.

    Attributes:
        name: the name.
        count: how many elements there are.
        literals: the elements themselves, where they are known.
        element: what is known of each, where they are parts of one value or rows of data: a `Meta`, or a text.
    """

    name: str
    count: Dim
    literals: Sequence[object] | None = None
    element: object = None

    def at(self, place: int) -> object:
        """One element, or what is known of it."""
        return self.element if self.literals is None else self.literals[place]

    @property
    def numbers(self) -> bool:
        """Whether its elements are integers, so that the least and the largest stand for all of them as indices."""
        return self.literals is not None and all(type(one) is int for one in self.literals)


def span_of(name: str, found: object) -> Span:
    """What a name goes over.

    Args:
        name: the name.
        found: what its value stands for: a `Meta`, a list, or a `Column`.

    Raises:
        BadArgument, ShapeError: nothing that has elements.
    """
    if isinstance(found, Meta):
        if found.shape is None:
            return Span(name, Size.unknown(), None, Meta(None, found.dtype))
        if not found.shape:
            raise ShapeError(f"'{name}' goes over the first axis of a value; {found} has no axes")
        if found.shape[0] == 0:
            raise ShapeError(f"'{name}' goes over the first axis of a value; {found} has no elements")
        return Span(name, found.shape[0], None, Meta(found.shape[1:], found.dtype))
    if isinstance(found, Column):
        row = found.row(Size.unknown(found.longest or 1))
        return Span(name, found.rows, None, "" if row is None else row)
    if isinstance(found, list):
        if not found:
            raise BadArgument(f"'{name}' goes over an empty list; give it at least one element")
        return Span(name, len(found), found)
    raise BadArgument(f"'{name}' goes over a list, a range, data or the first axis of a value; found {shown(found)}")


def key_of(value: object, *, hole: bool, lengths: Mapping[str, int]) -> object:
    """What sets an element apart from others in planning.

    Args:
        value: the element: a number, a text, a list; or anything else, which has no say.
        hole: whether it stands in a site, or a map inside goes over it.
        lengths: numbers of tokens of texts.
    """
    if hole:
        return value if type(value) is int else (type(value).__name__, str(value))
    if isinstance(value, bool | int | float):
        return type(value).__name__  # the dtype of what it stands for
    if isinstance(value, str):
        return (1, lengths.get(value))
    if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
        return (len(value), lengths.get(str(value[0])))
    if isinstance(value, list):
        try:
            found = list_meta(value)
        except BadArgument:
            return str(value)  # chat messages, each of its own length
        return found.shape, found.dtype
    return None


def places(counts: Sequence[int], grid: bool) -> Iterator[tuple[int, ...]]:
    """The places of every element in each list: of the product of all lists, or one after the other."""
    if grid:
        return itertools.product(*map(range, counts))
    return ((at,) * len(counts) for at in range(counts[0]))


@dataclass(frozen=True, slots=True)
class Group:
    """Elements of a map that are planned alike.

    Attributes:
        key: what they have in common.
        count: how many there are, at most.
        samples: places that stand for all of them: one, and those where an integer is least and largest.
    """

    key: Key
    count: int
    samples: tuple[tuple[int, ...], ...]


def groups(
    spans: Sequence[Span], grid: bool, holes: frozenset[str], lengths: Mapping[str, int], unknown: int
) -> list[Group]:
    """The elements of a map, those that are planned alike together.

    Args:
        spans: what its names go over.
        grid: whether it takes every combination.
        holes: names that stand in sites, or that maps inside go over.
        lengths: numbers of tokens of texts.
        unknown: the most elements that a span of unknown length is taken to have.
    """
    counts = [
        span.count if isinstance(span.count, int) else min(unknown, most(span.count) or unknown) for span in spans
    ]
    keys = [
        None
        if span.literals is None
        else [key_of(one, hole=span.name in holes, lengths=lengths) for one in span.literals]
        for span in spans
    ]
    return _of_grid(spans, counts, keys) if grid else _of_rows(spans, min(counts), keys)


_Keys = Sequence[list[object] | None]


def _of_grid(spans: Sequence[Span], counts: Sequence[int], keys: _Keys) -> list[Group]:
    kinds = [_kinds(own, count) for own, count in zip(keys, counts, strict=True)]
    extremes = [_extremes(span, range(count)) for span, count in zip(spans, counts, strict=True)]
    found = []
    for combination in itertools.product(*kinds):
        base = tuple(kind[1] for kind in combination)
        samples = {base: None}
        for axis, ends in enumerate(extremes):
            if keys[axis] is None or len(kinds[axis]) == 1:
                samples |= {(*base[:axis], end, *base[axis + 1 :]): None for end in ends}
        count = 1
        for kind in combination:
            count *= kind[2]
        found.append(Group(tuple(kind[0] for kind in combination), count, tuple(samples)))
    return found


def _kinds(keys: list[object] | None, count: int) -> list[tuple[object, int, int]]:
    """Each different key of a list with its first place and how often it stands there."""
    if keys is None:
        return [(None, 0, count)]
    first: dict[object, int] = {}
    often: dict[object, int] = {}
    for at, key in enumerate(keys):
        first.setdefault(key, at)
        often[key] = often.get(key, 0) + 1
    return [(key, at, often[key]) for key, at in first.items()]


def _of_rows(spans: Sequence[Span], count: int, keys: _Keys) -> list[Group]:
    if all(own is None for own in keys):
        return [Group((None,) * len(spans), count, ((0,) * len(spans),))]
    members: dict[Key, list[int]] = {}
    for at in range(count):
        members.setdefault(tuple(None if own is None else own[at] for own in keys), []).append(at)
    found = []
    for key, rows in members.items():
        samples = {rows[0]: None} | {end: None for span in spans for end in _extremes(span, rows)}
        found.append(Group(key, len(rows), tuple((at,) * len(spans) for at in samples)))
    return found


def _extremes(span: Span, rows: Sequence[int]) -> tuple[int, ...]:
    """The places of the least and the largest integer."""
    if not span.numbers or span.literals is None:
        return ()
    numbers = [(literal, at) for at in rows if isinstance(literal := span.literals[at], int)]
    return (min(numbers)[1], max(numbers)[1]) if numbers else ()
