"""What references, constants and indices stand for while a graph is checked, scope by scope."""

from __future__ import annotations

import difflib
from collections import ChainMap
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field

from pydantic import JsonValue

from telepatch_protocol import indexing, refs
from telepatch_protocol.card import ModelCard
from telepatch_protocol.checked import Key, Scope, Value
from telepatch_protocol.constants import numbers
from telepatch_protocol.data import Columns, check_digest, no_column
from telepatch_protocol.errors import BadArgument, ShapeError, TooLarge, UnknownName
from telepatch_protocol.graph import Invoke, Node
from telepatch_protocol.inputs import Input
from telepatch_protocol.literals import list_meta
from telepatch_protocol.meta import UNKNOWN, Meta, shown
from telepatch_protocol.ops.rules import index_meta
from telepatch_protocol.sites import Found
from telepatch_protocol.sizes import Dim
from telepatch_protocol.subgraphs import MAX_DEPTH, STEP

MAX_AXES = 32
"""How many axes a value may have: more than that, and not everybody's arrays can hold the result."""

_TWICE = "two things have the id '{}'; ids of nodes, runs' inputs and constants are unique in a document"


@dataclass
class Level:
    """What is known of one scope so far; its values include those of every scope around it.

    Attributes:
        values: by name.
        places: where the site of each `get` and `set` lies.
        inputs: sizes of its invokes.
        invokes: its invokes.
        writes: nodes that are writes, and so have no value.
        bodies: scopes of sub-graphs.
        counts: how many elements each of these stands for.
        beside: bytes that a node holds as long as it is evaluated, besides its values.
        backward: the nodes inside the gradients of this scope, in order.
        flops: floating-point operations of its nodes.
        generated: invokes that generate, with the runs that they are of.
        stepping: whether it is a step of a generation.
        attended: at a step after the prompt, how many positions attention sees.
    """

    values: MutableMapping[str, Value]
    places: dict[str, tuple[Found, ...]] = field(default_factory=dict)
    inputs: dict[str, Input] = field(default_factory=dict)
    invokes: dict[str, Invoke] = field(default_factory=dict)
    writes: set[str] = field(default_factory=set)
    bodies: dict[str, Mapping[Key, Scope]] = field(default_factory=dict)
    counts: dict[str, Mapping[Key, int]] = field(default_factory=dict)
    beside: dict[str, int] = field(default_factory=dict)
    backward: dict[str, tuple[Node, ...]] = field(default_factory=dict)
    flops: float = 0.0
    generated: dict[str, str] = field(default_factory=dict)
    stepping: bool = False
    attended: Dim | None = None


