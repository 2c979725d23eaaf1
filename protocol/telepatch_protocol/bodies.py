"""Checking nodes that carry sub-graphs: what each sub-graph sees, and what comes out of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import JsonValue

from telepatch_protocol import indexing, refs, sites
from telepatch_protocol.checked import Key, Scope, Value
from telepatch_protocol.dtypes import is_float
from telepatch_protocol.errors import BadArgument, DtypeError, GraphError, ShapeError, TooLarge, UnknownName
from telepatch_protocol.graph import Cond, Get, Grad, Map, Module, Repeat, Set, SubGraph
from telepatch_protocol.meta import Meta, shown
from telepatch_protocol.reductions import Part, reduced
from telepatch_protocol.sizes import Dim, Size, least, most, product
from telepatch_protocol.spans import Group, Span, groups, span_of
from telepatch_protocol.subgraphs import COMPUTED_TIMES, STEP, VALUE, all_nodes, all_runs, has_runs
from telepatch_protocol.within import Within, bound_of

if TYPE_CHECKING:
    from telepatch_protocol.checker import Checker


def check_map(checker: Checker, node: Map) -> dict[str, Meta]:
    """What the outputs of a map will be.

    Raises:
        GraphError: an element that cannot run, named by its values; lists of different lengths; too many elements.
    """
    if not node.over:
        raise BadArgument(f"map '{node.id}' goes over nothing; give it at least one list, range or value in 'over'")
    spans = [span_of(name, checker.sequence(value)) for name, value in node.over.items()]
    lead = _lead(node, spans, checker.card.limits.max_elements)
    most = checker.card.limits.max_elements
    scopes: dict[Key, Scope] = {}
    counts: dict[Key, int] = {}
    parts: list[Part] = []
    for group in groups(spans, node.grid, holes_in(node.body) & node.over.keys(), checker.lengths, most):
        found = _elements(checker, node, spans, group)
        scopes[group.key], counts[group.key] = found[0], group.count
        parts += [Part(one.out, group.count, first=one is found[0]) for one in found]
    checker.level.bodies[node.id], checker.level.counts[node.id] = scopes, counts
    return reduced(node, parts, lead)


def _lead(node: Map, spans: list[Span], most: int) -> tuple[Dim, ...]:
    """The axes that stacked outputs get in front."""
    counts = [span.count for span in spans]
    known = {count for count in counts if isinstance(count, int)}
    if not node.grid and len(known) > 1:
        listed = ", ".join(f"'{span.name}' {span.count}" for span in spans)
        raise ShapeError(
            f"map '{node.id}' takes its lists together, and they have {listed} elements; give lists of one length, or "
            "say grid to take every combination"
        )
    lead = tuple(counts) if node.grid else (known.pop() if known else counts[0],)
    total = product(lead)
    if isinstance(total, int) and total > most:
        raise TooLarge(f"map '{node.id}' has {total:,} elements; the limit is {most:,}")
    return lead


def _elements(checker: Checker, node: Map, spans: list[Span], group: Group) -> list[Scope]:
    """Check the elements that stand for a group; the first gives the scope for all."""
    found: list[Scope] = []
    for places in group.samples:
        bound = {span.name: span.at(place) for span, place in zip(spans, places, strict=True)}
        try:
            found.append(checker.body(node.body, bound, tail=tuple(node.emit.values())))
        except GraphError as error:
            at = _number(node, spans, places)
            raise error.inside(Within(kind="map", node=node.id, element=at, bound=bound_of(bound))) from None
    return found


def _number(node: Map, spans: list[Span], places: tuple[int, ...]) -> int | None:
    """Which element of a map it is; None where the lists before it in a grid are of unknown length."""
    if not node.grid:
        return places[0]
    number = 0
    for span, place in zip(spans, places, strict=True):
        if not isinstance(span.count, int):
            return None
        number = number * span.count + place
    return number


def holes_in(graph: SubGraph) -> frozenset[str]:
    """Names of which the very value counts in planning a sub-graph, at any depth: those in sites and module paths,
    those that maps go over, and those that say how many steps there are, or which."""
    found: set[str] = set()
    for node in all_nodes(graph):
        if isinstance(node, Get | Set):
            found.update(sites.parse(node.site).holes)
            found.update(ref.id for ref in ([] if node.step is None else indexing.refs_of([node.step])))
        elif isinstance(node, Module):
            found.update(sites.parse(f"{node.path}:output").holes)
        elif isinstance(node, Map):
            found.update(ref.id for value in node.over.values() for ref in refs.walk(value))
    counts = [run.generate.max_new_tokens for run in all_runs(graph) if run.generate is not None]
    return frozenset({*found, *(ref.id for ref in refs.walk(counts))})


def check_repeat(checker: Checker, node: Repeat) -> dict[str, Meta]:
    """What the outputs of a repeat will be: carried values as they end, others stacked over the times it ran.

    Raises:
        GraphError: the body cannot run, or a carried value changes its kind.
    """
    if STEP in node.carry:
        raise BadArgument(f"repeat '{node.id}' counts by the name '{STEP}'; carry the value by another name")
    times = checker.argument(node.n)
    known, allowed = _times(node, times, checker.card.limits.max_elements, _most(checker, node))
    carried = {name: checker.written(value) for name, value in node.carry.items()}
    steps: tuple[Value, ...] = (Meta((), "int64"),) if known is None else tuple(dict.fromkeys((0, max(0, known - 1))))
    tail = (node.while_, *node.emit.values())
    scopes = [_step(checker, node, {**carried, STEP: step}, tail) for step in steps]
    out = scopes[0].out
    for name, before in carried.items():
        _check_carried(node, name, before, out)
    if node.while_ is not None:
        _check_while(checker, node, scopes[0])
    checker.level.bodies[node.id] = {(): scopes[0]}
    checker.level.counts[node.id] = {(): allowed}
    ran: Dim = known if known is not None and node.while_ is None else Size.unknown(*([allowed] if allowed else []))
    return {name: meta if name in carried else _stacked(meta, ran) for name, meta in out.items()}


def _step(checker: Checker, node: Repeat, bound: Mapping[str, Value], tail: tuple[JsonValue, ...]) -> Scope:
    try:
        return checker.body(node.body, bound, tail=tail)
    except GraphError as error:
        step = bound[STEP]
        raise error.inside(Within(kind="repeat", node=node.id, step=step if isinstance(step, int) else None)) from None


def _most(checker: Checker, node: Repeat) -> int | None:
    """How large n may be, where the author says so."""
    if node.most is None:
        return None
    found, limit = checker.argument(node.most), checker.card.limits.max_elements
    if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found <= limit:
        raise BadArgument(f"repeat '{node.id}': most is an integer from 0 to {limit:,}; found {shown(found)}")
    return found


def _times(node: Repeat, times: Value, limit: int, said: int | None) -> tuple[int | None, int]:
    """How often a repeat runs, where that is known, and how often at most."""
    if isinstance(times, Meta):
        if times.shape not in ((), None) or "int" not in (times.dtype or "int"):
            raise BadArgument(f"repeat '{node.id}': n is one integer; found {times}")
        if not isinstance(times.size, int):
            bound = None if times.size is None else most(times.size)
            return None, min(limit, next(one for one in (said, bound, COMPUTED_TIMES) if one is not None))
        times = times.size
    if isinstance(times, bool) or not isinstance(times, int) or times < 0:
        raise BadArgument(f"repeat '{node.id}': n is an integer from 0; found {shown(times)}")
    if times > limit:
        raise TooLarge(f"repeat '{node.id}' runs {times:,} times; the limit is {limit:,}")
    if said is not None and times > said:
        raise BadArgument(f"repeat '{node.id}' runs {times:,} times, and its 'most' is {said:,}; leave 'most' out")
    return times, times


def _check_carried(node: Repeat, name: str, before: Meta, out: Mapping[str, Meta]) -> None:
    if name not in out:
        raise BadArgument(f"repeat '{node.id}' carries '{name}', but its body has no output '{name}' that renews it")
    check_same(f"repeat '{node.id}'", name, before, out[name])


def check_same(what: str, name: str, before: Meta, after: Meta) -> None:
    """Check that what a body renews, over and over, stays of one dtype and shape.

    Args:
        what: kind and id of the node, as the error says them.
        name: of the value.
        before: as it begins.
        after: as the body gives it.

    Raises:
        DtypeError, ShapeError: it changes.
    """
    if before.dtype and after.dtype and before.dtype != after.dtype:
        raise DtypeError(
            f"{what}: '{name}' begins as {before} and becomes {after}; begin with a value of that dtype, "
            f"or convert it with .to('{before.dtype}')"
        )
    if before.shape is None or after.shape is None:
        return
    pairs = zip(before.shape, after.shape, strict=False)
    if len(before.shape) != len(after.shape) or any(
        isinstance(one, int) and isinstance(two, int) and one != two for one, two in pairs
    ):
        raise ShapeError(f"{what}: '{name}' begins as {before} and becomes {after}; shapes must stay")


def _check_while(checker: Checker, node: Repeat, scope: Scope) -> None:
    ref = refs.parse(node.while_)
    name = "" if ref is None else ref.id
    found = next((known[name] for known in (scope.out, scope.values, checker.values) if name in known), None)
    if isinstance(found, Meta) and found.shape is not None and product(found.shape) != 1:
        raise ShapeError(
            f"repeat '{node.id}' goes on while one value holds; '{node.while_}' is {found}; use all() or any()"
        )


def _stacked(meta: Meta, lead: Dim) -> Meta:
    return Meta(None if meta.shape is None else (lead, *meta.shape), meta.dtype)


def check_cond(checker: Checker, node: Cond) -> Value:
    """What a choice will be: of both branches what they have in common.

    Raises:
        GraphError: a condition of several elements, or branches that do not match.
    """
    condition = checker.argument(node.if_)
    if isinstance(condition, Meta) and condition.shape is not None:
        if isinstance(count := product(condition.shape), int) and count != 1:
            raise ShapeError(
                f"cond '{node.id}' chooses by one value; found {condition}. Use where() to choose by element"
            )
    elif not isinstance(condition, Meta | bool | int | float):
        raise BadArgument(f"cond '{node.id}' chooses by a value; found {shown(condition)}")
    then, other = (_branch(checker, node, name, one) for name, one in (("then", node.then), ("else", node.else_)))
    if then.keys() != other.keys():
        raise BadArgument(
            f"cond '{node.id}': its branches give {', '.join(then) or 'nothing'} and {', '.join(other) or 'nothing'}; "
            "both give the same outputs"
        )
    both = {name: _either(then[name], other[name]) for name in then}
    return both[VALUE] if both.keys() == {VALUE} else both


def _branch(checker: Checker, node: Cond, name: str, branch: SubGraph | JsonValue) -> Mapping[str, Meta]:
    if not isinstance(branch, SubGraph):
        return {VALUE: checker.written(branch)}
    if has_runs(branch):
        raise BadArgument(f"cond '{node.id}': a branch runs no forward; run both and choose between their values")
    try:
        scope = checker.body(branch, {})
    except GraphError as error:
        raise error.inside(Within(kind="cond", node=node.id, part=name)) from None
    key = f"{node.id}.{name}"
    checker.level.bodies[key], checker.level.counts[key] = {(): scope}, {(): 1}
    return scope.out


def _either(one: Meta, other: Meta) -> Meta:
    dtype = one.dtype if one.dtype == other.dtype else None
    if one.shape is None or other.shape is None or len(one.shape) != len(other.shape):
        return Meta(None, dtype)
    dims = zip(one.shape, other.shape, strict=True)
    return Meta(tuple(a if a == b else Size.unknown(a + b) for a, b in dims), dtype)


def check_grad(checker: Checker, node: Grad) -> dict[str, Meta]:
    """What the gradients will be: each of the shape and dtype of what it is asked for.

    Raises:
        ShapeError: the value has several elements.
        DtypeError: integers have no gradient.
        BadArgument: what is asked for is no value of this graph.
    """
    of = checker.argument(node.of)
    if not isinstance(of, Meta):
        raise BadArgument(f"grad '{node.id}': a gradient is of a value; found {shown(of)}")
    if of.dtype is not None and not is_float(of.dtype):
        raise DtypeError(f"grad '{node.id}': a gradient is of a floating value; found {of}")
    if of.shape is not None and ((count := product(of.shape)) == 0 or least(count) > 1):
        raise ShapeError(
            f"grad '{node.id}': a gradient is of one number; found {of}. Say what is meant: .sum(), .mean() or an index"
        )
    if not node.wrt and node.body is None:
        raise BadArgument(f"grad '{node.id}' asks for no gradient; name values in 'wrt'")
    found = {str(at): _wrt(checker, node, arg) for at, arg in enumerate(node.wrt)}
    if node.body is None:
        return found
    return found | checker.backward_body(node, node.body)


def _wrt(checker: Checker, node: Grad, arg: JsonValue) -> Meta:
    ref = refs.parse(arg)
    if ref is None:
        raise BadArgument(f"grad '{node.id}': a gradient is with respect to a value, such as '$h'; found {shown(arg)}")
    meta = checker.lookup(ref)
    if not isinstance(meta, Meta):
        raise BadArgument(f"grad '{node.id}': '{ref}' is {shown(meta)}, which is no tensor and has no gradient")
    if meta.dtype is not None and not is_float(meta.dtype):
        raise DtypeError(f"grad '{node.id}': '{ref}' is {meta}; only floating values have gradients")
    if ref.output is not None and ref.output.endswith(".lengths"):
        raise UnknownName(f"grad '{node.id}': '{ref}' has no gradient")
    if (places := checker.places_of(ref.id)) and places[0].place.port == "param":
        raise BadArgument(
            f"grad '{node.id}': '{ref.id}' is a weight of the model, which is fixed; ask at what its module takes or "
            f"returns, or about a copy that only your own operations use, such as mul('${ref.id}', 1)"
        )
    checker.wrt.add(ref.id)
    return Meta(meta.shape, meta.dtype)
