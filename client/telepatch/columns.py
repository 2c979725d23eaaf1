"""What a name of a sweep goes over: as the wire has it, and what is known of one element."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import JsonValue

from telepatch import arguments, operations
from telepatch.builder import Builder
from telepatch.values import Value
from telepatch_protocol import refs
from telepatch_protocol.constants import MAX_RANGE
from telepatch_protocol.errors import BadArgument, ShapeError, TooLarge
from telepatch_protocol.literals import list_meta
from telepatch_protocol.meta import Meta, shown
from telepatch_protocol.refs import NAME
from telepatch_protocol.sizes import Dim, Size
from telepatch_protocol.spans import span_of

LISTED = 4096
"""Arrays of one axis up to this size are sent as lists, so that they can pick modules; longer ones as tensors."""


@dataclass(frozen=True, slots=True)
class Column:
    """One name of a sweep.

    Attributes:
        name: as its author chose it.
        wire: as it is called in the document.
        over: the reference that it goes over.
        element: what is known of any one element.
        count: how many there are.
        numbers: the elements themselves, where they are integers.
        form: what an element is as an input.
        plain_number: whether elements are numbers that stand in the document, not parts of a tensor.
    """

    name: str
    wire: str
    over: str
    element: object
    count: Dim
    numbers: tuple[int, ...] = ()
    form: Literal["text", "ids"] = "ids"
    plain_number: bool = False

    @property
    def meta(self) -> Meta:
        """What an author may know of it."""
        if isinstance(self.element, Meta):
            return self.element
        return Meta((), "float32") if isinstance(self.element, float) else Meta(None, None)


def columns(builder: Builder, given: Mapping[str, Any], what: str) -> tuple[Column, ...]:
    """The names of a sweep.

    Raises:
        BadArgument: nothing to go over, or an empty list.
    """
    if not given:
        raise BadArgument(f"this {what} goes over nothing; give it lists by name, such as {what}(layer=range(4))")
    taken: list[str] = []
    for name in given:
        taken.append(wire_name(builder, name, taken))
    return tuple(_column(builder, name, wire, given[name]) for name, wire in zip(given, taken, strict=True))


def wire_name(builder: Builder, name: str, taken: Iterable[str] = ()) -> str:
    """What a bound name is called in the document: as its author called it, unless something else may be called so."""
    plain = re.fullmatch(NAME, name, re.ASCII) and not re.fullmatch(r"[ncxr]\d+|step", name)
    base = name if plain else "v"
    for at in itertools.count():
        found = base if at == 0 else f"{base[:50]}_{at}"
        if found not in builder.checker.values and found not in taken:
            return found
    raise AssertionError


def zipped(found: Iterable[Column], what: str) -> Dim:
    """How many rows there are.

    Raises:
        ShapeError: lists of different lengths.
    """
    counts = {column.name: column.count for column in found}
    known = {count for count in counts.values() if isinstance(count, int)}
    if len(known) > 1:
        listed = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise ShapeError(f"{what} takes its lists together, row by row, and {listed}; give lists of one length")
    return next(iter(known), next(iter(counts.values())))


def _column(builder: Builder, name: str, wire: str, given: Any) -> Column:
    given = arguments.plain(given)
    if isinstance(given, Value):
        return _of_value(builder, name, wire, given)
    if isinstance(given, range):
        if len(given) > MAX_RANGE:
            raise TooLarge(f"'{name}' goes over {len(given):,} numbers; a range has at most {MAX_RANGE:,}")
        return _of_list(builder, name, wire, list(given), {"range": [given.start, given.stop, given.step]})
    if isinstance(given, np.ndarray) and given.dtype.kind not in "UO":
        if given.ndim > 1 or given.size > LISTED or given.dtype.kind not in "iufb":
            return _of_value(builder, name, wire, _attached(builder, given))
        given = given.tolist()
    if isinstance(given, str | bytes | Mapping | set | frozenset) or not isinstance(given, Iterable):
        raise BadArgument(
            f"'{name}' goes over a list, a range, an array or the first axis of a value; found {shown(given)}; "
            f"one element alone is a list of one, [{shown(given)}]"
        )
    return _of_elements(builder, name, wire, given)


def _of_elements(builder: Builder, name: str, wire: str, given: Iterable[Any]) -> Column:
    """A list or anything else that can be gone through, once."""
    most = builder.card.limits.max_elements
    found = [arguments.plain(one) for one in itertools.islice(given, most + 1)]
    if len(found) > most:
        raise TooLarge(f"'{name}' has more than {most:,} elements, which is the limit")
    values = [isinstance(one, Value) for one in found]
    if any(values):
        if not all(values):
            raise BadArgument(f"'{name}' goes over values and other things; give one kind, or telepatch.stack them")
        return _of_value(builder, name, wire, operations.apply_in(builder, "stack", (found,), {}))
    arrays = [one for one in found if isinstance(one, np.ndarray)]
    if arrays and len(arrays) == len(found) and arrays[0].dtype.kind == "f":
        if len({one.shape for one in arrays}) > 1:
            raise ShapeError(f"'{name}' goes over arrays of different shapes; give arrays of one shape")
        return _of_value(builder, name, wire, _attached(builder, np.stack(arrays)))
    if any(isinstance(one, list | tuple) and _holds_floats(one) for one in found):
        return _of_value(builder, name, wire, _attached(builder, _rectangle(name, found)))
    return _of_list(builder, name, wire, found)


def _holds_floats(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(_holds_floats(one) for one in value)
    return isinstance(value, float | np.floating)


def _rectangle(name: str, found: list[Any]) -> np.ndarray[Any, Any]:
    try:
        return np.asarray(found, np.float32)
    except (ValueError, TypeError):
        raise ShapeError(f"'{name}' goes over lists of different lengths; vectors are equally long") from None


def _attached(builder: Builder, array: np.ndarray[Any, Any]) -> Value:
    sent = arguments.tensor_of(array)
    return Value(builder, builder.attach(sent), sent.meta, builder.root)


def _of_value(builder: Builder, name: str, wire: str, value: Value) -> Column:
    over = value.reference_in(builder)
    ref = refs.parse(over)
    assert ref is not None
    span = span_of(name, builder.checker.lookup(ref))
    return Column(name, wire, over, span.element, span.count, form="text" if isinstance(span.element, str) else "ids")


def _of_list(builder: Builder, name: str, wire: str, found: list[Any], constant: JsonValue = None) -> Column:
    if not found:
        raise BadArgument(f"'{name}' goes over an empty list; give it at least one element")
    kinds = {type(one) for one in found}
    if kinds == {int, float}:
        found = [float(one) for one in found]
    listed = [_listed(name, one) for one in found]
    numbers = tuple(found) if kinds == {int} else ()
    texts = all(isinstance(one, str) or (isinstance(one, list) and one and isinstance(one[0], str)) for one in listed)
    over = f"${builder.constant(listed if constant is None else constant)}"
    form: Literal["text", "ids"] = "text" if texts else "ids"
    scalar = kinds <= {int, float, bool}
    return Column(name, wire, over, _any_of(name, wire, listed), len(found), numbers, form, scalar)


def _listed(name: str, value: Any) -> Any:
    value = arguments.plain(value)
    if isinstance(value, list | tuple | range | np.ndarray):
        return [_listed(name, one) for one in value]
    if isinstance(value, str | int | float | bool | dict):
        return value
    raise BadArgument(f"'{name}' goes over {shown(value)}; elements are numbers, texts, token ids, arrays or values")


def _any_of(name: str, wire: str, listed: list[Any]) -> object:
    """What is known of any one element; a number that differs between elements is a size not known yet."""
    first = listed[0]
    kinds = {type(one) for one in listed}
    if len(kinds) > 1:
        spelled = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise BadArgument(f"'{name}' goes over elements of different kinds ({spelled}); give one kind")
    if kinds == {int}:
        return Meta((), "int64", Size.symbol(wire))
    if kinds == {bool}:
        return Meta((), "bool")
    if kinds != {list} or isinstance(_leaf(first), str | dict):
        return first
    metas = [list_meta(one) for one in listed]
    shapes = [meta.shape or () for meta in metas]
    if len({len(shape) for shape in shapes}) > 1 or len({meta.dtype for meta in metas}) > 1:
        raise BadArgument(f"'{name}' goes over lists of different kinds; give elements with the same number of axes")
    dims = (set(axis) for axis in zip(*shapes, strict=True))
    return Meta(tuple(dim.pop() if len(dim) == 1 else Size.unknown(max(dim)) for dim in dims), metas[0].dtype)


def _leaf(value: Any) -> Any:
    while isinstance(value, list) and value:
        value = value[0]
    return value
