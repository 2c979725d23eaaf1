"""Named tensors as inputs: what a model without tokens takes, held against what an invoke gives."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

from telepatch_protocol.card import InputCard, ModelCard
from telepatch_protocol.dtypes import is_float, is_integer
from telepatch_protocol.errors import BadArgument, DtypeError, ShapeError, UnknownName
from telepatch_protocol.literals import list_meta
from telepatch_protocol.meta import UNKNOWN, Meta, shown
from telepatch_protocol.sizes import Dim, Shape, Size

ONE_POSITION = 1
"""The length of an input that has no positions: it counts as one, in prices and in budgets."""


def takes(card: ModelCard) -> str:
    """What a model is called with, as error messages say it."""
    if not card.inputs:
        return "text or token ids" if card.tokenizer else "token ids"
    return ", ".join(f"{name} {one.dtype} {one.shape}" for name, one in card.inputs.items())


def named_size(invoke: str, given: Mapping[str, object], card: ModelCard) -> tuple[Dim, Dim, Dim, int]:
    """Rows, positions and target positions of an input of named tensors, and positions beside that prices count.

    Args:
        invoke: its id.
        given: what is known of each tensor: a `Meta`, or a list of numbers.
        card: of the model.

    Raises:
        UnknownName: a name that the model does not take.
        BadArgument, ShapeError, DtypeError: one is missing, or is not what the model takes.
    """
    _check_names(invoke, given, card)
    rows: dict[str, Dim] = {}
    lengths: dict[str, Dim] = {}
    targets: dict[str, Dim] = {}
    for name, value in given.items():
        wanted = card.inputs[name]
        what = f"invoke '{invoke}': '{name}'"
        meta = _meta(what, value, wanted)
        check_dtype(what, value, meta.dtype, wanted)
        sizes = _sizes(what, meta, wanted)
        rows[name] = sizes["row"]
        lengths |= {name: sizes["pos"]} if "pos" in sizes else {}
        targets |= {name: sizes["target"]} if "target" in sizes else {}
    return (
        _common(invoke, "rows", rows),
        _common(invoke, "positions", lengths) if lengths else ONE_POSITION,
        _common(invoke, "target positions", targets) if targets else 0,
        sum(card.inputs[name].positions for name in given),
    )


def check_holds(what: str, counts: Iterable[int], takes: InputCard) -> None:
    """Refuse rows that do not have the places of another input, such as those of an image's patches.

    Args:
        what: the input, as the error says it.
        counts: how often each row has the number.
        takes: the input as the card has it.

    Raises:
        BadArgument: naming the first row that has it more or less often.
    """
    if takes.holds is None:
        return
    for row, count in enumerate(counts):
        if count != takes.holds.times:
            raise BadArgument(
                f"{what}: row {row} has {takes.holds.number} {count} times; each row has it {takes.holds.times} times, "
                "one for each place of what the model makes of its other input"
            )


def check_dtype(what: str, value: object, dtype: str | None, takes: InputCard) -> None:
    """Refuse numbers of a kind that the model does not take.

    Raises:
        DtypeError: with what would have worked.
    """
    if dtype is None or dtype == takes.dtype:
        return
    literal = isinstance(value, list)
    if is_float(takes.dtype):
        ints = is_integer(dtype)
        if is_float(dtype) or (ints and literal and takes.pixels is None) or (dtype == "uint8" and takes.pixels):
            return
        if ints and takes.pixels is not None:
            raise DtypeError(
                f"{what} takes images as uint8 (0 to 255, which are normalised) or as floats (which are taken as they "
                f"are); found {'a list of integers' if literal else dtype}"
            )
        raise DtypeError(f"{what} takes {takes.dtype}, found {dtype}; convert it to floating point")
    if is_integer(takes.dtype) and is_integer(dtype):
        return
    raise DtypeError(f"{what} takes {takes.dtype}, found {dtype}")


def _check_names(invoke: str, given: Mapping[str, object], card: ModelCard) -> None:
    for name in given:
        if name not in card.inputs:
            near = difflib.get_close_matches(name, card.inputs, n=1)
            hint = f" (did you mean '{near[0]}'?)" if near else ""
            raise UnknownName(f"invoke '{invoke}': model '{card.id}' takes no '{name}'{hint}; it takes {takes(card)}")
    if not given:
        raise BadArgument(f"invoke '{invoke}' gives no tensor; model '{card.id}' takes {takes(card)}")
    missing = [name for name, one in card.inputs.items() if not one.optional and name not in given]
    if missing:
        raise BadArgument(f"invoke '{invoke}' lacks '{missing[0]}'; model '{card.id}' takes {takes(card)}")


def _meta(what: str, value: object, takes: InputCard) -> Meta:
    if isinstance(value, Meta):
        return value
    if isinstance(value, list):
        return list_meta(value)
    if value is None:
        return UNKNOWN
    raise BadArgument(f"{what} is a tensor of shape {takes.shape}; found {shown(value)}")


def _sizes(what: str, meta: Meta, takes: InputCard) -> dict[str, Dim]:
    """Rows, and positions and target positions where the input has such axes."""
    if meta.shape is None:
        return {axis: Size.unknown() for axis in takes.axes if isinstance(axis, str)}
    shape: Shape = (1, *meta.shape) if len(meta.shape) == len(takes.axes) - 1 else meta.shape
    if len(shape) != len(takes.axes) or not all(
        isinstance(axis, str) or isinstance(have, Size) or have == axis
        for have, axis in zip(shape, takes.axes, strict=True)
    ):
        raise ShapeError(f"{what} has shape {takes.shape}, found {meta.shape}{_hint(meta.shape, takes)}")
    if 0 in shape:
        raise ShapeError(f"{what} is empty: its shape is {meta.shape}")
    own: dict[str, list[Dim]] = {}
    for dim, axis in zip(shape, takes.axes, strict=True):
        if isinstance(axis, str):
            own.setdefault(axis, []).append(dim)
    return {axis: _common(what, "positions", dict(enumerate(dims))) for axis, dims in own.items()}


def _hint(shape: Shape, takes: InputCard) -> str:
    """What is wrong where an image has its channels last, as many libraries keep it."""
    wanted = takes.axes[1:]
    if len(wanted) != 3 or len(shape) not in (3, 4):
        return ""
    *_, height, width, channels = shape
    if (channels, height, width) == wanted:
        order = ".transpose(2, 0, 1)" if len(shape) == 3 else ".transpose(0, 3, 1, 2)"
        return f"; channels come before height and width: image{order}"
    return ""


def _common(what: str, axis: str, sizes: Mapping[str, Dim] | Mapping[int, Dim]) -> Dim:
    """The one size that all have; a known one where there is one."""
    known = {name: size for name, size in sizes.items() if isinstance(size, int)}
    if len(set(known.values())) > 1:
        listed = ", ".join(
            f"{size} in '{name}'" if isinstance(name, str) else str(size) for name, size in known.items()
        )
        raise ShapeError(f"{what}: its tensors have different numbers of {axis}: {listed}")
    return next(iter(known.values()), next(iter(sizes.values())))
