"""Rules of convolution, pooling, resizing, attention and normalisation with stored statistics."""

from __future__ import annotations

from telepatch_protocol.errors import BadArgument, DtypeError, ShapeError
from telepatch_protocol.meta import Meta
from telepatch_protocol.ops.moments import need_channels
from telepatch_protocol.ops.room import need_room
from telepatch_protocol.ops.rules import chosen, dims_of, fit, integer, meta, metas, need_float, one_dtype, together
from telepatch_protocol.ops.shaping import need_sizes
from telepatch_protocol.ops.table import Bound, Rule
from telepatch_protocol.sizes import Dim, Shape, Size, product

_RESIZED = {"nearest": 0, "nearest-exact": 0, "area": 0, "linear": 1, "bilinear": 2, "bicubic": 2, "trilinear": 3}
"""Ways to interpolate, with the number of axes that each is for (0: one to three)."""


def convolved(count: int) -> Rule:
    """The rule of a convolution over so many axes."""

    def rule(args: Bound) -> Meta:
        value, weight, bias = meta(args, "input"), meta(args, "weight"), args["bias"]
        need_float(*metas(args))
        dtype = one_dtype(metas(args))
        groups = integer(args, "groups")
        need_sizes([groups], "groups", least=1)
        if value.shape is None or weight.shape is None:
            return Meta(None, dtype)
        batch, channels, sizes = _image(value.shape, count)
        if len(weight.shape) != count + 2:
            raise ShapeError(f"'weight' has shape {weight.shape}; it is (out, in / groups, {'size, ' * count}) here")
        _need_groups(channels, weight.shape, groups)
        if isinstance(bias, Meta) and bias.shape is not None and not _is(bias.shape, weight.shape[0]):
            raise ShapeError(f"'bias' has shape {bias.shape}; there are {weight.shape[0]} channels to give")
        out = _slid(sizes, weight.shape[2:], args)
        need_room((*batch, channels, *weight.shape[2:], *out), "windows")
        return Meta((*batch, weight.shape[0], *out), dtype)

    return rule


def pooled(count: int) -> Rule:
    """The rule of a pool over so many axes."""

    def rule(args: Bound) -> Meta:
        value, kernel = meta(args, "input"), _per_axis(args, "kernel_size", count)
        need_float(value)
        need_sizes(kernel, "kernel_size", least=1)
        for size, margin in zip(kernel, _per_axis(args, "padding", count), strict=True):
            if isinstance(size, int) and isinstance(margin, int) and margin > size // 2:
                raise BadArgument(f"'padding' is {margin}, more than half of 'kernel_size', {size}")
        if value.shape is None:
            return value
        batch, channels, sizes = _image(value.shape, count)
        return Meta((*batch, channels, *_slid(sizes, tuple(kernel), args)), value.dtype)

    return rule


def adapted(count: int) -> Rule:
    """The rule of a pool over so many axes that is told what size to give."""

    def rule(args: Bound) -> Meta:
        value, sizes = meta(args, "input"), _per_axis(args, "output_size", count)
        need_float(value)
        need_sizes(sizes, "output_size")
        if value.shape is None:
            return value
        batch, channels, _ = _image(value.shape, count)
        return Meta((*batch, channels, *sizes), value.dtype)

    return rule


def resized(args: Bound) -> Meta:
    """All axes behind the first two made another size."""
    value, mode = meta(args, "input"), chosen(args, "mode", *_RESIZED)
    need_float(value)
    if args["align_corners"] is not None and not mode.endswith(("linear", "cubic")):
        raise BadArgument(f"'align_corners' is for linear and cubic modes; mode is '{mode}'")
    if value.shape is None:
        return value
    count = len(value.shape) - 2
    if not 1 <= count <= 3 or _RESIZED[mode] not in (0, count):
        wanted = _RESIZED[mode] or "one to three"
        raise ShapeError(f"mode '{mode}' is for {wanted} axes behind the first two; found shape {value.shape}")
    sizes = _per_axis(args, "size", count)
    need_sizes(sizes, "size", least=1)
    if 0 in value.shape[1:]:
        raise ShapeError(f"shape {value.shape} is empty, and nothing cannot be made larger")
    return Meta((*value.shape[:2], *sizes), value.dtype)


