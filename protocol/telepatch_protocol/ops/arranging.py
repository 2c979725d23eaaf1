"""Rules of operations that stack, tile, turn and pad values as wholes."""

from __future__ import annotations

from telepatch_protocol.errors import BadArgument, DtypeError, ShapeError
from telepatch_protocol.meta import Meta
from telepatch_protocol.ops.rules import axes, axis, chosen, dims_of, integer, meta, metas, mixed
from telepatch_protocol.ops.shaping import expanded, joined, need_sizes, repeated
from telepatch_protocol.ops.table import Bound, Rule
from telepatch_protocol.sizes import Dim, Shape, Size, product


def at_least(shape: Shape, count: int) -> Shape:
    """A shape with as many axes as PyTorch's ``atleast_1d``, ``atleast_2d`` and ``atleast_3d`` give it."""
    if len(shape) >= count:
        return shape
    if count == 3 and len(shape) == 2:
        return (*shape, 1)
    return (1,) * (2 - len(shape) if count == 3 else count - len(shape)) + shape + ((1,) if count == 3 else ())


def _joined_on(args: Bound, raised: list[Meta], dim: int) -> Meta:
    return joined({"tensors": raised, "dim": dim})


def side_by_side(args: Bound) -> Meta:
    """Values one after another along the second axis, vectors along their only one."""
    values = _raised(args, 1)
    flat = all(value.shape is not None and len(value.shape) == 1 for value in values)
    return _joined_on(args, values, 0 if flat else 1)


def on_top(args: Bound) -> Meta:
    """Values one after another along the first axis, vectors as rows."""
    return _joined_on(args, _raised(args, 2), 0)


def in_depth(args: Bound) -> Meta:
    """Values one after another along a third axis."""
    return _joined_on(args, _raised(args, 3), 2)


def as_columns(args: Bound) -> Meta:
    """Vectors as columns beside each other, matrices as they are."""
    values = [
        Meta(None if value.shape is None else (product(value.shape), 1), value.dtype)
        if value.shape is None or len(value.shape) < 2
        else value
        for value in metas(args)
    ]
    return _joined_on(args, values, 1)


def _raised(args: Bound, count: int) -> list[Meta]:
    return [Meta(None if value.shape is None else at_least(value.shape, count), value.dtype) for value in metas(args)]


def tiled(args: Bound) -> Meta:
    """The whole repeated along its last axes, as often as asked."""
    value, times = meta(args, "input"), dims_of(args, "dims")
    need_sizes(times, "dims")
    if value.shape is None:
        return Meta(None, value.dtype)
    padded = [1] * (len(value.shape) - len(times)) + times
    return repeated({"input": value, "repeats": padded})


def spread_out(args: Bound) -> Meta:
    """Axes of size one repeated to fill a shape."""
    return expanded({"input": meta(args, "input"), "size": args["shape"]})


def like_other(args: Bound) -> Meta:
    """Axes of size one repeated to fill the shape of another value."""
    value, other = meta(args, "input"), meta(args, "other")
    if other.shape is None:
        return Meta(None, value.dtype)
    return expanded({"input": value, "size": list(other.shape)})


def moved(args: Bound) -> Meta:
    """Some axes put elsewhere, the others kept in order."""
    value = meta(args, "input")
    if value.shape is None:
        return value
    source, target = axes(value.shape, args["source"], "source"), axes(value.shape, args["destination"], "destination")
    if len(source) != len(target):
        raise BadArgument(f"'source' names {len(source)} axes and 'destination' {len(target)}")
    if not value.shape:
        return value
    places = dict(zip(target, source, strict=True))
    rest = iter(place for place in range(len(value.shape)) if place not in source)
    order = [places[place] if place in places else next(rest) for place in range(len(value.shape))]
    return Meta(tuple(value.shape[place] for place in order), value.dtype)


def turned(args: Bound) -> Meta:
    """Turned by quarters in the plane of two axes."""
    value, dims, quarters = meta(args, "input"), args["dims"], integer(args, "k")
    if value.shape is None:
        return value
    if len(value.shape) < 2:
        raise ShapeError(f"needs two axes, found shape {value.shape}")
    plane = axes(value.shape, [0, 1] if dims is None else dims, "dims")
    if len(plane) != 2:
        raise BadArgument(f"'dims' is {dims}; two axes make a plane")
    shape = list(value.shape)
    if not isinstance(quarters, int):
        return Meta(None, value.dtype)
    if quarters % 2:
        shape[plane[0]], shape[plane[1]] = shape[plane[1]], shape[plane[0]]
    return Meta(tuple(shape), value.dtype)


def mirrored(count: int) -> Rule:
    """The rule of a mirror image of a value of at least `count` axes."""

    def rule(args: Bound) -> Meta:
        value = meta(args, "input")
        if value.shape is not None and len(value.shape) < count:
            raise ShapeError(f"needs {'an axis' if count == 1 else 'two axes'}, found shape {value.shape}")
        return Meta(value.shape, value.dtype)

    return rule


