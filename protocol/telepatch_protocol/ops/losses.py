"""Rules of losses."""

from __future__ import annotations

from telepatch_protocol.errors import BadArgument, DtypeError, ShapeError
from telepatch_protocol.meta import Meta
from telepatch_protocol.ops.room import need_room
from telepatch_protocol.ops.rules import chosen, fit, meta, metas, need_float, one_dtype, shapes_fit, together
from telepatch_protocol.ops.table import Bound, Rule
from telepatch_protocol.sizes import Shape


def cross_entropy(args: Bound) -> Meta:
    """Loss of scores (C), (N, C) or (N, C, ...) against classes, or against probabilities of the same shape."""
    reduction = chosen(args, "reduction", "mean", "sum", "none")
    value, target, weight = meta(args, "input"), args["target"], args["weight"]
    need_float(value, *(one for one in (weight,) if isinstance(one, Meta)))
    shape = value.shape
    if shape == ():
        raise ShapeError("needs scores of at least one axis, found a value without any")
    rows = None if shape is None else (() if len(shape) == 1 else (shape[0], *shape[2:]))
    classes = None if shape is None else shape[0 if len(shape) == 1 else 1]
    _check_target(value, target, rows)
    if isinstance(weight, Meta) and weight.shape is not None and classes is not None:
        one_dtype([value, weight])
        if not shapes_fit(weight.shape, (classes,)):
            raise ShapeError(f"'weight' has shape {weight.shape}; there are {classes} classes")
    return Meta(rows if reduction == "none" else (), value.dtype)


def _check_target(value: Meta, target: object, rows: Shape | None) -> None:
    if not isinstance(target, Meta):
        if not isinstance(target, int) or isinstance(target, bool) or rows not in ((), None):
            raise BadArgument(f"'target' is {target}; scores {value} need classes of shape {rows}")
        return
    if target.dtype is not None and "float" in target.dtype:
        one_dtype([value, target])
        rows = value.shape
    elif target.dtype not in ("int64", None):
        raise DtypeError(f"'target' holds int64 classes or probabilities; found {target}; use .to('int64')")
    if target.shape is not None and rows is not None and not shapes_fit(target.shape, rows):
        raise ShapeError(f"'target' has shape {target.shape}; scores of shape {value.shape} need {rows}")


def kl_div(args: Bound) -> Meta:
    """Divergence of a target from log-probabilities; both broadcast together."""
    value, target = meta(args, "input"), meta(args, "target")
    reduction = chosen(args, "reduction", "mean", "sum", "none", "batchmean")
    need_float(value, target)
    shape = together(value.shape, target.shape)
    if reduction == "batchmean" and value.shape == ():
        raise ShapeError("reduction 'batchmean' needs a leading axis")
    return Meta(shape if reduction == "none" else (), one_dtype([value, target]))


def paired_loss(args: Bound) -> Meta:
    """Loss between two values of one shape."""
    value, target = meta(args, "input"), meta(args, "target")
    reduction = chosen(args, "reduction", "mean", "sum", "none")
    need_float(value, target)
    if value.shape is not None and target.shape is not None and not shapes_fit(value.shape, target.shape):
        raise ShapeError(f"the value has shape {value.shape} and the target {target.shape}; make them one shape")
    return Meta(value.shape if reduction == "none" else (), one_dtype([value, target]))


def class_loss(args: Bound) -> Meta:
    """Loss of log-probabilities (C), (N, C) or (N, C, ...) against numbers of classes."""
    target = args["target"]
    if isinstance(target, Meta) and target.dtype is not None and "float" in target.dtype:
        raise DtypeError(f"'target' holds int64 classes; found {target}")
    return cross_entropy(args)


def margin_of_classes(args: Bound) -> Meta:
    """Loss of scores (C) or (N, C) against numbers of classes, by a margin."""
    value = meta(args, "input")
    if value.shape is not None and len(value.shape) not in (1, 2):
        raise ShapeError(f"needs scores of one row or of several; found shape {value.shape}")
    need_float(value, wide=True)
    if args["p"] not in (1, 2):
        raise BadArgument(f"'p' is {args['p']}; it may be 1 or 2")
    return class_loss({**args, "weight": None})


