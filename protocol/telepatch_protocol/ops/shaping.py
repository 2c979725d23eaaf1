"""Rules of operations that move, join and repeat elements."""

from __future__ import annotations

import math
from collections import Counter

from telepatch_protocol.errors import BadArgument, ShapeError
from telepatch_protocol.meta import Meta
from telepatch_protocol.ops.rules import axes, axis, dims_of, fit, integer, meta, metas, mixed, shapes_fit
from telepatch_protocol.ops.table import Bound
from telepatch_protocol.sizes import Dim, Shape, Size, product, times


def reshaped(args: Bound) -> Meta:
    """The same elements in another shape, where one size may be -1."""
    value = meta(args, "input")
    return Meta(_reshape(value.shape, tuple(dims_of(args, "shape"))), value.dtype)


def unflattened(args: Bound) -> Meta:
    """One axis as several."""
    value, sizes = meta(args, "input"), tuple(dims_of(args, "sizes"))
    if not sizes:
        raise BadArgument("'sizes' is empty; it names the sizes of the new axes")
    if value.shape is None:
        return value
    place = _existing(value.shape, args["dim"])
    return Meta((*value.shape[:place], *_reshape((value.shape[place],), sizes), *value.shape[place + 1 :]), value.dtype)


def flattened(args: Bound) -> Meta:
    """Several axes as one."""
    value = meta(args, "input")
    if value.shape is None:
        return value
    first, last = (axis(value.shape, args[name], name) for name in ("start_dim", "end_dim"))
    if first > last:
        raise ShapeError(f"start_dim {args['start_dim']} comes after end_dim {args['end_dim']} in shape {value.shape}")
    joined = product(value.shape[first : last + 1])
    return Meta((*value.shape[:first], joined, *value.shape[last + 1 :]), value.dtype)


def transposed(args: Bound) -> Meta:
    """Two axes change places."""
    value = meta(args, "input")
    if value.shape is None:
        return value
    first, second = (axis(value.shape, args[name], name) for name in ("dim0", "dim1"))
    dims = list(value.shape)
    if dims:
        dims[first], dims[second] = dims[second], dims[first]
    return Meta(tuple(dims), value.dtype)


def matrix_transposed(args: Bound) -> Meta:
    """The last two axes change places."""
    value = meta(args, "input")
    if value.shape is None:
        return value
    if len(value.shape) < 2:
        raise ShapeError(f"needs two axes, found shape {value.shape}")
    return Meta((*value.shape[:-2], value.shape[-1], value.shape[-2]), value.dtype)


def permuted(args: Bound) -> Meta:
    """All axes in another order."""
    value = meta(args, "input")
    if value.shape is None:
        return value
    order = axes(value.shape, args["dims"], "dims")
    if len(order) != len(value.shape):
        raise ShapeError(f"dims {args['dims']} names {len(order)} axes; shape {value.shape} has {len(value.shape)}")
    return Meta(tuple(value.shape[place] for place in order), value.dtype)


def squeezed(args: Bound) -> Meta:
    """Axes of size one fall away; where a size is unknown, so is whether its axis does."""
    value = meta(args, "input")
    if value.shape is None:
        return value
    named = axes(value.shape, args["dim"])
    if any(isinstance(value.shape[place], Size) for place in named if value.shape):
        return Meta(None, value.dtype)
    return Meta(tuple(dim for place, dim in enumerate(value.shape) if place not in named or dim != 1), value.dtype)


def unsqueezed(args: Bound) -> Meta:
    """A new axis of size one."""
    value = meta(args, "input")
    if value.shape is None:
        return value
    place = axis((*value.shape, 1), args["dim"])
    return Meta((*value.shape[:place], 1, *value.shape[place:]), value.dtype)


def expanded(args: Bound) -> Meta:
    """Axes of size one repeated; -1 keeps an axis as it is."""
    value, sizes = meta(args, "input"), dims_of(args, "size")
    if value.shape is None:
        return Meta(None, value.dtype)
    new = len(sizes) - len(value.shape)
    refused = new < 0 or any(size == -1 for size in sizes[:new])
    pairs = list(zip(value.shape, sizes[max(new, 0) :], strict=False))
    if refused or any(size != -1 and have != 1 and not fit(have, size) for have, size in pairs):
        raise ShapeError(f"shape {value.shape} does not expand to {tuple(sizes)}; only axes of size 1 are repeated")
    need_sizes(sizes, "size", also=-1)
    return Meta((*sizes[:new], *(have if size == -1 else size for have, size in pairs)), value.dtype)


def repeated(args: Bound) -> Meta:
    """The whole value repeated along each axis."""
    value, repeats = meta(args, "input"), dims_of(args, "repeats")
    need_sizes(repeats, "repeats")
    if value.shape is None:
        return value
    new = len(repeats) - len(value.shape)
    if new < 0:
        raise ShapeError(f"repeats {repeats} names {len(repeats)} axes; shape {value.shape} has more")
    return Meta(tuple(map(times, (*(1,) * new, *value.shape), repeats)), value.dtype)


