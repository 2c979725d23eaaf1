"""The operations, gathered; PyTorch's documentation is the reference for what each computes."""

from __future__ import annotations

from telepatch_protocol.errors import UnknownOperation
from telepatch_protocol.ops.groups.activations import ACTIVATIONS
from telepatch_protocol.ops.groups.algebra import ALGEBRA
from telepatch_protocol.ops.groups.elementwise import ELEMENTWISE
from telepatch_protocol.ops.groups.layers import LAYERS
from telepatch_protocol.ops.groups.logic import LOGIC
from telepatch_protocol.ops.groups.losses import LOSSES
from telepatch_protocol.ops.groups.making import MAKING, RANDOM
from telepatch_protocol.ops.groups.picking import PICKING
from telepatch_protocol.ops.groups.reductions import REDUCTIONS
from telepatch_protocol.ops.groups.shapes import SHAPES
from telepatch_protocol.ops.groups.sorting import SORTING
from telepatch_protocol.ops.table import Op

GROUPS: dict[str, tuple[Op, ...]] = {
    "Elementwise": ELEMENTWISE,
    "Comparison and logic": LOGIC,
    "Activations and norms": ACTIVATIONS,
    "Reductions": REDUCTIONS,
    "Sorting": SORTING,
    "Shape": SHAPES,
    "Picking by index": PICKING,
    "Linear algebra": ALGEBRA,
    "Losses": LOSSES,
    "Layers": LAYERS,
    "Making": MAKING,
    "Random": RANDOM,
}
"""Every operation under its heading in the reference."""

OPS: dict[str, Op] = {op.name: op for group in GROUPS.values() for op in group}
"""Every operation by name."""


def find_op(name: str) -> Op:
    """The operation of that name.

    Raises:
        UnknownOperation: not in the vocabulary; the message has the nearest known names.
    """
    if name not in OPS:
        import difflib  # rarely needed, and slow to import

        near = difflib.get_close_matches(name, OPS, n=3)
        hint = f"; nearest: {', '.join(near)}" if near else ""
        raise UnknownOperation(f"there is no operation '{name}'{hint}")
    return OPS[name]
