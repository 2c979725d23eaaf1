"""Generating runs among the nodes of their scope, with the reads and writes outside `each` that are of their steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pydantic import JsonValue

from telepatch_protocol import sites
from telepatch_protocol.errors import BadArgument, CausalLoop, TelepatchError
from telepatch_protocol.graph import Call, Each, Generate, Generating, Get, Invoke, Node, Run, Set, Written
from telepatch_protocol.order import refs_of


def lowered(runs: Iterable[Run], nodes: Iterable[Node]) -> tuple[list[Run], list[Node]]:
    """The runs that are forwards, and the nodes with every generating run among them.

    A read outside `each` becomes an output of its generation, and a write outside it a write of its steps.

    Raises:
        BadArgument: a generation without exactly one invoke, or a read or write that does not say of which steps it is.
        CausalLoop: a write outside `each` of what the same generation reads.
    """
    runs, found = list(runs), list(nodes)
    for run in runs:
        if run.generate is not None:
            found = _with(run, run.generate, found, only=len(runs) == 1)
        elif run.each is not None:
            error = BadArgument(f"run '{run.id}' has 'each', which is evaluated at the steps of a generation")
            raise error.at(node=run.id)
    return [run for run in runs if run.generate is None], found


def _with(run: Run, generate: Generate, nodes: list[Node], *, only: bool) -> list[Node]:
    if len(run.invokes) != 1:
        raise BadArgument(
            f"run '{run.id}' is a generation with {len(run.invokes)} invokes; a generation has one, with settings of "
            "its own: give each input a run. They take their steps together all the same",
            node=run.id,
        )
    invoke = run.invokes[0]
    own = {node.id: node for node in nodes if isinstance(node, Get | Set) and _is_of(node, invoke, only=only)}
    for node in own.values():
        _check(node, own)
    each = run.each or Each()
    reads = {read_name(node.id): f"${node.id}" for node in own.values() if isinstance(node, Get)}
    inside: tuple[Written, ...] = (*each.nodes, *own.values())
    each = each.model_copy(update={"nodes": inside, "out": {**each.out, **reads}})
    outside = [
        _taken(run.id, node.id, node.step) if isinstance(node, Get) and node.id in own else node
        for node in nodes
        if not (isinstance(node, Set) and node.id in own)
    ]
    return [*outside, Generating(id=run.id, invoke=invoke, generate=generate, each=each)]


def written(node: Generating) -> Run:
    """The run that a generation is in a document."""
    each = None if node.each == Each() else node.each
    return Run(id=node.id, invokes=(node.invoke,), generate=node.generate, each=each)


def read_name(node: str) -> str:
    """The output of a generation that a read outside `each` is."""
    return f"read.{node}"


def _is_of(node: Get | Set, invoke: Invoke, *, only: bool) -> bool:
    if node.invoke is not None:
        return node.invoke == invoke.id
    try:
        return only and sites.parse(node.site).port != "param"
    except TelepatchError as error:
        raise error.at(node=node.id) from None


def _check(node: Get | Set, own: Mapping[str, Node]) -> None:
    what = "read" if isinstance(node, Get) else "write"
    if node.step is None:
        raise BadArgument(
            f"a {what} of a generation says at which steps, or stands in its 'each'; give 'step': 0 for the prompt, a "
            "number for a token, ':' for all, '1:' for all but the prompt",
            node=node.id,
        )
    late = next((ref.id for ref in refs_of(node) if ref.id in own), None)
    if late is not None:
        raise CausalLoop(
            f"this {what} needs '{late}', which its own generation reads, and what stands outside 'each' is known "
            "before a generation begins; put both into 'each'",
            node=node.id,
            parent=late,
        )


def _taken(run: str, node: str, step: JsonValue) -> Call:
    """What a read outside `each` has read: one step's value, or those of several, stacked."""
    several = isinstance(step, str) and ":" in step
    return Call(id=node, op="index", args=(f"${run}.{read_name(node)}", ["..."] if several else [0]))
