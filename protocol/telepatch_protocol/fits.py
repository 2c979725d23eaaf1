"""Checking a fit: its data, its parameters, and what each of its sub-graphs sees."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import JsonValue

from telepatch_protocol.bodies import check_same, holes_in
from telepatch_protocol.checked import Key, Scope, Value
from telepatch_protocol.dtypes import is_float
from telepatch_protocol.errors import BadArgument, DtypeError, GraphError, ShapeError, TooLarge, UnknownName
from telepatch_protocol.fitting import (
    BUFFER_COPIES,
    EVALUATED,
    LOGGED,
    LOSS,
    MAX_STEPS,
    NUMBERS,
    RESERVED,
    STEPS,
    STOPPED,
    after_graph,
    as_map,
    copies_of,
    numbers_of,
)
from telepatch_protocol.graph import Fit, Parameter, SubGraph
from telepatch_protocol.meta import Meta, shown
from telepatch_protocol.reductions import WEIGHT, Part, reduced
from telepatch_protocol.sizes import Dim, Size, most_elements, product
from telepatch_protocol.spans import Span, groups, span_of
from telepatch_protocol.subgraphs import STEP, has_runs
from telepatch_protocol.within import Within, bound_of

if TYPE_CHECKING:
    from telepatch_protocol.checker import Checker

_STEP = Meta((), "int64")


def check_fit(checker: Checker, node: Fit) -> dict[str, Meta]:
    """What the outputs of a fit will be.

    Raises:
        GraphError: it cannot run; the message says which part of it.
    """
    spans = _spans(checker, node)
    size = _count(checker, node, node.batch_size, "batch_size")
    steps = _steps(checker, node, spans, size)
    params = {name: _param(checker, node, name, param) for name, param in node.params.items()}
    if not params:
        raise BadArgument(f"fit '{node.id}' trains nothing; name at least one tensor in 'params'")
    state = {name: checker.written(value) for name, value in node.state.items()}
    if reserved := sorted((params.keys() | state.keys() | node.emit.keys()) & (RESERVED - {LOSS})):
        raise BadArgument(f"fit '{node.id}': '{reserved[0]}' is a name of its own; choose another one")
    if LOSS in params or LOSS in state:
        raise BadArgument(f"fit '{node.id}': '{LOSS}' is what falls; choose another name")
    _settings(checker, node)
    checker.level.counts[f"{node.id}.batch"] = {(): size if node.buffer is None else 1}
    checker.level.beside[node.id] = _beside(checker, node, spans, params)
    known: dict[str, Value] = {**state, **params, STEP: _STEP}
    early = known | (_before(checker, node, known, steps) or {})
    _numbers(checker, node, early)
    rows = _rows(node, spans, size)
    out = _examples(checker, node, spans, early, size, steps) if node.buffer is None else None
    if out is None:
        out = _batch(checker, node, {**early, **rows}, steps)
    _check_loss(node, out)
    after = _after(checker, node, {**early, **rows, node.id: out}, {**params, **state}, steps)
    found = {**params, **state, LOSS: Meta((Size.unknown(steps),), "float32")}
    found |= {STEPS: Meta((), "int64"), STOPPED: Meta((), "int64")}
    found |= {f"{LOGGED}.{name}": _over_time(after[f"emit.{name}"], steps) for name in node.emit}
    return found | _evaluated(checker, node, known, steps)


def _spans(checker: Checker, node: Fit) -> list[Span]:
    if not node.over:
        raise BadArgument(f"fit '{node.id}' goes over nothing; give it at least one list, column or value in 'over'")
    spans = [span_of(name, checker.sequence(value)) for name, value in node.over.items()]
    known = {span.count for span in spans if isinstance(span.count, int)}
    if len(known) > 1:
        listed = ", ".join(f"'{span.name}' {span.count}" for span in spans)
        raise ShapeError(f"fit '{node.id}' takes its data together, and they have {listed} elements")
    if node.buffer is not None and (wrong := [span for span in spans if not isinstance(span.element, Meta)]):
        raise BadArgument(
            f"fit '{node.id}' takes batches of rows from a buffer, and '{wrong[0].name}' is no tensor of rows; take "
            "the 'cat' output of a map, a value or a column of equal rows, or leave out 'buffer' to go over elements"
        )
    return spans


def _count(checker: Checker, node: Fit, value: JsonValue, what: str, most: int = MAX_STEPS) -> int:
    """A number from 1, or the most that it can be where it is computed."""
    found = checker.argument(value)
    if isinstance(found, Meta):
        if found.shape not in ((), None) or "int" not in (found.dtype or "int"):
            raise BadArgument(f"fit '{node.id}': {what} is one integer; found {found}")
        return found.size if isinstance(found.size, int) else most
    if isinstance(found, bool) or not isinstance(found, int) or found < 1:
        raise BadArgument(f"fit '{node.id}': {what} is an integer from 1; found {shown(found)}")
    if found > most:
        raise TooLarge(f"fit '{node.id}': {what} is {found:,}; the limit is {most:,}")
    return found


def _steps(checker: Checker, node: Fit, spans: list[Span], size: int) -> int:
    """How many steps there are at most."""
    if (node.steps is None) == (node.epochs is None):
        raise BadArgument(f"fit '{node.id}' needs either 'steps' or 'epochs'")
    if node.steps is not None:
        return _count(checker, node, node.steps, "steps")
    epochs = _count(checker, node, node.epochs, "epochs")
    known = next((span.count for span in spans if isinstance(span.count, int)), None)
    bounds = [most_elements((span.count,), {}) for span in spans] if known is None else [known]
    rows = min((bound for bound in bounds if bound is not None), default=None)
    if rows is None:
        return MAX_STEPS
    if known is not None and node.buffer is not None and rows < size:
        raise ShapeError(f"fit '{node.id}' takes batches of {size} rows, and there are {rows}")
    each = rows // size if node.buffer is not None else -(-rows // size)
    if epochs * each > MAX_STEPS:
        raise TooLarge(f"fit '{node.id}' makes {epochs * each:,} steps; the limit is {MAX_STEPS:,}")
    return epochs * each


def _beside(checker: Checker, node: Fit, spans: list[Span], params: Mapping[str, Meta]) -> int:
    """Bytes that it holds beside its outputs: what the optimiser knows, checkpoints, and a buffer of its own."""
    found = copies_of(node.optimiser) * sum(meta.bytes_at_most({}) or 0 for meta in params.values())
    if node.buffer is None or node.buffer.rows is None:
        return found
    rows = _count(checker, node, node.buffer.rows, "buffer.rows")
    metas = [span.element for span in spans if isinstance(span.element, Meta)]
    return found + BUFFER_COPIES * rows * sum(meta.bytes_at_most({}) or 0 for meta in metas)


def _settings(checker: Checker, node: Fit) -> None:
    """What else stands where the fit stands."""
    if node.shuffle is not None and not isinstance(checker.argument(node.shuffle), list | int | Meta):
        raise BadArgument(f"fit '{node.id}': shuffle is a key, such as [0]; found {shown(node.shuffle)}")
    if node.checkpoint_every is not None:
        _count(checker, node, node.checkpoint_every, "checkpoint_every")
    if node.evaluate is not None:
        _count(checker, node, node.evaluate.every, "evaluate.every")
    if node.buffer is None:
        return
    if node.reduce:
        raise BadArgument(f"fit '{node.id}' sees whole batches, which nothing reduces; compute that in its body")
    if node.buffer.rows is not None:
        _count(checker, node, node.buffer.rows, "buffer.rows")
    refill = checker.argument(node.buffer.refill)
    if isinstance(refill, bool) or not isinstance(refill, int | float) or not 0 <= refill < 1:
        raise BadArgument(f"fit '{node.id}': buffer.refill is a part from 0 to below 1; found {shown(refill)}")


def _param(checker: Checker, node: Fit, name: str, param: Parameter) -> Meta:
    meta = checker.written(param.init)
    if meta.dtype is not None and not is_float(meta.dtype):
        raise DtypeError(
            f"fit '{node.id}': parameter '{name}' begins as {meta}; only floating values are trained, "
            "so begin with .to('float32')"
        )
    if meta.shape is None:
        return meta
    if param.constraint == "orthogonal" and len(meta.shape) != 2:
        raise ShapeError(f"fit '{node.id}': parameter '{name}' is {meta}; 'orthogonal' is of a matrix, of two axes")
    if param.constraint == "unit_norm":
        dim, axes = -1 if param.dim is None else param.dim, len(meta.shape)
        if not -axes <= dim < axes:
            raise ShapeError(f"fit '{node.id}': parameter '{name}' is {meta}; 'unit_norm' along {dim} has no such axis")
    elif param.dim is not None:
        raise BadArgument(f"fit '{node.id}': parameter '{name}' has a 'dim', which only 'unit_norm' needs")
    return meta


def _scope(checker: Checker, node: Fit, name: str, scope: Scope, count: int) -> Scope:
    key = f"{node.id}.{name}" if name else node.id
    checker.level.bodies[key], checker.level.counts[key] = {(): scope}, {(): count}
    return scope


def _before(checker: Checker, node: Fit, known: Mapping[str, Value], steps: int) -> dict[str, Meta] | None:
    if node.before is None:
        return None
    if has_runs(node.before):
        raise BadArgument(f"fit '{node.id}': what comes before a step runs no forward; the body does")
    return dict(_scope(checker, node, "before", _part(checker, node, "before", node.before, known), steps).out)


def _numbers(checker: Checker, node: Fit, known: Mapping[str, Value]) -> None:
    checker.enter(known)
    try:
        for name, value in zip(NUMBERS, numbers_of(node), strict=True):
            if value is not None:
                _number(checker, node, name, value)
    finally:
        checker.leave()
    allowed = {"lr", "weight_decay", "clip_norm"} | ({"momentum"} if node.optimiser.name == "sgd" else {"betas", "eps"})
    given = {name for name in ("betas", "eps", "momentum") if getattr(node.optimiser, name) is not None}
    if wrong := sorted(given - allowed):
        raise BadArgument(f"fit '{node.id}': '{node.optimiser.name}' has no {wrong[0]}")


def _number(checker: Checker, node: Fit, name: str, value: JsonValue) -> None:
    found = checker.argument(value)
    wanted = 2 if name == "betas" else 1
    listed = found if isinstance(found, list) and wanted == 2 else [found]
    if len(listed) != wanted and not isinstance(found, Meta):
        raise BadArgument(f"fit '{node.id}': {name} of the optimiser are two numbers; found {shown(found)}")
    for one in listed:
        if isinstance(one, Meta):
            if one.shape is not None and product(one.shape) != wanted and isinstance(product(one.shape), int):
                raise ShapeError(f"fit '{node.id}': {name} of the optimiser is one number; found {one}")
        elif isinstance(one, bool) or not isinstance(one, int | float) or one < 0:
            raise BadArgument(f"fit '{node.id}': {name} of the optimiser is a number from 0; found {shown(one)}")


def _rows(node: Fit, spans: list[Span], size: int) -> dict[str, Value]:
    """What the names of `over` stand for in a batch of rows."""
    if node.buffer is None:
        return {}
    elements = {span.name: span.element for span in spans}
    return {
        name: Meta(None if one.shape is None else (size, *one.shape), one.dtype)
        for name, one in elements.items()
        if isinstance(one, Meta)
    }


def _batch(checker: Checker, node: Fit, known: Mapping[str, Value], steps: int) -> dict[str, Meta]:
    return dict(_scope(checker, node, "", _part(checker, node, "", node.body, known), steps).out)


def _examples(
    checker: Checker, node: Fit, spans: list[Span], known: Mapping[str, Value], size: int, steps: int
) -> dict[str, Meta]:
    """The outputs of a batch of examples, those planned alike each checked once."""
    most = checker.card.limits.max_elements
    counts = {span.count for span in spans if isinstance(span.count, int)}
    if any(count > most for count in counts):
        raise TooLarge(f"fit '{node.id}' goes over {max(counts):,} elements; the limit is {most:,}")
    scopes: dict[Key, Scope] = {}
    times: dict[Key, int] = {}
    parts: list[Part] = []
    found = groups(spans, False, holes_in(node.body) & node.over.keys(), checker.lengths, most)
    whole = sum(group.count for group in found)
    for group in found:
        for places in group.samples:
            bound = {span.name: span.at(place) for span, place in zip(spans, places, strict=True)}
            scope = _example(checker, node, {**known, **bound}, bound, places[0])
            scopes.setdefault(group.key, scope)
        times[group.key] = max(1, steps * min(size, whole) * group.count // max(1, whole))
        parts.append(Part(scopes[group.key].out, group.count))
        _check_example(node, scopes[group.key].out)
    checker.level.bodies[node.id], checker.level.counts[node.id] = scopes, times
    lead: tuple[Dim, ...] = (Size.unknown(size),)
    return reduced(as_map(node), parts, lead)


def _example(checker: Checker, node: Fit, known: Mapping[str, Value], bound: Mapping[str, Value], at: int) -> Scope:
    try:
        return checker.body(node.body, known)
    except GraphError as error:
        raise error.inside(Within(kind="fit", node=node.id, element=at, bound=bound_of(bound))) from None


def _part(checker: Checker, node: Fit, name: str, graph: SubGraph, known: Mapping[str, Value]) -> Scope:
    try:
        return checker.body(graph, known)
    except GraphError as error:
        raise error.inside(Within(kind="fit", node=node.id, part=name or None)) from None


def _check_example(node: Fit, out: Mapping[str, Meta]) -> None:
    if (how := node.reduce.get(LOSS, "mean")) not in ("mean", "sum", "weighted"):
        raise BadArgument(f"fit '{node.id}': the loss of a batch is a mean, weighted, or a sum; found '{how}'")
    for name in (LOSS, WEIGHT) if how == "weighted" else (LOSS,):
        _one(node, name, out)


def _one(node: Fit, name: str, out: Mapping[str, Meta]) -> None:
    if name not in out:
        known = ", ".join(out) or "none"
        raise BadArgument(f"fit '{node.id}': its body has no output '{name}'; there are: {known}")
    shape = out[name].shape
    if shape is not None and isinstance(count := product(shape), int) and count != 1:
        raise ShapeError(
            f"fit '{node.id}': '{name}' is one number; found {out[name]}. Say what is meant: .sum() or .mean()"
        )


def _check_loss(node: Fit, out: Mapping[str, Meta]) -> None:
    _one(node, LOSS, out)
    if (dtype := out[LOSS].dtype) is not None and not is_float(dtype):
        raise DtypeError(f"fit '{node.id}': the loss is a floating number; found {out[LOSS]}")


def _after(
    checker: Checker, node: Fit, known: Mapping[str, Value], renewed: Mapping[str, Meta], steps: int
) -> Mapping[str, Meta]:
    scope = _scope(checker, node, "after", _part(checker, node, "after", after_graph(node), known), steps)
    for name in node.after.carry if node.after is not None else ():
        if name not in renewed:
            listed = ", ".join(renewed)
            raise UnknownName(f"fit '{node.id}' carries '{name}', which is no state and no parameter; known: {listed}")
        check_same(f"fit '{node.id}'", name, renewed[name], scope.out[f"carry.{name}"])
    for name in node.after.reset_moments if node.after is not None else ():
        if name not in node.params:
            raise UnknownName(f"fit '{node.id}' resets moments of '{name}', which is no parameter")
    stop = scope.out.get("stop")
    if stop is not None and stop.shape is not None and isinstance(n := product(stop.shape), int) and n != 1:
        raise ShapeError(f"fit '{node.id}' stops by one value; '{node.after and node.after.stop}' is {stop}")
    return scope.out


def _over_time(meta: Meta, most: int) -> Meta:
    return Meta(None if meta.shape is None else (Size.unknown(most), *meta.shape), meta.dtype)


def _evaluated(checker: Checker, node: Fit, known: Mapping[str, Value], steps: int) -> dict[str, Meta]:
    if node.evaluate is None:
        return {}
    every = checker.argument(node.evaluate.every)
    times = max(1, steps // every) if isinstance(every, int) else steps
    scope = _scope(checker, node, "evaluate", _part(checker, node, "evaluate", node.evaluate.body, known), times)
    return {f"{EVALUATED}.{name}": _over_time(meta, times) for name, meta in scope.out.items()}
