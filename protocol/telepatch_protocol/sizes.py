"""Sizes of axes: integers, or symbols for lengths that are not known yet (a prompt's number of tokens)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

_fresh = itertools.count(1)
_NONE: Mapping[str, int] = {}


@dataclass(frozen=True, slots=True)
class Size:
    """A linear expression over unknown lengths: ``Size((("len(x0)", 1),), -1)`` is one less than the length of x0.

    It adds, subtracts and multiplies with integers and other sizes, and has no truth value of its own.

    Attributes:
        terms: names of lengths with their factors, sorted by name.
        offset: what is added to them.
        limits: of lengths that depend on data (how many entries of a mask are set), the sizes whose product they never
            exceed; no part of what makes two sizes equal.
    """

    terms: tuple[tuple[str, int], ...]
    offset: int = 0
    limits: tuple[tuple[str, tuple[int | Size, ...]], ...] = field(default=(), compare=False)

    @staticmethod
    def symbol(name: str) -> Size:
        """A length known only by name; it is at least one."""
        return Size(((name, 1),))

    @staticmethod
    def unknown(*at_most: int | Size) -> Size:
        """A length different from every other, of which nothing is known but that it is at most the product given."""
        name = f"?{next(_fresh)}"
        return Size(((name, 1),), 0, ((name, at_most),) if at_most else ())

    def __add__(self, other: Dim) -> Dim:
        terms, limits = dict(self.terms), self.limits
        if isinstance(other, Size):
            limits = tuple(dict((*limits, *other.limits)).items())
            for name, factor in other.terms:
                terms[name] = terms.get(name, 0) + factor
        offset = self.offset + (other.offset if isinstance(other, Size) else other)
        kept = tuple(sorted((name, factor) for name, factor in terms.items() if factor))
        return Size(kept, offset, limits) if kept else offset

    __radd__ = __add__

    def __neg__(self) -> Size:
        return Size(tuple((name, -factor) for name, factor in self.terms), -self.offset, self.limits)

    def __sub__(self, other: Dim) -> Dim:
        return self + (-other)

    def __rsub__(self, other: Dim) -> Dim:
        return -self + other

    def __mul__(self, factor: Dim) -> Dim:
        if isinstance(factor, Size):
            return Size.unknown(self, factor)
        if factor == 0:
            return 0
        return Size(tuple((name, value * factor) for name, value in self.terms), self.offset * factor, self.limits)

    __rmul__ = __mul__

    def __repr__(self) -> str:
        parts = ["?" if name.startswith("?") else name for name, _ in self.terms]
        signs = [_sign(factor) for _, factor in self.terms]
        text = "".join(sign + part for sign, part in zip(signs, parts, strict=True)).removeprefix("+")
        return text + (f"{self.offset:+d}" if self.offset else "")


Dim = int | Size
Shape = tuple[Dim, ...]


def _sign(factor: int) -> str:
    if abs(factor) == 1:
        return "+" if factor > 0 else "-"
    return f"{factor:+d}*"


def times(left: Dim, right: Dim) -> Dim:
    """The product of two sizes; of two unknown ones, unknown."""
    return left * right


def product(dims: Shape) -> Dim:
    """How many elements a shape holds."""
    total: Dim = 1
    for dim in dims:
        total = times(total, dim)
    return total


def least(dim: Dim) -> int:
    """What a size is at least: named lengths are one or more, those that depend on data may be zero."""
    if isinstance(dim, int):
        return dim
    if any(factor < 0 for _, factor in dim.terms):
        return 0
    return max(0, dim.offset + sum(factor for name, factor in dim.terms if not name.startswith("?")))


def most(dim: Dim, lengths: Mapping[str, int] = _NONE) -> int | None:
    """What a size is at most, or None where nothing bounds it.

    Args:
        dim: the size.
        lengths: what named lengths are, as far as they are known.

    Example:
        A mask of five entries takes at most five: ``most(Size.unknown(5)) == 5``.
    """
    if isinstance(dim, int):
        return dim
    limits = dict(dim.limits)
    total = dim.offset
    for name, factor in dim.terms:
        if factor < 0 and name not in lengths:
            total += factor * (0 if name.startswith("?") else 1)
            continue
        bound = lengths[name] if name in lengths else most_elements(limits[name], lengths) if name in limits else None
        if bound is None:
            return None
        total += factor * bound
    return max(0, total)


def most_elements(shape: Shape, lengths: Mapping[str, int] = _NONE) -> int | None:
    """How many elements a shape holds at most, or None where nothing bounds it."""
    bounds = [most(dim, lengths) for dim in shape]
    known = [bound for bound in bounds if bound is not None]
    if 0 in known:
        return 0
    return math.prod(known) if len(known) == len(bounds) else None


def substitute(dim: Dim, lengths: Mapping[str, int]) -> Dim:
    """The size once some lengths are known; never below zero."""
    if isinstance(dim, int):
        return dim
    total: Dim = dim.offset
    for name, factor in dim.terms:
        part = lengths[name] if name in lengths else Size(((name, 1),), 0, dim.limits)
        total = total + part * factor
    return max(0, total) if isinstance(total, int) else total


def broadcast(*shapes: Shape) -> Shape | None:
    """The common shape by PyTorch's rule, or None where two known sizes do not fit."""
    rank = max((len(shape) for shape in shapes), default=0)
    result: list[Dim] = []
    for axis in range(-rank, 0):
        dims = [shape[axis] for shape in shapes if len(shape) >= -axis]
        fixed = {dim for dim in dims if isinstance(dim, int) and dim != 1}
        symbols = {dim for dim in dims if isinstance(dim, Size)}
        if len(fixed) > 1:
            return None
        if fixed:
            result.append(fixed.pop())
        elif len(symbols) > 1:
            result.append(Size.unknown(*symbols))  # one of them is 1, or all are equal: never more than the product
        else:
            result.append(symbols.pop() if symbols else 1)
    return tuple(result)


def fits_into(shape: Shape, region: Shape) -> bool:
    """Whether a value of `shape` may be written to `region`, broadcast as PyTorch does."""
    whole = broadcast(shape, region)
    if whole is None or any(dim != 1 for dim in shape[: max(0, len(shape) - len(region))]):
        return False
    return all(
        isinstance(have, Size) or isinstance(want, Size) or have == want
        for have, want in zip(whole[len(whole) - len(region) :], region, strict=True)
    )
