"""Graphs as somebody would write them who wants what is another's: drawn at random from reads, writes, operations."""

from __future__ import annotations

import random
from typing import Any

from telepatch_protocol.errors import TelepatchError
from telepatch_protocol.jobs import new_job_id
from telepatch_protocol.wire import from_dict
from telepatch_worker.engine import Task

SITES = [
    *("embed:output", "final_norm:output", "unembed:output", ":output", "unembed:input"),
    *(f"blocks.{at}:{port}" for at in range(2) for port in ("resid_pre", "resid_post", "resid_mid", "output", "input")),
    *(f"blocks.{at}.{part}:output" for at in range(2) for part in ("attn", "mlp")),
    *("blocks.*:resid_post", "blocks.0:q", "blocks.1:k", "blocks.1:v", "blocks.0:head_out"),
]
MODULES = ["final_norm", "unembed", "blocks.0.mlp", "blocks.1.mlp"]
UNARY = ["relu", "exp", "sum", "mean", "neg", "argmax", "softmax", "flatten", "cumsum", "isnan", "argsort", "sort"]
WILD = [0, 1, -1, 0.5, 1e30, "nan", "inf", "-inf", 3.5e38, -7]


class Stranger:
    """One job's graph, in the making.

    Args:
        dice: where its choices come from.
        ids: of its prompt.
    """

    def __init__(self, dice: random.Random, ids: list[int]) -> None:
        self.dice = dice
        self.ids = ids
        self.nodes: list[dict[str, Any]] = []
        self.values: list[str] = []
        self.constants: dict[str, Any] = {}

    def task(self, model: str) -> Task | None:
        """The job, or None where what was drawn is not even a document."""
        for _ in range(self.dice.randint(1, 6)):
            self.dice.choice([self.read, self.read, self.write, self.operate, self.pick, self.scatter, self.apply])()
        if not self.values:
            self.read()
        saved = self.dice.sample(self.values, min(len(self.values), 4))
        invokes = [{"id": "a", "ids": self.ids}]
        if self.dice.random() < 0.3:
            invokes.append({"id": "b", "ids": self.dice.choice([self.ids, [9, 9, 9]])})
        document = {
            "protocol": [1, 0],
            "model": {"id": model},
            "runs": [{"id": "r", "invokes": invokes}],
            "nodes": self.nodes,
            "constants": self.constants,
            "saves": {f"v{at}": f"${name}" for at, name in enumerate(saved)},
        }
        try:
            return Task(new_job_id(), from_dict(document))
        except TelepatchError:
            return None

    def add(self, node: dict[str, Any], *, value: bool = True) -> None:
        name = f"n{len(self.nodes)}"
        self.nodes.append({"id": name, **node})
        if value:
            self.values.append(name)

    def read(self) -> None:
        self.add({"kind": "get", "site": self.dice.choice(SITES), "invoke": "a", **self.index()})

    def write(self) -> None:
        value = self.dice.choice([*WILD, *(f"${name}" for name in self.values[-2:])])
        site = self.dice.choice(SITES)
        self.add({"kind": "set", "site": site, "invoke": "a", "value": value, **self.index()}, value=False)

    def operate(self) -> None:
        op = self.dice.choice(UNARY)
        dims = {"dim": -1} if op in ("softmax", "cumsum") else {}
        self.add({"kind": "call", "op": op, "args": [self.any()], "kwargs": dims})

    def pick(self) -> None:
        """Ways of picking by numbers that are only known when it runs."""
        numbers = [self.dice.choice([0, 1, -1, 2, 5, 50, -50, 2**40]) for _ in range(self.dice.randint(1, 3))]
        where = self.computed(numbers)
        op, args = self.dice.choice(
            [
                ("index_select", [self.any(), self.dice.choice([0, 1, -1]), where]),
                ("take", [self.any(), where]),
                ("index", [self.any(), [where]]),
                ("index", [self.any(), ["...", where]]),
                ("index", [self.any(), [None, where, ":", "..."]]),
                ("narrow", [self.any(), 0, self.dice.randint(-3, 3), 2]),
                ("roll", [self.any(), self.dice.randint(-9, 9), 0]),
                ("unfold", [self.any(), 0, 2, 1]),
                ("gather", [self.any(), 0, where]),
                ("repeat_interleave", [self.any(), 2, 0]),
                ("reshape", [self.any(), [-1]]),
                ("broadcast_to", [self.any(), [3, 1, 5, 48]]),
            ]
        )
        self.add({"kind": "call", "op": op, "args": args})

    def scatter(self) -> None:
        numbers = [self.dice.choice([0, 1, -1, 3, 60]) for _ in range(2)]
        where = self.computed(numbers)
        op, args = self.dice.choice(
            [
                ("index_fill", [self.any(), 0, where, 7.0]),
                ("index_add", [self.any(), 1, where, self.any()]),
                ("scatter", [self.any(), 0, where, 1.0]),
                ("index_put", [self.any(), [where], 9.0]),
                ("index_copy", [self.any(), 1, where, self.any()]),
            ]
        )
        self.add({"kind": "call", "op": op, "args": args})

    def apply(self) -> None:
        self.add({"kind": "module", "path": self.dice.choice(MODULES), "args": [self.any()]})

    def computed(self, numbers: list[int]) -> str:
        """Numbers that no checker can see."""
        name = f"c{len(self.constants)}"
        self.constants[name] = numbers
        self.add({"kind": "call", "op": "add", "args": [f"${name}", 0]}, value=False)
        return f"${self.nodes[-1]['id']}"

    def any(self) -> Any:
        if not self.values:
            self.read()
        return f"${self.dice.choice(self.values)}"

    def index(self) -> dict[str, Any]:
        if self.dice.random() < 0.3:
            return {}
        if self.dice.random() < 0.3:
            return {"index": [":", self.computed([self.dice.choice([0, 1, -1, 2, 9, -9])])]}
        parts = [
            0,
            -1,
            1,
            -2,
            2,
            60,
            ":",
            "1:",
            ":-1",
            "-3:",
            "::2",
            "-99:99",
            "...",
            None,
            [0, -1],
            [1, 1, 0],
            [True, False],
        ]
        return {"index": [self.dice.choice(parts) for _ in range(self.dice.randint(1, 3))]}


def stranger(dice: random.Random, model: str, prompts: list[list[int]]) -> Task:
    """A job that at least is a document."""
    while (found := Stranger(dice, dice.choice(prompts)).task(model)) is None:
        pass
    return found
