"""What a fit is made of while its block is written, and the node that it becomes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import JsonValue

from telepatch.columns import Column
from telepatch.data import Dataset
from telepatch.optimisers import Adam, Buffer, Optimiser
from telepatch.scope import Scope
from telepatch_protocol.errors import BadArgument
from telepatch_protocol.fitting import LOSS
from telepatch_protocol.graph import Fit as FitNode
from telepatch_protocol.graph import Node

_REFERENCE = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)((?:\.[A-Za-z0-9_]+)*)")


@dataclass
class Parts:
    """Everything of a fit but its body.

    Attributes:
        optimiser: its name.
        buffer: of rows, where it sees batches.
        columns: what it goes over.
        plain: settings, as the wire has them.
        numbers: of the optimiser.
        params, state: how each begins, by its name on the wire.
        carry: what state and parameters become after a step.
        reset: where moments are forgotten.
        stop: when it ends.
        logged: small values by name.
        before, after, judged: what is computed before a step, after it, and now and then.
        every: how often it is judged.
    """

    optimiser: str
    buffer: Buffer | None
    columns: tuple[Column, ...] = ()
    plain: dict[str, JsonValue] = field(default_factory=dict)
    numbers: dict[str, JsonValue] = field(default_factory=dict)
    params: dict[str, dict[str, JsonValue]] = field(default_factory=dict)
    state: dict[str, JsonValue] = field(default_factory=dict)
    carry: dict[str, JsonValue] = field(default_factory=dict)
    reset: dict[str, JsonValue] = field(default_factory=dict)
    stop: JsonValue = None
    logged: dict[str, str] = field(default_factory=dict)
    before: Scope | None = None
    after: Scope | None = None
    judged: Scope | None = None
    every: JsonValue = None

    def node(self, scope: Scope) -> Node:
        """The node, from the scope of its body; values of the body that are used after a step become outputs of it."""
        mine = {node.id for node in scope.nodes()}
        if self.buffer is None:
            self._mean_of_examples(scope, mine)
        emit = _seen_after(scope, mine, {LOSS: scope.out[LOSS], **self.logged})
        after = _seen_after(scope, mine, self._after())
        found: dict[str, Any] = {
            "kind": "fit",
            "id": scope.node,
            "over": {column.wire: column.over for column in self.columns},
            **{name: value for name, value in self.plain.items() if value is not None},
            "params": self.params,
            "state": self.state,
            "optimiser": {"name": self.optimiser, **self.numbers},
            "body": scope.graph(),
            "reduce": dict(scope.reduce) if self.buffer is None else {},
            "emit": emit,
            **({"after": after} if after else {}),
            **self._beside(),
        }
        return FitNode.model_validate(found)

    def _beside(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self.buffer is not None:
            size = {} if self.buffer.size is None else {"rows": self.buffer.size}
            found["buffer"] = {**size, "refill": self.buffer.refill}
        if self.before is not None:
            found["before"] = self.before.graph()
        if self.judged is not None:
            found["evaluate"] = {"every": self.every, "body": self.judged.graph()}
        return found

    def _after(self) -> dict[str, Any]:
        nodes = () if self.after is None else self.after.nodes()
        found = {
            "nodes": [node.model_dump(mode="json", by_alias=True, exclude_defaults=True) for node in nodes],
            "carry": self.carry,
            "reset_moments": self.reset,
            "stop": self.stop,
        }
        return {name: value for name, value in found.items() if value not in (None, [], {})}

    def _mean_of_examples(self, scope: Scope, mine: set[str]) -> None:
        """What is logged of examples is their mean."""
        for name, ref in self.logged.items():
            if ref not in scope.out.values() and ref.lstrip("$").partition(".")[0] in mine:
                scope.out[name] = ref
                scope.reduce[name] = "mean"


def _seen_after(scope: Scope, mine: set[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """The same, with every value of the body as an output of it."""

    def output(match: re.Match[str]) -> str:
        if match[1] not in mine:
            return match[0]
        ref = match[1] + match[2]
        name = next((name for name, found in scope.out.items() if found == f"${ref}"), None)
        return f"${scope.node}.{name}" if name is not None else f"${scope.give(ref)}"

    found: dict[str, Any] = json.loads(_REFERENCE.sub(output, json.dumps(given)))
    return found


def columns_of(data: Any) -> Mapping[str, Any]:
    """What a fit goes over, by name."""
    if isinstance(data, Buffer):
        return data.columns
    if isinstance(data, Dataset):
        return {name: data[name] for name in data.columns.names}
    if isinstance(data, Mapping) and data and all(isinstance(name, str) for name in data):
        return data
    raise BadArgument(
        f"a fit goes over data that was uploaded, a dict of columns, or a telepatch.Buffer of rows; found {data!r:.60}"
    )


def settings_of(**given: Any) -> dict[str, Any]:
    """What `Model.fit` was told, looked through."""
    if not isinstance(given["optimiser"] or Adam(), Optimiser):
        raise BadArgument(f"an optimiser is telepatch.SGD, Adam or AdamW; found {given['optimiser']!r}")
    given["optimiser"] = given["optimiser"] or Adam()
    if (given["steps"] is None) == (given["epochs"] is None):
        raise BadArgument("a fit needs either steps=... or epochs=...")
    return given
