"""Nodes under other names: what an edit calls things becomes what the graph calls them in which it is applied."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue

from telepatch_protocol.errors import BadArgument
from telepatch_protocol.graph import Get, Map, Node, Repeat, Set, SubGraph
from telepatch_protocol.refs import NAME, Ref

_PART = rf"(?:-?\d{{1,18}}|\${NAME}(?:\.[A-Za-z0-9_]+)?)?"
_SLICE = re.compile(rf"{_PART}:{_PART}(?::{_PART})?", re.ASCII)
_REF = re.compile(rf"\$({NAME})(?:\.([A-Za-z0-9_.]+))?", re.ASCII)
_HOLE = re.compile(rf"\{{({NAME})\}}", re.ASCII)
_PARAM = ":param."
_PLAIN = frozenset({"kind", "op", "invoke", "call", "grid", "reduce"})


@dataclass(frozen=True, slots=True)
class Renaming:
    """Makes copies of nodes.

    Attributes:
        names: what each name becomes: another name, or one output of it.
        invoke: the input whose sites the nodes are to be about.
        carried: what each repeat carries, which its outputs are named by.
    """

    names: Mapping[str, Ref]
    invoke: str
    carried: Mapping[str, frozenset[str]]

    def node(self, node: Node) -> Node:
        """A node under its new names, with all that is in it."""
        found = {name: self._field(node, name, value) for name, value in node}
        if isinstance(node, Get | Set) and _PARAM not in node.site:
            found["invoke"] = self.invoke
        return node.model_copy(update=found)

    def _field(self, node: Node, name: str, value: Any) -> Any:
        if name == "id":
            return self._bound(value)
        if name in ("site", "path"):
            return _HOLE.sub(self._hole, value)
        if name in ("over", "carry"):
            return {self._bound(key): self._arg(one) for key, one in value.items()}
        if name in _PLAIN:
            return value
        if isinstance(value, SubGraph):
            return self._sub_graph(value, self.carried.get(node.id, frozenset()))
        behind = self._within(node) if name in ("emit", "while_") and isinstance(node, Map | Repeat) else self
        if name in ("kwargs", "emit", "values"):
            return {key: behind._arg(one) for key, one in value.items()}
        return tuple(map(self._arg, value)) if isinstance(value, tuple) else behind._arg(value)

    def _sub_graph(self, graph: SubGraph, carried: frozenset[str]) -> SubGraph:
        out = {self._bound(key) if key in carried else key: self._arg(one) for key, one in graph.out.items()}
        return SubGraph(nodes=tuple(map(self.node, graph.nodes)), out=out)

    def _within(self, node: Map | Repeat) -> Renaming:
        """For what is evaluated in a sub-graph after its nodes: its outputs are known by names that hide others."""
        hidden = node.body.out.keys() - self.carried.get(node.id, frozenset())
        return Renaming(
            {name: now for name, now in self.names.items() if name not in hidden}, self.invoke, self.carried
        )

    def _arg(self, value: JsonValue) -> Any:
        if isinstance(value, list):
            return [self._arg(one) for one in value]
        if isinstance(value, dict):
            return value | ({"index": self._arg(value["index"])} if "index" in value else {})
        if not isinstance(value, str) or "$" not in value or value.startswith("$$"):
            return value
        if _REF.fullmatch(value) or _SLICE.fullmatch(value):
            return _REF.sub(lambda match: str(self._ref(Ref(match[1], match[2]))), value)
        return value

    def _ref(self, ref: Ref) -> Ref:
        now = self.names.get(ref.id)
        if now is None:
            return ref
        if ref.output is None:
            return now
        if now.output is None:
            carried = ref.output in self.carried.get(ref.id, ())
            return Ref(now.id, self._bound(ref.output) if carried else ref.output)
        raise BadArgument(f"'{ref}' is one output of an argument, which is given '{now}', one value")

    def _bound(self, name: str) -> str:
        return self.names[name].id

    def _hole(self, match: re.Match[str]) -> str:
        now = self.names.get(match[1])
        if now is None:
            return match[0]
        if now.output is not None:
            raise BadArgument(f"'{{{match[1]}}}' in a site takes a number; it is given '{now}'")
        return f"{{{now.id}}}"