def attended(args: Bound) -> Meta:
    """Values averaged by how well queries and keys go together: (..., length, size) each."""
    query, key, value, mask = (args[name] for name in ("query", "key", "value", "attn_mask"))
    assert isinstance(query, Meta)
    assert isinstance(key, Meta)
    assert isinstance(value, Meta)
    need_float(query, key, value)
    dtype = one_dtype([query, key, value])
    if mask is not None and args["is_causal"]:
        raise BadArgument("'attn_mask' and 'is_causal' do not go together; put both into one mask")
    if isinstance(mask, Meta) and mask.dtype not in ("bool", dtype, None) and dtype is not None:
        raise DtypeError(f"'attn_mask' holds booleans, or {dtype} to add; found {mask}")
    if query.shape is None or key.shape is None or value.shape is None:
        return Meta(None, dtype)
    if min(len(one) for one in (query.shape, key.shape, value.shape)) < 2:
        raise ShapeError(f"needs (..., length, size); found {query.shape}, {key.shape} and {value.shape}")
    if not fit(query.shape[-1], key.shape[-1]) or not fit(key.shape[-2], value.shape[-2]):
        raise ShapeError(f"queries {query.shape}, keys {key.shape} and values {value.shape} do not go together")
    scores = (*_heads(query.shape, key.shape, value.shape, bool(args["enable_gqa"])), query.shape[-2], key.shape[-2])
    need_room(scores, "scores")
    if isinstance(mask, Meta) and mask.shape is not None:
        both = together(mask.shape, scores)
        if both is None or len(both) > len(scores) or any(not fit(*pair) for pair in zip(both, scores, strict=True)):
            raise ShapeError(f"'attn_mask' has shape {mask.shape}; the scores have {scores}")
    return Meta((*scores[:-1], value.shape[-1]), dtype)


def standardised(args: Bound) -> Meta:
    """A value scaled by stored means and variances, one for each entry of its second axis."""
    value = meta(args, "input")
    need_float(*metas(args))
    dtype = one_dtype(metas(args))
    if value.shape is None:
        return Meta(None, dtype)
    if len(value.shape) < 2:
        raise ShapeError(f"needs a row axis and a channel axis; found shape {value.shape}")
    need_channels(args, value.shape, "running_mean", "running_var", "weight", "bias")
    return Meta(value.shape, dtype)


def _heads(query: Shape, key: Shape, value: Shape, grouped: bool) -> Shape:
    """The axes in front; where heads are grouped, several queries share a key and a value."""
    fronts = [one[:-2] for one in (query, key, value)]
    if not grouped:
        return together(*fronts) or ()
    if min(map(len, fronts)) < 1:
        raise ShapeError(f"'enable_gqa' needs an axis of heads; found {query}, {key} and {value}")
    for shape in (key, value):
        have, want = query[-3], shape[-3]
        if isinstance(have, int) and isinstance(want, int) and (want == 0 or have % want):
            raise ShapeError(f"{want} heads do not share {have} queries evenly")
    return (*(together(*(front[:-1] for front in fronts)) or ()), query[-3])


def _image(shape: Shape, count: int) -> tuple[Shape, Dim, Shape]:
    """Rows (none or one axis), channels, and the axes that a window slides along."""
    if len(shape) not in (count + 1, count + 2):
        raise ShapeError(f"needs (rows, channels, {'size, ' * count}) or without rows; found shape {shape}")
    return shape[: -count - 1], shape[-count - 1], shape[-count:]


def _need_groups(channels: Dim, weight: Shape, groups: Dim) -> None:
    if not isinstance(groups, int):
        return
    given = weight[1] * groups
    if not fit(given, channels):
        raise ShapeError(f"the value has {channels} channels; 'weight' of shape {weight} takes {given}")
    if isinstance(weight[0], int) and weight[0] % groups:
        raise ShapeError(f"{weight[0]} channels do not make {groups} equal groups")


def _slid(sizes: Shape, kernel: Shape, args: Bound) -> Shape:
    """How many places a window takes along each axis."""
    count = len(sizes)
    strides = list(kernel) if args["stride"] is None else _per_axis(args, "stride", count)
    margins = _per_axis(args, "padding", count)
    gaps: list[Dim] = _per_axis(args, "dilation", count) if "dilation" in args else [1] * count
    need_sizes(strides, "stride", least=1)
    need_sizes(margins, "padding")
    need_sizes(gaps, "dilation", least=1)
    up = bool(args.get("ceil_mode"))
    return tuple(map(_places, sizes, kernel, strides, margins, gaps, (up,) * count))


def _places(size: Dim, kernel: Dim, stride: Dim, margin: Dim, gap: Dim, up: bool) -> Dim:
    room = size + margin * 2 - (kernel - 1) * gap - 1
    if isinstance(room, int) and room < 0:
        raise ShapeError(f"a window of {kernel} does not fit into an axis of size {size} with {margin} at each end")
    if stride == 1:
        return room + 1
    if not isinstance(room, int) or not isinstance(stride, int):
        return Size.unknown(size + margin * 2 + 1)
    if not up:
        return room // stride + 1
    found = -(-room // stride) + 1
    # As in PyTorch, the last window begins within the value or the margin before it.
    return found - 1 if isinstance(size + margin, int) and (found - 1) * stride >= _int(size + margin) else found


def _int(size: Dim) -> int:
    assert isinstance(size, int)
    return size


def _per_axis(args: Bound, name: str, count: int) -> list[Dim]:
    """One number for each axis; one alone is for all."""
    found = dims_of(args, name)
    if len(found) == 1:
        return found * count
    if len(found) != count:
        raise BadArgument(f"'{name}' is {found}; it is one number, or {count}")
    return found


def _is(shape: Shape, size: Dim) -> bool:
    return len(shape) == 1 and fit(product(shape), size)
