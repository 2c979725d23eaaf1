"""Gradients and generations: what a gradient would have to flow through, and cannot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from telepatch_protocol import refs
from telepatch_protocol.dtypes import is_float
from telepatch_protocol.errors import NotYetSupported
from telepatch_protocol.graph import Call, Generating, Get, Grad, Node, Set
from telepatch_protocol.meta import Meta
from telepatch_protocol.order import given_to, refs_of
from telepatch_protocol.refs import Ref


def check_flow(order: Iterable[Node], values: Mapping[str, object]) -> None:
    """Refuse a gradient with respect to a value that the number depends on only through a generation's steps.

    What comes out of a generation is a constant to gradients; where that would silently give zeros, it is refused.

    Args:
        order: the nodes of a scope.
        values: what is known of their values.

    Raises:
        NotYetSupported: naming the gradient, the value and the generation.
    """
    nodes = {node.id: node for node in order}
    made = [node for node in nodes.values() if isinstance(node, Generating)]
    asked = [node for node in nodes.values() if isinstance(node, Grad)]
    if not made or not asked:
        return
    writes: dict[str | None, list[str]] = {}
    for node in nodes.values():
        if isinstance(node, Set):
            writes.setdefault(node.invoke, []).append(node.id)
    behind = {
        one.id: _reached(refs_of(one), nodes, writes, values) | {ref.id for ref in given_to(one.invoke)} for one in made
    }
    for node in asked:
        reached = _reached(refs.walk(node.of), nodes, writes, values)
        for ref in refs.walk(list(node.wrt)):
            through = next((one for one, own in behind.items() if one in reached and ref.id in own), None)
            if through is not None:
                raise NotYetSupported(
                    f"grad '{node.id}' asks for the gradient of '{ref}' through generation '{through}', which keeps "
                    "nothing for gradients; run its tokens as ids in a forward, or say detach() where it is a constant",
                    node=node.id,
                )


def _reached(
    begin: Iterable[Ref],
    nodes: Mapping[str, Node],
    writes: Mapping[str | None, list[str]],
    values: Mapping[str, object],
) -> set[str]:
    """Everything that values depend on, as far as gradients could flow."""
    found: set[str] = set()
    stack = [ref for ref in begin if _flows(ref, values)]
    while stack:
        ref = stack.pop()
        if ref.id in found:
            continue
        found.add(ref.id)
        node = nodes.get(ref.id)
        if isinstance(node, Get):
            stack += [Ref(name) for name in (*writes.get(node.invoke, ()), *writes.get(None, ()))]
        elif node is not None and not (isinstance(node, Call) and node.op == "detach"):
            stack += [one for one in refs_of(node) if _flows(one, values)]
    return found


def _flows(ref: Ref, values: Mapping[str, object]) -> bool:
    known = values.get(ref.id)
    meta = known.get(ref.output) if isinstance(known, dict) else known
    return not isinstance(meta, Meta) or meta.dtype is None or is_float(meta.dtype)
