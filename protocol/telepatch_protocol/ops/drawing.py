"""Rules of random operations, each of which is told its key."""

from __future__ import annotations

from telepatch_protocol.dtypes import is_float, is_integer
from telepatch_protocol.errors import BadArgument, DtypeError, ShapeError
from telepatch_protocol.meta import Meta
from telepatch_protocol.ops.making import made, not_bool
from telepatch_protocol.ops.mathematics import number_in
from telepatch_protocol.ops.reductions import along
from telepatch_protocol.ops.rules import float_of, integer, meta, need_float, one_dtype, together
from telepatch_protocol.ops.shaping import need_sizes
from telepatch_protocol.ops.table import Bound


def drawn(args: Bound) -> Meta:
    """Random numbers of a floating-point dtype."""
    _check_key(args)
    _need_floating(args["dtype"])
    return made(args)


def drawn_alike(args: Bound) -> Meta:
    """As `drawn`, of another value's shape, and of its dtype where none is asked."""
    _check_key(args)
    value, dtype = meta(args, "input"), args["dtype"]
    if isinstance(dtype, str):
        _need_floating(dtype)
        return Meta(value.shape, dtype)
    need_float(value)
    return Meta(value.shape, value.dtype)


def drawn_integers(args: Bound) -> Meta:
    """Random integers from low up to, but without, high."""
    _check_key(args)
    low, high = args["low"], args["high"]
    if isinstance(low, int) and isinstance(high, int) and low >= high:
        raise BadArgument(f"there is no integer from {low} up to, but without, {high}")
    return Meta(made(args).shape, not_bool(args))


def shuffled(args: Bound) -> Meta:
    """The integers below n in random order."""
    _check_key(args)
    n = integer(args, "n")
    need_sizes([n], "n")
    return Meta((n,), "int64")


def drawn_from(args: Bound) -> Meta:
    """One draw for each element, whose distribution the element decides."""
    _check_key(args)
    value = meta(args, "input")
    need_float(value)
    return Meta(value.shape, value.dtype)


def picked_places(args: Bound) -> Meta:
    """Places along the last axis, by the weights that stand there."""
    _check_key(args)
    value, count = meta(args, "input"), integer(args, "num_samples")
    need_float(value)
    need_sizes([count], "num_samples", least=1)
    if value.shape is None:
        return Meta(None, "int64")
    if len(value.shape) not in (1, 2):
        raise ShapeError(f"needs one row of weights or several; found shape {value.shape}")
    have = value.shape[-1]
    if isinstance(count, int) and isinstance(have, int) and count > have and not args["replacement"]:
        raise BadArgument(f"'num_samples' is {count}, but only {have} can be drawn without replacement")
    return Meta((*value.shape[:-1], count), "int64")


def normal(args: Bound) -> Meta:
    """Normal numbers of given means and standard deviations, at least one of which is a value."""
    _check_key(args)
    values = [one for one in (args["mean"], args["std"]) if isinstance(one, Meta)]
    if not values:
        raise BadArgument("needs a value as 'mean' or 'std'; randn takes a size")
    need_float(*values)
    if isinstance(args["std"], int | float) and args["std"] < 0:
        raise BadArgument(f"'std' is {args['std']}; it is zero or more")
    return Meta(together(*(one.shape for one in values)), one_dtype(values))


def dropped(args: Bound) -> Meta:
    """Some elements zero, the others larger for it."""
    number_in(args, "p", 0, 1)
    return drawn_from(args)


def drawn_softly(args: Bound) -> Meta:
    """A draw of one entry along an axis, as numbers that add up to one."""
    _check_key(args)
    value, tau = meta(args, "logits"), args["tau"]
    need_float(value)
    along(value, args["dim"])
    if isinstance(tau, int | float) and tau <= 0:
        raise BadArgument(f"'tau' is {tau}; it is more than zero")
    return Meta(value.shape, float_of(value.dtype))


def _need_floating(dtype: object) -> None:
    if isinstance(dtype, str) and not is_float(dtype):
        raise DtypeError(f"'dtype' is {dtype}; these numbers are floating point (randint gives integers)")


def _check_key(args: Bound) -> None:
    key = args["key"]
    for part in key if isinstance(key, list) else []:
        if isinstance(part, Meta) and part.dtype is not None and not is_integer(part.dtype):
            raise DtypeError(f"a key holds integers; found {part}")
