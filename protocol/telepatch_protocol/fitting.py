"""The sub-graphs of a fit, what each of them sees, and which maps are streams that are never held as a whole."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator

from telepatch_protocol.graph import Arg, Fit, Graph, Map, Node, Optimiser, Reduction, SubGraph

LOSS = "loss"
"""The output of a fit's body that falls."""

STEPS, STOPPED, EVALUATED, LOGGED = "steps", "stopped", "eval", "log"
"""Outputs of a fit: how many steps it made, why it ended, and what comes under ``eval.`` and ``log.``."""

RESERVED = frozenset({LOSS, STEPS, STOPPED, EVALUATED, LOGGED, "step"})
"""Names that parameters and state cannot have."""

RAN, ENOUGH, NOT_FINITE = 0, 1, 2
"""Why a fit ended: it made all its steps, `stop` held, or its loss was not finite."""

MAX_STEPS = 1_000_000
"""How many steps a fit may make."""

_REFERENCE = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)")

Part = tuple[str, SubGraph, frozenset[str], tuple[Arg, ...]]
"""Name, sub-graph, names that it sees and nobody outside does, and what is evaluated in it without a name."""


def sub_graphs(node: Fit) -> Iterator[Part]:
    """The sub-graphs of a fit; its own name is that of the body."""
    own = frozenset({"step", *node.state, *node.params})
    early = own | set(node.before.out if node.before is not None else ())
    if node.before is not None:
        yield f"{node.id}.before", node.before, own, ()
    yield f"{node.id}.numbers", SubGraph.model_construct(runs=(), nodes=(), out={}), early, numbers_of(node)
    yield node.id, node.body, early | set(node.over), ()
    batch = frozenset(node.over) if node.buffer is not None else frozenset()
    yield f"{node.id}.after", after_graph(node), early | batch | {node.id}, ()
    if node.evaluate is not None:
        yield f"{node.id}.evaluate", node.evaluate.body, own, ()


def after_graph(node: Fit) -> SubGraph:
    """What happens after each update, as one sub-graph: outputs ``carry.x``, ``reset.x``, ``emit.x`` and ``stop``."""
    after = node.after
    out: dict[str, Arg] = {f"emit.{name}": value for name, value in node.emit.items()}
    if after is not None:
        out |= {f"carry.{name}": value for name, value in after.carry.items()}
        out |= {f"reset.{name}": value for name, value in after.reset_moments.items()}
        out |= {"stop": after.stop} if after.stop is not None else {}
    return SubGraph.model_construct(runs=(), nodes=() if after is None else after.nodes, out=out)


NUMBERS = ("lr", "betas", "eps", "weight_decay", "momentum", "clip_norm")
"""Numbers of an optimiser, in the order of `numbers_of`."""


def numbers_of(node: Fit) -> tuple[Arg, ...]:
    """The numbers of the optimiser."""
    found = node.optimiser
    return found.lr, found.betas, found.eps, found.weight_decay, found.momentum, found.clip_norm


def arguments_of_fit(node: Fit) -> tuple[Arg, ...]:
    """What a fit takes from where it stands, beside what its sub-graphs take."""
    buffer = () if node.buffer is None else (node.buffer.rows, node.buffer.refill)
    every = () if node.evaluate is None else (node.evaluate.every,)
    inits = (param.init for param in node.params.values())
    own = (node.batch_size, node.steps, node.epochs, node.shuffle, node.checkpoint_every)
    return (*node.over.values(), *own, *buffer, *every, *inits, *node.state.values())


def copies_of(optimiser: Optimiser) -> int:
    """How often a fit holds each of its parameters: itself, its gradient and its moments, and two checkpoints of it."""
    moments = int(optimiser.momentum is not None) if optimiser.name == "sgd" else 2
    return 2 + moments + 2 * (1 + moments)


BUFFER_COPIES = 3
"""How often a fit holds the rows of its buffer: themselves, and two checkpoints of those that are unused."""


def as_map(node: Fit) -> Map:
    """The body of a fit over elements as the map that gives one batch."""
    reduce: dict[str, Reduction] = {LOSS: "mean", **node.reduce}
    return Map.model_construct(id=node.id, over=node.over, grid=False, body=node.body, reduce=reduce, emit={})


def streams(graph: Graph, nodes: Iterable[Node]) -> frozenset[str]:
    """Maps whose outputs go into buffers of fits and nowhere else, so that they are never held as a whole.

    Args:
        graph: the document.
        nodes: all of it, at any depth.
    """
    listed = list(nodes)
    buffered = [node for node in listed if isinstance(node, Fit) and node.buffer is not None]
    if not buffered:
        return frozenset()
    wanted = Counter(name for node in buffered for name in _names(list(node.over.values())))
    used = Counter(_names(graph.to_dict()))
    maps = {node.id for node in listed if isinstance(node, Map)}
    return frozenset(name for name, count in wanted.items() if name in maps and used[name] == count)


def _names(value: object) -> list[str]:
    return _REFERENCE.findall(json.dumps(value))
