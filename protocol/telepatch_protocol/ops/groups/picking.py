"""Rows of picking and placing by index."""

from __future__ import annotations

from telepatch_protocol.ops import placing, rules, selecting
from telepatch_protocol.ops.groups.rows import function, method
from telepatch_protocol.ops.table import Op

PICKING: tuple[Op, ...] = (
    function("index", "input: tensor, index: index", rules.indexed, "input[index], masks included."),
    Op(
        "index_select",
        "input: tensor, dim: dim, index: tensor",
        selecting.index_selected,
        doc="Entries of an axis.",
    ),
    Op("gather", "input: tensor, dim: dim, index: tensor", selecting.gathered, doc="One element per index."),
    Op(
        "take_along_dim",
        "input: tensor, indices: tensor, dim: dim = None",
        selecting.taken,
        doc="As gather, with broadcasting; fits argsort.",
    ),
    Op(
        "scatter",
        "input: tensor, dim: dim, index: tensor, src: operand",
        selecting.scattered,
        doc="Elements replaced by index.",
    ),
    Op(
        "scatter_add",
        "input: tensor, dim: dim, index: tensor, src: tensor",
        selecting.scattered,
        doc="Elements added to by index.",
    ),
    function("one_hot", "input: tensor, num_classes: int", selecting.one_hot, "Integers as vectors with a single one."),
    Op("nonzero", "input: tensor", selecting.nonzero, doc="The places of all that are not zero."),
    Op(
        "diagonal",
        "input: tensor, offset: int = 0, dim1: dim = 0, dim2: dim = 1",
        selecting.diagonal,
        doc="A diagonal of two axes, as the last axis.",
    ),
    Op("tril", "input: tensor, diagonal: int = 0", selecting.triangle, doc="Zero above a diagonal."),
    Op("triu", "input: tensor, diagonal: int = 0", selecting.triangle, doc="Zero below a diagonal."),
    method("select", "input: tensor, dim: dim, index: int", placing.one_entry, "One entry of an axis."),
    method("narrow", "input: tensor, dim: dim, start: int, length: int", placing.stretch, "A stretch of an axis."),
    method("take", "input: tensor, index: tensor", placing.taken_flat, "Elements of the flattened value."),
    method("masked_select", "input: tensor, mask: tensor", placing.masked, "The elements under a mask."),
    method(
        "index_add",
        "input: tensor, dim: dim, index: tensor, source: tensor, alpha: number = 1",
        placing.scaled_added,
        "Entries of an axis added to.",
    ),
    method(
        "index_copy",
        "input: tensor, dim: dim, index: tensor, source: tensor",
        placing.copied_to,
        "Entries of an axis replaced.",
    ),
    method(
        "index_fill",
        "input: tensor, dim: dim, index: tensor, value: operand",
        placing.filled_at,
        "One number in entries of an axis.",
    ),
    method(
        "scatter_reduce",
        "input: tensor, dim: dim, index: tensor, src: tensor, reduce: text, include_self: bool = True",
        placing.combined_at,
        "As scatter; what meets is combined: sum, prod, mean, amax or amin.",
    ),
    method(
        "select_scatter",
        "input: tensor, src: tensor, dim: dim, index: int",
        placing.entry_replaced,
        "One entry of an axis replaced.",
    ),
    method(
        "slice_scatter",
        "input: tensor, src: tensor, dim: dim = 0, start: int = None, end: int = None, step: int = 1",
        placing.slice_replaced,
        "A slice of an axis replaced.",
    ),
    method(
        "diagonal_scatter",
        "input: tensor, src: tensor, offset: int = 0, dim1: dim = 0, dim2: dim = 1",
        placing.diagonal_replaced,
        "A diagonal replaced.",
    ),
    method(
        "diag",
        "input: tensor, diagonal: int = 0",
        placing.diagonal_or_matrix,
        "A matrix with a vector on its diagonal, or a matrix's diagonal.",
    ),
    method(
        "diag_embed",
        "input: tensor, offset: int = 0, dim1: dim = -2, dim2: dim = -1",
        placing.embedded,
        "The last axis on the diagonal of two.",
    ),
    method(
        "diagflat",
        "input: tensor, offset: int = 0",
        placing.flat_on_diagonal,
        "A matrix with all elements on its diagonal.",
    ),
    function("embedding", "input: tensor, weight: tensor", placing.looked_up, "Rows of a matrix, by integers."),
)
"""The rows under "Picking by index"."""