class Lookup:
    """Names and what they stand for.

    Args:
        card: of the model.
        attachment: shapes and dtypes of attached tensors, by name.
        results: gives shape and dtype of a value that an earlier job saved, by job id and name.
        data: columns of the uploads that may be used, by digest.
    """

    def __init__(
        self,
        card: ModelCard,
        attachment: Mapping[str, Meta] | None,
        results: Callable[[str, str], Meta] | None,
        data: Mapping[str, Columns] | None,
    ) -> None:
        self.card = card
        self.attachment = attachment or {}
        self.results = results or (lambda job, name: UNKNOWN)
        self.data = data or {}
        self.levels = [Level({})]

    @property
    def level(self) -> Level:
        """The innermost scope."""
        return self.levels[-1]

    @property
    def values(self) -> MutableMapping[str, Value]:
        """Every value in sight."""
        return self.level.values

    @property
    def inputs(self) -> dict[str, Input]:
        """Sizes of the innermost scope's invokes."""
        return self.level.inputs

    def places_of(self, name: str) -> tuple[Found, ...]:
        """Where the site of a node lies, of this scope or one around it; nowhere for what is no site."""
        return next((level.places[name] for level in reversed(self.levels) if name in level.places), ())

    def enter(self, bound: Mapping[str, Value]) -> None:
        """Begin a sub-graph in which `bound` names stand for something."""
        if len(self.levels) > MAX_DEPTH:
            raise TooLarge(f"sub-graphs nest deeper than {MAX_DEPTH}")
        for name in bound:
            if name in self.values and name != STEP:
                raise BadArgument(_TWICE.format(name))
        outer = self.values
        maps = outer.maps if isinstance(outer, ChainMap) else [outer]
        self.levels.append(Level(ChainMap({}, dict(bound), *maps)))

    def leave(self) -> None:
        """End the sub-graph that was begun last."""
        self.levels.pop()

    def constant(self, name: str, value: JsonValue) -> None:
        """Take in a constant."""
        self.define(name, self._constant(value))

    def define(self, name: str, value: Value) -> None:
        """Let a name stand for something from here on.

        Raises:
            BadArgument: it stands for something already.
            ShapeError: a value of too many axes.
        """
        self.check_id(name)
        for one in value.values() if isinstance(value, dict) else (value,):
            if isinstance(one, Meta) and len(one.shape or ()) > MAX_AXES:
                raise ShapeError(f"the value has {len(one.shape or ())} axes; at most {MAX_AXES} can be")
        self.values[name] = value

    def check_id(self, name: str) -> None:
        """Refuse a name that stands for something already."""
        if name in self.values or any(name in level.inputs or name in level.generated for level in self.levels):
            raise BadArgument(_TWICE.format(name), node=name)

    def lookup(self, ref: refs.Ref) -> Value:
        """What a reference stands for.

        Raises:
            UnknownName: nothing of that name, or an output that the node does not have.
        """
        if ref.id not in self.values:
            near = difflib.get_close_matches(ref.id, self.values, n=1)
            raise UnknownName(f"'{ref}' refers to nothing" + (f" (did you mean '${near[0]}'?)" if near else ""))
        found = self.values[ref.id]
        if any(ref.id in level.writes for level in self.levels):
            raise BadArgument(f"'{ref}' is a write, which has no value; read the site after it with a get")
        if isinstance(found, dict):
            if not found:
                raise BadArgument(f"'{ref}' gives nothing out, so there is nothing to refer to")
            if ref.output not in found:
                known = ", ".join(f"${ref.id}.{name}" for name in found)
                raise UnknownName(f"'${ref.id}' has several outputs; write one of {known}")
            return found[ref.output]
        if ref.output is not None:
            raise UnknownName(f"'${ref.id}' has no output '{ref.output}'; it is one value")
        return found

    def argument(self, value: JsonValue) -> Value:
        """What an argument stands for: references looked up, constant forms taken in, literals as they are."""
        if isinstance(value, list):
            return [self.argument(one) for one in value]
        if isinstance(value, dict):
            return no_column(self._constant(value))
        return refs.resolve(value, self.whole)

    def whole(self, ref: refs.Ref) -> Value:
        """What a reference stands for, where a column that only `map` and `fit` take is none."""
        return no_column(self.lookup(ref))

    def sequence(self, value: JsonValue) -> Value:
        """What a `map` goes over: an argument, or a column of data."""
        ref = refs.parse(value)
        found = self.lookup(ref) if ref is not None else self._constant(value)
        return no_column(found) if isinstance(found, dict) else found

    def index(self, index: list[JsonValue] | None) -> tuple[indexing.Element, ...]:
        """An index with its references looked up."""
        return indexing.parse(index or [], self.whole)

    def written(self, value: JsonValue) -> Meta:
        """What is known of a value where a tensor is needed: numbers and lists of numbers are values too."""
        found = self.argument(value)
        if isinstance(found, Meta):
            return found
        if isinstance(found, list):
            return list_meta(found)
        if isinstance(found, bool | int | float) or found in ("inf", "-inf", "nan"):
            return Meta((), "bool" if isinstance(found, bool) else "int64" if isinstance(found, int) else "float32")
        raise BadArgument(
            f"{shown(found)} is no value and cannot be written; use a value, a number or a list of numbers"
        )

    def number(self, name: str) -> int:
        """The number that a name in a site stands for."""
        found = self.lookup(refs.Ref(name))
        if not isinstance(found, int) or isinstance(found, bool) or found < 0:
            raise BadArgument(f"'{{{name}}}' in a site must be a number of a module, from 0; it is {shown(found)}")
        return found

    def _constant(self, value: JsonValue) -> Value:
        if not isinstance(value, dict):
            return value
        if set(value) == {"range"}:
            return numbers(value["range"])
        if set(value) == {"tensor"}:
            return self._attached(value["tensor"])
        if "result" in value and set(value) <= {"result", "name", "index"}:
            return self._result(value)
        if set(value) == {"data"}:
            return self._data(check_digest(value["data"]))
        raise BadArgument(f"an object with keys {sorted(value)} is no constant; known: range, tensor, result, data")

    def _attached(self, name: JsonValue) -> Meta:
        if not isinstance(name, str) or name not in self.attachment:
            known = ", ".join(list(self.attachment)[:10]) or "nothing"
            raise UnknownName(f"there is no attached tensor {name!r}; attached: {known}")
        return self.attachment[name]

    def _data(self, digest: str) -> Value:
        if digest not in self.data:
            raise UnknownName(f"there is no upload {digest}; PUT /v1/data/{digest} makes it known")
        return self.data[digest].value()

    def _result(self, value: dict[str, JsonValue]) -> Meta:
        job, name, index = value.get("result"), value.get("name"), value.get("index")
        if not isinstance(job, str) or not isinstance(name, str) or not isinstance(index, list | None):
            raise BadArgument("a result is {result: job id, name: saved name, index: optional list}")
        found = self.results(job, name)
        return index_meta(found, self.index(index), f"result '{name}' of job {job}") if index else found
