"""Interventions written once, to be carried out in several ways.

A case is a list of steps in document order. `by_hooks` carries it out with plain PyTorch hooks, `by_nnsight` with
nnsight on the same weights, `document` writes it as an intervention graph for the engine and the service.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pydantic import JsonValue

from telepatch_protocol.graph import Graph
from telepatch_protocol.ops import OPS


@dataclass(frozen=True)
class Read:
    """The value at a site, saved under a name."""

    name: str
    site: str
    index: list[JsonValue] | None = None
    invoke: str = "a"


@dataclass(frozen=True)
class Write:
    """A number, a list of numbers or ``$name`` written to a site."""

    site: str
    value: JsonValue
    index: list[JsonValue] | None = None
    invoke: str = "a"


@dataclass(frozen=True)
class Compute:
    """An operation on named values, saved under a name."""

    name: str
    op: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Apply:
    """A module applied to a named value."""

    name: str
    path: str
    value: str


@dataclass(frozen=True)
class Param:
    """A parameter."""

    name: str
    path: str
    parameter: str


Step = Read | Write | Compute | Apply | Param


@dataclass(frozen=True)
class Case:
    """One experiment: token ids of each invoke, and what is done."""

    name: str
    model: str
    steps: tuple[Step, ...]
    inputs: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.model}: {self.name}"


def document(case: Case, **options: bool) -> Graph:
    """The case as an intervention graph."""
    nodes, saves = [], {}
    for number, step in enumerate(case.steps):
        node, name = _node(step, f"w{number}")
        nodes.append(node)
        if name:
            saves[name] = f"${name}"
    invokes = [{"id": f"in_{name}", "ids": ids} for name, ids in case.inputs.items()]
    runs = [{"id": "run", "invokes": invokes}] if invokes else []
    head = {"model": {"id": case.model}, "options": options}
    return Graph.model_validate({**head, "runs": runs, "nodes": nodes, "saves": saves})


def _node(step: Step, write: str) -> tuple[dict[str, Any], str | None]:
    if isinstance(step, Read):
        found = {"kind": "get", "id": step.name, "site": step.site, "invoke": f"in_{step.invoke}", "index": step.index}
        return found, step.name
    if isinstance(step, Write):
        place = {"site": step.site, "invoke": f"in_{step.invoke}", "index": step.index}
        return {"kind": "set", "id": write, "value": step.value, **place}, None
    if isinstance(step, Compute):
        return {"kind": "call", "id": step.name, "op": step.op, "args": step.args, "kwargs": step.kwargs}, saved_as(
            step
        )
    if isinstance(step, Apply):
        return {"kind": "module", "id": step.name, "path": step.path, "args": [f"${step.value}"]}, step.name
    return {"kind": "get", "id": step.name, "site": f"{step.path}:param.{step.parameter}"}, step.name


def saved_as(step: Compute) -> str | None:
    """The name it is saved under; of several outputs, later steps save what they use."""
    return None if step.op in OPS and OPS[step.op].outputs else step.name


def tokens(length: int, seed: int, vocabulary: int = 256) -> list[int]:
    """Token ids that look random and are the same everywhere."""
    return [(seed * 7919 + place * 104729 + place * place * 31) % vocabulary for place in range(length)]


def rows(count: int, length: int, seed: int) -> list[list[int]]:
    """Several inputs of one length."""
    return [tokens(length, seed + 100 * row) for row in range(count)]