def interleaved(args: Bound) -> Meta:
    """Each element repeated where it stands, along an axis or of the flattened value."""
    value, repeats = meta(args, "input"), integer(args, "repeats")
    need_sizes([repeats], "repeats")
    if value.shape is None:
        return value
    if args["dim"] is None:
        return Meta((times(product(value.shape), repeats),), value.dtype)
    place = axis(value.shape, args["dim"])
    shape = value.shape or (1,)
    return Meta((*shape[:place], times(shape[place], repeats), *shape[place + 1 :]), value.dtype)


def rolled(args: Bound) -> Meta:
    """Elements moved around along axes, or through the flattened value."""
    value, shifts, dims = meta(args, "input"), dims_of(args, "shifts"), args["dims"]
    count = 1 if dims is None else len(dims) if isinstance(dims, list) else 1
    if len(shifts) != count:
        raise BadArgument(f"{len(shifts)} shifts were given for {count} axes")
    return _with_dims(value, dims)


def flipped(args: Bound) -> Meta:
    """Axes in reverse order."""
    return _with_dims(meta(args, "input"), args["dims"])


def joined(args: Bound) -> Meta:
    """Values one after another along an existing axis."""
    values = metas(args)
    dtype = _joined_dtype(values)
    shapes = [value.shape for value in values if value.shape is not None]
    if () in shapes:
        raise ShapeError("a value without axes cannot be concatenated; stack them")
    if len(shapes) < len(values):
        return Meta(None, dtype)
    shapes = [shape for shape in shapes if shape != (0,)] or shapes  # as in PyTorch, an empty vector joins anything
    first = shapes[0]
    place = axis(first, args["dim"])
    total: Dim = 0
    for shape in shapes:
        if not shapes_fit(all_but(shape, place), all_but(first, place)) or len(shape) != len(first):
            raise ShapeError(f"shapes {first} and {shape} differ in more than axis {place}")
        total = total + shape[place]
    return Meta((*first[:place], total, *first[place + 1 :]), dtype)


def stacked(args: Bound) -> Meta:
    """Values of one shape side by side on a new axis."""
    values = metas(args)
    dtype = _joined_dtype(values)
    shapes = [value.shape for value in values if value.shape is not None]
    for shape in shapes:
        if not shapes_fit(shape, shapes[0]):
            raise ShapeError(f"shapes {shapes[0]} and {shape} differ; stacked values have one shape")
    if not shapes:
        return Meta(None, dtype)
    shape = shapes[0]
    place = axis((*shape, 1), args["dim"])
    return Meta((*shape[:place], len(values), *shape[place:]), dtype)


def need_sizes(sizes: list[Dim] | Shape, what: str, also: int | None = None, least: int = 0) -> None:
    """Refuse sizes below zero, or below `least`; `also` is allowed.

    Raises:
        BadArgument: a size that is not allowed.
    """
    for size in sizes:
        if isinstance(size, int) and size < least and size != also:
            raise BadArgument(f"'{what}' holds {size}; sizes are {least} or more")


def all_but(shape: Shape, place: int) -> Shape:
    """A shape without one of its axes."""
    return (*shape[:place], *shape[place + 1 :])


def _reshape(have: Shape | None, want: Shape) -> Shape:
    """`want` with its -1 filled in."""
    need_sizes(want, "shape", also=-1)
    if want.count(-1) > 1:
        raise ShapeError(f"shape {want} holds more than one -1")
    if have is None:
        return tuple(Size.unknown() if dim == -1 else dim for dim in want)
    left, left_sizes = _factors(have)
    right, right_sizes = _factors(tuple(dim for dim in want if dim != -1))
    common = left_sizes & right_sizes
    left_sizes, right_sizes = left_sizes - common, right_sizes - common
    exact = not left_sizes and not right_sizes
    if -1 not in want:
        if exact and left != right and (not common or 0 not in (left, right)):
            raise ShapeError(f"shape {have} has {_count(have)} elements, which do not fill {want}")
        return want
    if exact and (left % right if right else True):
        raise ShapeError(f"shape {have} has {_count(have)} elements, which no -1 in {want} accounts for")
    rest: Dim = Size.unknown(*have)
    if not right_sizes and right and left % right == 0:
        rest = times(product(tuple(left_sizes.elements())), left // right)
    return tuple(rest if dim == -1 else dim for dim in want)


def _factors(shape: Shape) -> tuple[int, Counter[Size]]:
    """A shape's number of elements as a number and unknown sizes to multiply it with."""
    return math.prod(dim for dim in shape if isinstance(dim, int)), Counter(
        dim for dim in shape if isinstance(dim, Size)
    )


def _count(shape: Shape) -> str:
    return str(product(shape))


def _existing(shape: Shape, dim: object) -> int:
    if not shape:
        raise ShapeError("a value without axes has none to split")
    return axis(shape, dim)


def _with_dims(value: Meta, dims: object) -> Meta:
    if value.shape is not None and dims is not None:
        axes(value.shape, dims, "dims")
    return Meta(value.shape, value.dtype)


def _joined_dtype(values: list[Meta]) -> str | None:
    """As PyTorch joins: every value counts as one with axes where all have some, or none has."""
    return mixed(values)
