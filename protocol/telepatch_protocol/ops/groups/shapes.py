"""Rows of shape."""

from __future__ import annotations

from telepatch_protocol.ops import arranging, rules, shaping
from telepatch_protocol.ops.groups.rows import TWO, function, method
from telepatch_protocol.ops.table import Op

SHAPES: tuple[Op, ...] = (
    Op("size", "input: tensor, dim: dim", rules.size_of, doc="The size of an axis; it may stand in shapes."),
    Op("numel", "input: tensor", rules.count_of, doc="The number of elements; it may stand in shapes."),
    Op("reshape", "input: tensor, shape: shape", shaping.reshaped, doc="Another shape; one size may be -1."),
    Op("flatten", "input: tensor, start_dim: dim = 0, end_dim: dim = -1", shaping.flattened, doc="Axes made one."),
    Op("unflatten", "input: tensor, dim: dim, sizes: shape", shaping.unflattened, doc="One axis made several."),
    Op("transpose", "input: tensor, dim0: dim, dim1: dim", shaping.transposed, doc="Two axes exchanged."),
    Op("mT", "input: tensor", shaping.matrix_transposed, doc="The last two axes exchanged."),
    Op("permute", "input: tensor, dims: dims", shaping.permuted, doc="Axes in another order."),
    Op("squeeze", "input: tensor, dim: dims = None", shaping.squeezed, doc="Axes of size one dropped."),
    Op("unsqueeze", "input: tensor, dim: dim", shaping.unsqueezed, doc="A new axis of size one."),
    Op("expand", "input: tensor, size: shape", shaping.expanded, doc="Axes of size one repeated; -1 keeps one."),
    Op("repeat", "input: tensor, repeats: shape", shaping.repeated, doc="The whole repeated along each axis."),
    Op(
        "repeat_interleave",
        "input: tensor, repeats: int, dim: dim = None",
        shaping.interleaved,
        doc="Each element repeated where it stands.",
    ),
    Op("flip", "input: tensor, dims: dims", shaping.flipped, doc="Axes reversed."),
    Op("roll", "input: tensor, shifts: ints, dims: dims = None", shaping.rolled, doc="Elements moved around."),
    function("cat", "tensors: tensors, dim: dim = 0", shaping.joined, "Values one after another along an axis."),
    function("stack", "tensors: tensors, dim: dim = 0", shaping.stacked, "Values side by side on a new axis."),
    Op("to", "input: tensor, dtype: dtype", rules.converted, doc="Another dtype."),
    method(
        "broadcast_to", "input: tensor, shape: shape", arranging.spread_out, "Axes of size one repeated; -1 keeps one."
    ),
    method("expand_as", TWO, arranging.like_other, "Axes of size one repeated to another value's shape."),
    method("movedim", "input: tensor, source: dims, destination: dims", arranging.moved, "Some axes put elsewhere."),
    method("tile", "input: tensor, dims: shape", arranging.tiled, "The whole repeated along the last axes."),
    method(
        "rot90",
        "input: tensor, k: int = 1, dims: dims = None",
        arranging.turned,
        "Turned by quarters in a plane of two axes, the first two unless named.",
    ),
    method("fliplr", "input: tensor", arranging.mirrored(2), "The second axis reversed."),
    method("flipud", "input: tensor", arranging.mirrored(1), "The first axis reversed."),
    method(
        "unfold",
        "input: tensor, dimension: dim, size: int, step: int",
        arranging.windows,
        "Every window along an axis, as a new last axis (torch.Tensor.unfold).",
    ),
    function("hstack", "tensors: tensors", arranging.side_by_side, "Values side by side."),
    function("vstack", "tensors: tensors", arranging.on_top, "Values on top of each other, vectors as rows."),
    function("dstack", "tensors: tensors", arranging.in_depth, "Values behind each other, on a third axis."),
    function("column_stack", "tensors: tensors", arranging.as_columns, "Vectors as columns."),
    function("block_diag", "tensors: tensors", arranging.in_blocks, "Matrices along the diagonal of a larger one."),
    function(
        "meshgrid",
        "tensors: tensors, indexing: text = ij",
        arranging.gridded,
        "Each vector spread over the grid that all span; outputs `0`, `1` and so on.",
    ),
    function("cartesian_prod", "tensors: tensors", arranging.combined, "Every combination of elements, one per row."),
    function(
        "pad",
        "input: tensor, pad: ints, mode: text = constant, value: number = None",
        arranging.padded,
        "Elements added at the ends of the last axes.",
    ),
)
"""The rows under "Shape"."""
