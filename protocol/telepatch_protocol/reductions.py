"""How the outputs of a map's elements become the map's outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from telepatch_protocol.dtypes import is_float
from telepatch_protocol.errors import BadArgument, DtypeError, ShapeError
from telepatch_protocol.graph import Map
from telepatch_protocol.meta import Meta
from telepatch_protocol.sizes import Dim, Shape, Size, product

WEIGHT = "weight"
"""The output by which others are weighted."""

LENGTHS = "lengths"
"""What the lengths of the parts of a concatenated output are called, behind its name and a dot."""


@dataclass(frozen=True, slots=True)
class Part:
    """What a group of elements gives.

    Attributes:
        out: outputs by name, as an element that stands for the group has them.
        count: how many elements there are.
        first: whether it is the first that stands for its group; others show whether its elements are alike.
    """

    out: Mapping[str, Meta]
    count: int
    first: bool = True


def reduced(node: Map, parts: list[Part], lead: Shape) -> dict[str, Meta]:
    """What a map's outputs will be.

    Raises:
        BadArgument: a reduction of something that is no output.
        ShapeError: elements of different shapes where they have to be alike.
    """
    names = list(parts[0].out)
    if unknown := sorted(node.reduce.keys() - set(names)):
        raise BadArgument(f"map '{node.id}' reduces '{unknown[0]}', which is no output; there are: {', '.join(names)}")
    found: dict[str, Meta] = {}
    for name in names:
        metas = [(part.out[name], part.count) for part in _telling(parts, name)]
        how = node.reduce.get(name, "stack")
        if how == "cat":
            alike = all(part.first for part in _telling(parts, name))
            found[name] = _joined(node, name, metas, lead, alike)
            found[f"{name}.{LENGTHS}"] = Meta((product(lead),), "int64")
            continue
        shape = _common(node, name, how, [meta for meta, _ in metas])
        dtype = metas[0][0].dtype if all(meta.dtype == metas[0][0].dtype for meta, _ in metas) else None
        if how == "stack":
            found[name] = Meta(None if shape is None else (*lead, *shape), dtype)
        else:
            found[name] = Meta(shape, _folded(node, name, how, dtype))
    if "weighted" in node.reduce.values():
        _check_weight(node, [part.out.get(WEIGHT) for part in parts])
    return found


def _check_weight(node: Map, weights: list[Meta | None]) -> None:
    for weight in weights:
        if weight is None:
            raise BadArgument(f"map '{node.id}' weighs an output, but its body has no output '{WEIGHT}' to weigh by")
        if weight.shape is not None and isinstance(count := product(weight.shape), int) and count != 1:
            raise ShapeError(f"map '{node.id}': the weight of an element is one number; found {weight}")


def _telling(parts: list[Part], name: str) -> list[Part]:
    """The parts without those that give the same as the one before them in their group."""
    found: list[Part] = []
    for part in parts:
        if part.first or part.out[name] != found[-1].out[name]:
            found.append(part)
    return found


def _common(node: Map, name: str, how: str, metas: list[Meta]) -> Shape | None:
    """The one shape that all elements have."""
    shapes = [meta.shape for meta in metas if meta.shape is not None]
    if len(shapes) < len(metas):
        return None
    first = shapes[0]
    for other in shapes[1:]:
        known = zip(first, other, strict=False)
        if len(first) != len(other) or any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in known):
            raise ShapeError(
                f"map '{node.id}' takes '{name}' of all elements together ({how}), and they have shapes {first} and "
                f"{other}; index them alike, such as [:, -1], or reduce with 'cat'"
            )
    dims = zip(*shapes, strict=True)
    return tuple(next((dim for dim in axis if isinstance(dim, int)), axis[0]) for axis in dims)


def _joined(node: Map, name: str, metas: list[tuple[Meta, int]], lead: Shape, alike: bool) -> Meta:
    """One below the other along the first axis; of groups whose elements differ in length, no more than is told."""
    first = metas[0][0]
    if any(meta.shape is None for meta, _ in metas):
        return Meta(None, first.dtype)
    shapes = [meta.shape or () for meta, _ in metas]
    if any(not shape for shape in shapes):
        raise ShapeError(f"map '{node.id}' puts '{name}' of all elements one below the other (cat), and it has no axes")
    rest = _common(node, name, "cat", [Meta(shape[1:], first.dtype) for shape in shapes])
    total: Dim = 0
    for shape, (_, count) in zip(shapes, metas, strict=True):
        total = total + shape[0] * count
    known = alike and all(isinstance(dim, int) for dim in (*lead, *(shape[0] for shape in shapes)))
    return Meta((total if known else Size.unknown(total), *(rest or ())), first.dtype)


def _folded(node: Map, name: str, how: str, dtype: str | None) -> str | None:
    """The dtype of a fold: sums count in float32 at least, integers in int64."""
    if dtype is None:
        return None
    if how in ("mean", "weighted"):
        return dtype if dtype == "float64" else "float32"
    if how == "sum":
        return (dtype if dtype == "float64" else "float32") if is_float(dtype) else "int64"
    if dtype == "bool":
        raise DtypeError(f"map '{node.id}': '{name}' is a mask, which has no {how}; convert it with .to('int64')")
    return dtype
