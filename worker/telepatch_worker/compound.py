"""Nodes with sub-graphs: maps, repeats, choices and gradients, each as work that may need forwards on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from telepatch_protocol import refs
from telepatch_protocol.errors import BadArgument, ExecutionError
from telepatch_protocol.graph import Cond, Fit, Generating, Grad, Map, Module, Node, Repeat, SubGraph
from telepatch_protocol.meta import Meta
from telepatch_protocol.sizes import most
from telepatch_protocol.subgraphs import STEP, VALUE
from telepatch_protocol.within import Within
from telepatch_worker.applying import applied_together
from telepatch_worker.edits import Edits
from telepatch_worker.emitting import tell
from telepatch_worker.fit import fitted
from telepatch_worker.folds import Fold, stacked
from telepatch_worker.kernels import DTYPES
from telepatch_worker.mapping import Elements
from telepatch_worker.requests import Backward, Work, together
from telepatch_worker.row_streams import Column, Stream
from telepatch_worker.steps import generated
from telepatch_worker.values import Value, as_tensor

if TYPE_CHECKING:
    from telepatch_worker.frame import Frame

LOOK = 4
"""After so many steps a loop looks whether it is time to let others go first."""


def evaluated(frame: Frame, node: Node) -> Work[Value]:
    """The value, or the values by name, of a node with sub-graphs."""
    return _KINDS[type(node)](frame, node)


def _map(frame: Frame, node: Map) -> Work[Value]:
    """Every element once, as many at a time as fit, each folded into the outputs as soon as it is there."""
    if node.id in frame.context.plan.flowing:
        stream = Stream(frame, node)
        return {name: Column(stream, name) for name in node.body.out}
    elements = Elements(frame, node)
    fold = Fold(node, elements.lead, keep=node.id in frame.plan.differentiated, hold=frame.context.hold)
    for chunk in elements.chunks():
        frames = [(at, elements.frame(at)) for at in chunk]
        yield from together(one.run() for _, one in frames)
        for at, one in frames:
            with one.during(node):
                out = one.outputs(node.body.out)
                tell(one, node.id, node.emit, out)
                fold.add(at, out)
            one.close()
        yield from frame.context.others_first()
    return fold.values()


def _repeat(frame: Frame, node: Repeat) -> Work[Value]:
    """One time after the other; what is carried comes out as it ends, the rest stacked."""
    times = _times(frame, node)
    keep = node.id in frame.plan.differentiated
    carried: dict[str, Value] = {name: frame.tensor(value) for name, value in node.carry.items()}
    others: dict[str, list[torch.Tensor]] = {name: [] for name in node.body.out if name not in carried}
    plan = frame.plan.body(node.id)
    for step in range(times):
        frame.context.pause()
        within = Within(kind="repeat", node=node.id, step=step)
        inner = frame.inside(plan, {**carried, STEP: step}, at=step, within=within)
        yield from inner.run()
        with inner.during(node):
            out = {name: value if keep else value.detach() for name, value in inner.outputs(node.body.out).items()}
            carried |= {name: out[name] for name in carried}
            for name, rows in others.items():
                rows.append(out[name])
                frame.context.hold(out[name].nbytes)
            tell(inner, node.id, node.emit, out)
            going = node.while_ is None or _holds(inner.after(out).tensor(node.while_), node.id)
        inner.close()
        if not going:
            break
        if step % LOOK == LOOK - 1:
            yield from frame.context.others_first()
    frame.context.hold(-sum(row.nbytes for rows in others.values() for row in rows))
    return carried | {
        name: stacked(rows, (len(rows),)) if rows else _none(plan.scope.out[name], frame.context.device)
        for name, rows in others.items()
    }


def _times(frame: Frame, node: Repeat) -> int:
    """How often it runs; one that is computed is held against what the job was priced by."""
    found = frame.argument(node.n)
    times, limit = int(as_tensor(found, frame.context.device)), frame.context.card.limits.max_elements
    allowed = frame.plan.scope.counts[node.id][()] if isinstance(found, torch.Tensor) else limit
    if 0 <= times <= allowed:
        return times
    hint = f"; say 'most', up to {limit:,}, to be priced by more" if 0 <= times <= limit else ""
    raise BadArgument(f"repeat '{node.id}' is to run {times:,} times; 0 to {allowed:,} are allowed{hint}")


def _none(meta: Meta, device: torch.device) -> torch.Tensor:
    """What a repeat that never ran stacks: nothing, of the shape that each would have had."""
    dims = [most(dim) or 0 for dim in meta.shape or ()]
    return torch.zeros((0, *dims), dtype=DTYPES[meta.dtype or "float32"], device=device)


def _holds(value: torch.Tensor, node: str) -> bool:
    if value.numel() != 1:
        raise ExecutionError(f"'{node}' goes by one value; found {tuple(value.shape)}")
    return bool(value.item())


def _cond(frame: Frame, node: Cond) -> Work[Value]:
    holds = _holds(frame.tensor(node.if_), node.id)
    branch, name = (node.then, "then") if holds else (node.else_, "else")
    if not isinstance(branch, SubGraph):
        return frame.tensor(branch)
    within = Within(kind="cond", node=node.id, part=name)
    inner = frame.inside(frame.plan.body(f"{node.id}.{name}"), {}, within=within)
    yield from inner.run()
    out: dict[str, Any] = inner.outputs(branch.out)
    inner.close()
    return out[VALUE] if out.keys() == {VALUE} else out


def _grad(frame: Frame, node: Grad) -> Work[Value]:
    """Gradients of one number; a value that it does not depend on has zeros."""
    wrt = [frame.tracks(ref) for one in node.wrt if (ref := refs.parse(one)) is not None]
    of = as_tensor(frame.argument(node.of), frame.context.device)
    edits = None if node.body is None else Edits(frame, node)
    request = Backward(of, wrt, [] if edits is None else [edits], frame.sees())
    try:
        yield [request]
        found: dict[str, Any] = {}
        for at, (one, gradients) in enumerate(zip(node.wrt, request.found, strict=True)):
            found[str(at)] = frame.gradient(refs.parse(one), wrt[at], gradients)
        return found | ({} if edits is None else edits.outputs())
    finally:
        if edits is not None:
            edits.close()


_KINDS: Mapping[type[Any], Callable[[Any, Any], Work[Value]]] = {
    Map: _map,
    Repeat: _repeat,
    Cond: _cond,
    Grad: _grad,
    Fit: fitted,
    Generating: generated,
    Module: applied_together,
}
