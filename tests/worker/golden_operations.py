"""Golden documents of operations: `python -m tests.worker.golden_operations` writes one for each that has none.

A document that is there stays as it is: it is what other languages were promised.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from types import EllipsisType
from typing import Any

import torch
from tests.wire.golden import FOLDER, Entry, file_of, read, sizes, written
from tests.worker.golden_calls import MORE
from tests.worker.operation_cases import CASES, DRAWN
from torch import Tensor

from telepatch_protocol.check import check
from telepatch_protocol.indexing import Slice
from telepatch_protocol.meta import Meta
from telepatch_protocol.ops import GROUPS, OPS
from telepatch_protocol.wire import from_dict
from telepatch_worker.cards import read_card
from telepatch_worker.kernels import run_op
from telepatch_worker.load import load

ROOT = Path(__file__).parents[2]
MODEL = "gpt2-random"


@dataclass
class Calls:
    """Calls of one operation, as the nodes of a document."""

    op: str
    tensors: dict[str, Tensor] = field(default_factory=dict)
    nodes: list[dict[str, Any]] = field(default_factory=list)
    saves: dict[str, str] = field(default_factory=dict)

    def add(self, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        """One more call."""
        names = [param.name for param in OPS[self.op].params]
        names += names[-1:] * len(args)  # values that follow one by one
        node = {"kind": "call", "id": f"y{len(self.nodes)}", "op": self.op}
        node["args"] = [self.spelled(name, arg) for name, arg in zip(names, args, strict=False)]
        if kwargs:
            node["kwargs"] = {name: self.spelled(name, arg) for name, arg in kwargs.items()}
        self.nodes.append(node)
        given = run_op(self.op, args, kwargs)
        id = str(node["id"])
        outputs = {f"{id}_{name}": f"${id}.{name}" for name in given} if isinstance(given, dict) else {id: f"${id}"}
        self.saves |= outputs

    def spelled(self, name: str, value: object) -> Any:
        """An argument as it stands in JSON."""
        if isinstance(value, Tensor):
            return f"${self.attached(name, value)}"
        if isinstance(value, Slice):
            ends = ["" if end is None else self.spelled("end", end) for end in (value.start, value.stop, value.step)]
            return ":".join(map(str, ends if value.step is not None else ends[:2]))
        if isinstance(value, EllipsisType):
            return "..."
        if isinstance(value, list | tuple):
            return [self.spelled(name, one) for one in value]
        return repr(value) if isinstance(value, float) and not math.isfinite(value) else value

    def attached(self, name: str, value: Tensor) -> str:
        """The name of a tensor; equal ones are attached once."""
        for known, tensor in self.tensors.items():
            if tensor.dtype == value.dtype and tensor.shape == value.shape and torch.equal(tensor, value):
                return known
        chosen = name if name not in self.tensors else f"{name}{sum(key.startswith(name) for key in self.tensors)}"
        self.tensors[chosen] = value
        return chosen

    def document(self) -> dict[str, Any]:
        """The document, which saves every output of every call."""
        found: dict[str, Any] = {"protocol": [1, 0], "model": {"id": MODEL}, "nodes": self.nodes, "saves": self.saves}
        if self.tensors:
            found["constants"] = {name: {"tensor": name} for name in self.tensors}
        return from_dict(found).to_dict()


def readable(value: Tensor) -> dict[str, Any]:
    """A tensor as the service answers it in JSON."""
    return {
        "dtype": str(value.dtype).removeprefix("torch."),
        "shape": list(value.shape),
        "values": _plain(value.tolist()),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return round(value, 3) if math.isfinite(value) else repr(value)
    return value


def calls_of(op: str) -> Calls:
    """Calls that give every argument of the operation at least once."""
    found = Calls(op)
    drawn = [(DRAWN[op][0], {})] if op in DRAWN else []
    cases = [(one.args, one.kwargs) for one in CASES.get(op, [])]
    for args, kwargs in [*cases, *drawn, *([MORE[op]] if op in MORE else [])]:
        found.add(args, {**kwargs, "key": [7, 1]} if drawn else kwargs)
    return found


def entry_of(op: str, card: Any) -> Entry:
    """The golden entry of an operation."""
    calls = calls_of(op)
    document = calls.document()
    attachment = {name: readable(tensor) for name, tensor in calls.tensors.items()}
    metas = {name: Meta(tuple(one["shape"]), one["dtype"]) for name, one in attachment.items()}
    saves = check(from_dict(document), card, attachment=metas).saves
    return {
        "op": op,
        "document": document,
        "attachment": attachment,
        "gives": {name: sizes(meta) for name, meta in saves.items()},
    }


def main() -> None:
    """Write what is missing."""
    card = load(read_card(ROOT / "models" / f"{MODEL}.toml"), cache=Path("unused")).card
    FOLDER.mkdir(parents=True, exist_ok=True)
    for group, ops in GROUPS.items():
        file = file_of(group)
        known = {entry["op"]: entry for entry in read(file)} if file.exists() else {}
        entries = [known.get(op.name) or entry_of(op.name, card) for op in sorted(ops, key=lambda op: op.name.lower())]
        file.write_text(written(entries))


if __name__ == "__main__":
    main()
