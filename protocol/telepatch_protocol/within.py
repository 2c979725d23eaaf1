"""Where inside a node with sub-graphs something went wrong: which element of a map, which step, which branch."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field

_SHORT = reprlib.Repr()
"""Shows the beginning and the end of a text, and the beginning of a list."""
_SHORT.maxstring, _SHORT.maxlist = 60, 8


class Within(BaseModel):
    """A part of a node with sub-graphs.

    Attributes:
        kind: of the node: ``map``, ``repeat``, ``cond``, ``fit`` or ``generation``.
        node: its id.
        element: number of the element of its `over`, from 0; where a map is a grid, as its outputs lie when flattened.
        step: number of the step, from 0.
        part: which of its sub-graphs, where it has several: a branch, or what a fit does beside its body.
        bound: what its names stand for there: integers as they are, anything else as text that may be cut short.
        place: its line in the author's program, as ``file.py:12``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    kind: str
    node: str
    element: int | None = None
    step: int | None = None
    part: str | None = None
    bound: dict[str, int | str] = Field(default_factory=dict)
    place: str | None = None

    def __str__(self) -> str:
        numbers = (("element", self.element), ("step", self.step))
        words = [] if self.part is None else [f"'{self.part}'"]
        words += [f"{what} {number}" for what, number in numbers if number is not None]
        where = "" if self.place is None else f" at {self.place}"
        values = ", ".join(f"{name}={value}" for name, value in self.bound.items())
        return " of ".join([*words, f"{self.kind} '{self.node}'{where}"]) + (f" ({values})" if values else "")


def bound_of(values: Mapping[str, object]) -> dict[str, int | str]:
    """What names stand for in one element, as an error shows it; tensors, which nothing short shows, left out."""
    return {
        name: value if type(value) is int else _SHORT.repr(value)
        for name, value in values.items()
        if isinstance(value, bool | int | float | str | list)
    }