def broadcast_loss(args: Bound) -> Meta:
    """Loss between two values that broadcast together."""
    value, target = meta(args, "input"), meta(args, "target")
    reduction = chosen(args, "reduction", "mean", "sum", "none")
    need_float(value, target)
    shape = together(value.shape, target.shape)
    need_room(shape, "losses")
    return Meta(shape if reduction == "none" else (), one_dtype([value, target]))


def weighted_loss(args: Bound) -> Meta:
    """As `paired_loss`, with a weight that broadcasts to it."""
    found, weight, value = paired_loss(args), args["weight"], meta(args, "input")
    if isinstance(weight, Meta):
        need_float(weight)
        one_dtype([value, weight])
        if value.shape is not None and weight.shape is not None:
            together(value.shape, weight.shape)
            if len(weight.shape) > len(value.shape):
                raise ShapeError(f"'weight' has shape {weight.shape}; the value has {value.shape}")
    return found


def smoothed(name: str, *, zero: bool) -> Rule:
    """The rule of a loss between two values of one shape, squared below a number and straight above it."""

    def rule(args: Bound) -> Meta:
        edge = args[name]
        if isinstance(edge, int | float) and (edge < 0 or (edge == 0 and not zero)):
            raise BadArgument(f"'{name}' is {edge}; it is {'zero or more' if zero else 'more than zero'}")
        return paired_loss(args)

    return rule


def ranked(args: Bound) -> Meta:
    """Loss of two scores and a sign that says which should be larger, broadcast together."""
    values = [meta(args, name) for name in ("input1", "input2", "target")]
    need_float(*values)
    reduction = chosen(args, "reduction", "mean", "sum", "none")
    _need_one_rank(values)
    shape = together(*(value.shape for value in values))
    need_room(shape, "losses")
    return Meta(shape if reduction == "none" else (), one_dtype(values))


def embedded_pairs(args: Bound) -> Meta:
    """Loss of pairs of vectors, by a sign that says whether they should be alike."""
    left, right, target = meta(args, "input1"), meta(args, "input2"), meta(args, "target")
    need_float(left, right, target)
    reduction = chosen(args, "reduction", "mean", "sum", "none")
    dtype = one_dtype([left, right, target])
    shape = together(left.shape, right.shape)
    if shape is None or target.shape is None:
        return Meta(None if reduction == "none" else (), dtype)
    if len(target.shape) not in (0, 1) or len(shape) != len(target.shape) + 1:
        raise ShapeError(f"needs pairs (N, D) and signs (N), or one pair and one sign; found {shape}, {target.shape}")
    if target.shape and not fit(shape[0], target.shape[0]):
        raise ShapeError(f"there are {target.shape[0]} signs for {shape[0]} pairs")
    return Meta(target.shape if reduction == "none" else (), dtype)


def triplets(args: Bound) -> Meta:
    """Loss of vectors that should be nearer to one than to another, along the last axis."""
    values = [meta(args, name) for name in ("anchor", "positive", "negative")]
    need_float(*values)
    reduction = chosen(args, "reduction", "mean", "sum", "none")
    dtype = one_dtype(values)
    ranks = _need_one_rank(values)
    if 0 in ranks:
        raise ShapeError("needs vectors; found values without axes")
    shape = together(*(value.shape for value in values))
    need_room(shape, "differences")
    return Meta((None if shape is None else shape[:-1]) if reduction == "none" else (), dtype)


def gaussian(args: Bound) -> Meta:
    """Loss of means and variances against what was found."""
    value, variance = meta(args, "input"), meta(args, "var")
    need_float(*metas(args))
    one_dtype(metas(args))
    shape = value.shape
    if shape is not None and variance.shape is not None:
        alike = (shape, shape[:-1], (*shape[:-1], 1))
        if not any(shapes_fit(variance.shape, one) for one in alike):
            raise ShapeError(f"'var' has shape {variance.shape}; the value has {shape}")
    return broadcast_loss(args)


def _need_one_rank(values: list[Meta]) -> set[int]:
    ranks = {len(value.shape) for value in values if value.shape is not None}
    if len(ranks) > 1:
        raise ShapeError(f"needs values of as many axes; found {', '.join(str(value.shape) for value in values)}")
    return ranks