def windows(args: Bound) -> Meta:
    """Every window along an axis, as a new last axis."""
    value, size, step = meta(args, "input"), integer(args, "size"), integer(args, "step")
    need_sizes([size], "size")
    need_sizes([step], "step", least=1)
    if value.shape is None:
        return value
    place = axis(value.shape, args["dimension"], "dimension")
    shape = value.shape or (1,)
    have = shape[place]
    if isinstance(have, int) and isinstance(size, int) and size > have:
        raise ShapeError(f"'size' is {size}, but axis {place} of the value has size {have}")
    count = strides(have - size, step)
    return Meta((*value.shape[:place], count, *value.shape[place + 1 :], size) if value.shape else (size,), value.dtype)


def strides(room: Dim, step: Dim) -> Dim:
    """How many places a window takes that moves by steps through this room."""
    if isinstance(room, int) and isinstance(step, int):
        return room // step + 1
    return room + 1 if step == 1 else Size.unknown(room + 1)


def gridded(args: Bound) -> dict[str, Meta]:
    """Each of some vectors, spread over the grid that they span."""
    values = metas(args)
    order = chosen(args, "indexing", "ij", "xy")
    shape = tuple(_length(value) for value in values)
    if order == "xy" and len(shape) > 1:
        shape = (shape[1], shape[0], *shape[2:])
    _need_one_dtype(values)
    return {str(place): Meta(shape, value.dtype) for place, value in enumerate(values)}


def combined(args: Bound) -> Meta:
    """Every combination of one element of each vector, one per row."""
    values = metas(args)
    for value in values:
        if value.shape == ():
            raise ShapeError("needs vectors; found a value without axes")
    lengths = tuple(_length(value) for value in values)
    _need_one_dtype(values)
    return Meta(lengths if len(values) == 1 else (product(lengths), len(values)), values[0].dtype)


def in_blocks(args: Bound) -> Meta:
    """Matrices along the diagonal of a larger one."""
    values = metas(args)
    rows: Dim = 0
    columns: Dim = 0
    for value in values:
        if value.shape is None:
            return Meta(None, mixed(values))
        if len(value.shape) > 2:
            raise ShapeError(f"needs matrices, vectors or numbers; found shape {value.shape}")
        height, width = at_least(value.shape, 2)
        rows, columns = rows + height, columns + width
    return Meta((rows, columns), mixed([Meta((1,), value.dtype) for value in values]))


def padded(args: Bound) -> Meta:
    """Elements added at both ends of the last axes, counted from the last."""
    value, pads = meta(args, "input"), dims_of(args, "pad")
    mode = chosen(args, "mode", "constant", "reflect", "replicate", "circular")
    if len(pads) % 2:
        raise BadArgument(f"'pad' holds {len(pads)} numbers; each axis takes two, from the last axis on")
    if value.shape is None:
        return value
    count = len(pads) // 2
    if count > len(value.shape):
        raise ShapeError(f"'pad' is for {count} axes; shape {value.shape} has {len(value.shape)}")
    if mode != "constant":
        _need_margin(value, pads, mode)
        if args["value"] not in (None, 0):
            raise BadArgument(f"'value' is {args['value']}, but mode '{mode}' takes what it adds from the value itself")
    shape = list(value.shape)
    for place, (before, after) in enumerate(zip(pads[::2], pads[1::2], strict=True), 1):
        size = shape[-place] + before + after
        if isinstance(size, int) and size < 0:
            raise ShapeError(f"'pad' takes more than there is of axis {len(shape) - place} of shape {value.shape}")
        shape[-place] = size
    return Meta(tuple(shape), value.dtype)


def _need_margin(value: Meta, pads: list[Dim], mode: str) -> None:
    """What is added comes from the value itself, which must have so much to give."""
    assert value.shape is not None
    count = len(pads) // 2
    if not 1 <= count <= 3 or len(value.shape) not in (count + 1, count + 2):
        raise ShapeError(f"mode '{mode}' pads one, two or three axes behind one or two others; found {value.shape}")
    if value.dtype is not None and mode != "circular" and "float" not in value.dtype:
        raise DtypeError(f"mode '{mode}' is for floating-point values, found {value}")
    for place, pair in enumerate(zip(pads[::2], pads[1::2], strict=True), 1):
        have = value.shape[-place]
        for one in pair:
            if isinstance(one, int) and one < 0:
                raise BadArgument(f"'pad' holds {one}; mode '{mode}' only adds")
            most = have - 1 if mode == "reflect" else have
            if isinstance(one, int) and isinstance(most, int) and mode != "replicate" and one > most:
                raise ShapeError(f"'pad' holds {one}; mode '{mode}' adds at most {most} to an axis of size {have}")


def _length(value: Meta) -> Dim:
    if value.shape is None:
        return Size.unknown()
    if len(value.shape) > 1:
        raise ShapeError(f"needs vectors, found shape {value.shape}")
    return value.shape[0] if value.shape else 1


def _need_one_dtype(values: list[Meta]) -> None:
    known = {value.dtype for value in values if value.dtype is not None}
    if len(known) > 1:
        raise DtypeError(f"needs values of one dtype, found {' and '.join(sorted(known))}; convert with .to(...)")
