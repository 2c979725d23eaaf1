"""Values beside the plain one: lengths that are not known yet, and operations with several outputs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from telepatch.builder import Builder
from telepatch.current import open_builder
from telepatch.lines import points_home
from telepatch.names import missing_operation
from telepatch.values import Value
from telepatch_protocol.errors import TraceError
from telepatch_protocol.meta import Meta
from telepatch_protocol.sizes import Size


class Length(Value):
    """A size that is not known until the prompt is: usable in slices, shapes and arithmetic."""

    def __init__(self, source: Value, axis: int, dim: Size) -> None:
        super().__init__(source._builder, None, Meta((), "int64", dim))
        self._source = source
        self._axis = axis

    def _own_ref(self) -> str:
        if self._ref is None:
            assert self._builder is not None
            scope = self._source._scope
            here = scope if scope is not None and not scope.closed else self._builder.scope
            ref = self._source.reference_in(self._builder)
            self._ref, found = self._builder.call("size", (ref, self._axis), {}, here)
            self._scope = here
            self._meta = found if isinstance(found, Meta) else self._meta
        return self._ref

    def __eq__(self, other: object) -> Any:
        return True if isinstance(other, Length) and other._meta.size == self._meta.size else super().__eq__(other)

    __hash__ = Value.__hash__

    def __repr__(self) -> str:
        return repr(self._meta.size)


class Outputs:
    """The values of an operation that gives several, by name, by position and unpacked, as PyTorch does it."""

    def __init__(self, values: dict[str, Value]) -> None:
        self._values = values

    def __getattr__(self, name: str) -> Value:
        if name.startswith("_") or name not in self._values:
            if name.startswith("_"):
                raise AttributeError(name)
            raise missing_operation(f"there is no output '{name}'; there are: {', '.join(self._values)}")
        return self._values[name]

    def __getitem__(self, at: int | str) -> Value:
        return self._values[at] if isinstance(at, str) else list(self._values.values())[at]

    def __iter__(self) -> Iterator[Value]:
        return iter(self._values.values())

    def __len__(self) -> int:
        return len(self._values)

    def __dir__(self) -> list[str]:
        return [*object.__dir__(self), *self._values]

    @points_home
    def save(self, name: str | None = None) -> Outputs:
        """Save every one of them; a name is the beginning of theirs: ``name_values``, ``name_indices``."""
        builder = open_builder()
        first = next(iter(self._values.values()))
        if builder is None or builder is not first._builder:
            raise TraceError("save() belongs inside the block of its own trace")
        builder.save({output: value._top_ref() for output, value in self._values.items()}, name)
        return self

    def __repr__(self) -> str:
        return "\n".join(f"{name}: {value!r}" for name, value in self._values.items())


def made(builder: Builder, node: str, found: object) -> Any:
    """What the author gets for a new node."""
    if isinstance(found, dict):
        return Outputs({name: Value(builder, f"{node}.{name}", meta) for name, meta in found.items()})
    return Value(builder, node, found if isinstance(found, Meta) else Meta(None, None))
