"""Random programs of maps, repeats, choices, forwards and gradients: the same numbers as written out step by step."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from telepatch_protocol.errors import TooLarge
from telepatch_worker.frame import Frame

GPT2 = "gpt2-random"
A, B = [5, 6, 7, 8, 9], [20, 21, 22]

Step = tuple[Any, ...]


class Written:
    """A program as a graph: with sub-graphs, or unrolled into what stands at the top level alone.

    Args:
        unrolled: whether to write everything out.
    """

    def __init__(self, unrolled: bool) -> None:
        self.unrolled = unrolled
        self.nodes: list[Any] = []
        self.runs: list[Any] = []
        self._fresh = itertools.count()

    def name(self, kind: str) -> str:
        return f"{kind}{next(self._fresh)}"

    def call(self, op: str, *args: Any) -> str:
        name = self.name("c")
        self.nodes.append({"kind": "call", "id": name, "op": op, "args": list(args)})
        return f"${name}"

    def inside(self, steps: list[Step], value: str, outer: str) -> dict[str, Any]:
        """The steps as a sub-graph that gives ``v``."""
        nodes, runs, self.nodes, self.runs = self.nodes, self.runs, [], []
        out = self.steps(steps, value, outer)
        found = {"nodes": self.nodes, "runs": self.runs, "out": {"v": out}}
        self.nodes, self.runs = nodes, runs
        return found

    def steps(self, steps: list[Step], value: str, outer: str) -> str:
        for kind, *rest in steps:
            value = getattr(self, f"do_{kind}")(value, outer, *rest)
        return value

    def do_scale(self, value: str, outer: str, by: float) -> str:
        return self.call("mul", value, by)

    def do_mix(self, value: str, outer: str) -> str:
        """Something from outside of every sub-graph."""
        return self.call("tanh", self.call("add", value, outer))

    def do_forward(self, value: str, outer: str, at: int, of: int, position: int) -> str:
        """The value written into a forward of its own, and what becomes of it."""
        invoke, name = self.name("x"), self.name("h")
        self.runs.append({"id": self.name("r"), "invokes": [{"id": invoke, "ids": B}]})
        self.nodes += [
            {
                "kind": "set",
                "id": self.name("s"),
                "site": f"blocks.{at}:resid_post",
                "invoke": invoke,
                "value": value,
                "index": [":", position],
            },
            {"kind": "get", "id": name, "site": f"blocks.{of}:resid_post", "invoke": invoke, "index": [":", -1]},
        ]
        return f"${name}"

    def do_climb(self, value: str, outer: str, through: str) -> str:
        """A step along a gradient with respect to the value, or to one that stands outside."""
        twice = self.call("mul", value, 1.5)
        of = self.call("sum", self.call("mul", twice, outer))
        name = self.name("g")
        wrt = {"value": twice, "outer": outer}[through]
        self.nodes.append({"kind": "grad", "id": name, "of": of, "wrt": [wrt]})
        return self.call("add", value, self.call("mul", f"${name}.0", 0.1))

    def do_map(self, value: str, outer: str, ks: list[float], how: str, steps: list[Step]) -> str:
        if self.unrolled:
            parts = [self.steps(steps, self.call("mul", value, k), outer) for k in ks]
            total = parts[0]
            for part in parts[1:]:
                total = self.call("add", total, part)
            return self.call("div", total, len(ks)) if how == "mean" else total
        k, name = self.name("k"), self.name("m")
        scaled = self.name("c")
        body = self.inside(steps, f"${scaled}", outer)
        body["nodes"] = [{"kind": "call", "id": scaled, "op": "mul", "args": [value, f"${k}"]}, *body["nodes"]]
        self.nodes.append({"kind": "map", "id": name, "over": {k: ks}, "body": body, "reduce": {"v": how}})
        return f"${name}.v"

    def do_repeat(self, value: str, outer: str, n: int, steps: list[Step]) -> str:
        if self.unrolled:
            for _ in range(n):
                value = self.steps(steps, value, outer)
            return value
        carried, name = self.name("y"), self.name("l")
        body = self.inside(steps, f"${carried}", outer)
        body["out"] = {carried: body["out"]["v"]}
        self.nodes.append({"kind": "repeat", "id": name, "n": n, "carry": {carried: value}, "body": body})
        return f"${name}.{carried}"

    def do_cond(self, value: str, outer: str, holds: bool, steps: list[Step]) -> str:
        if self.unrolled:
            return self.steps(steps, value, outer) if holds else value
        name = self.name("i")
        body = self.inside(steps, value, outer)
        body["out"] = {"value": body["out"]["v"]}
        self.nodes.append({"kind": "cond", "id": name, "if": holds, "then": body, "else": value})
        return f"${name}"


def leaves(forwards: bool) -> st.SearchStrategy[Step]:
    simple = [
        st.tuples(st.just("scale"), st.sampled_from([0.5, -1.0])),
        st.tuples(st.just("mix")),
        st.tuples(st.just("climb"), st.sampled_from(["value", "outer"])),
    ]
    if forwards:
        simple.append(
            st.tuples(st.just("forward"), st.integers(0, 1), st.integers(1, 3), st.integers(0, 2)),
        )
    return st.one_of(simple)


def programs(depth: int, forwards: bool = True) -> st.SearchStrategy[list[Step]]:
    if not depth:
        return st.lists(leaves(forwards), min_size=1, max_size=2)
    inner = programs(depth - 1, forwards)
    compound = st.one_of(
        st.tuples(
            st.just("map"), st.sampled_from([[1.0, 0.5], [0.3, -0.7, 1.0]]), st.sampled_from(["sum", "mean"]), inner
        ),
        st.tuples(st.just("repeat"), st.integers(1, 2), inner),
        st.tuples(st.just("cond"), st.booleans(), programs(depth - 1, False)),
    )
    return st.lists(st.one_of(leaves(forwards), compound), min_size=1, max_size=3)


def task(build: Any, program: list[Step], *, unrolled: bool, asked: bool) -> Any:
    written = Written(unrolled)
    value = written.steps(program, "$h", "$far")
    total = written.call("sum", written.call("mul", value, "$far"))
    saves = {"v": value, "total": total}
    if asked:
        written.nodes.append({"kind": "grad", "id": "last", "of": total, "wrt": ["$h", "$far"]})
        saves |= {"g0": "$last.0", "g1": "$last.1"}
    first = [
        build.get("h", "blocks.0:resid_post", [":", -1]),
        build.get("far", "blocks.2:resid_post", [":", 1]),
    ]
    made = build.task(GPT2, {"a": A}, *first, *written.nodes, saves=saves)
    graph = made.graph.to_dict()
    graph["runs"] = [*graph["runs"], *written.runs]
    return type(made)(made.id, type(made.graph).model_validate(graph))


@pytest.fixture
def leftovers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Values that were still held when their scope ended, though nobody needed them any more."""
    found: list[str] = []
    plain = Frame.close

    def close(self: Frame) -> None:
        found.extend(name for name in self._values if name not in self.plan.kept)
        plain(self)

    monkeypatch.setattr(Frame, "close", close)
    return found


@pytest.mark.parametrize("asked", [False, True])
def test_a_program_gives_what_it_gives_written_out(gpt2: Any, build: Any, leftovers: list[str], asked: bool) -> None:
    @settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(programs(2))
    @example([("repeat", 2, [("mix",)]), ("forward", 0, 2, 1)])
    @example([("repeat", 2, [("mix",), ("climb", "outer")])])
    def same(program: list[Step]) -> None:
        whole, flat = (
            task(build, program, unrolled=False, asked=asked),
            task(build, program, unrolled=True, asked=asked),
        )
        outcome, wanted = gpt2.run([whole, flat])
        assume(not isinstance(wanted.error, TooLarge))
        assert wanted.error is None, wanted.error
        assert outcome.error is None, outcome.error
        for name, value in wanted.saved.items():
            scale = value.abs().max().clamp(min=1.0)
            torch.testing.assert_close(outcome.saved[name] / scale, value / scale, rtol=1e-4, atol=1e-5)
        assert leftovers == []

    same()
