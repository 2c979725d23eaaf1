"""Rows of convolution, pooling, resizing and attention."""

from __future__ import annotations

from telepatch_protocol.ops import layers
from telepatch_protocol.ops.groups.rows import function
from telepatch_protocol.ops.table import Op

LAYERS: tuple[Op, ...] = (
    function(
        "conv1d",
        "input: tensor, weight: tensor, bias: tensor = None, stride: ints = 1, padding: ints = 0, "
        "dilation: ints = 1, groups: int = 1",
        layers.convolved(1),
        "Convolution along one axis.",
    ),
    function(
        "conv2d",
        "input: tensor, weight: tensor, bias: tensor = None, stride: ints = 1, padding: ints = 0, "
        "dilation: ints = 1, groups: int = 1",
        layers.convolved(2),
        "Convolution along two axes.",
    ),
    function(
        "avg_pool1d",
        "input: tensor, kernel_size: ints, stride: ints = None, padding: ints = 0, "
        "ceil_mode: bool = False, count_include_pad: bool = True",
        layers.pooled(1),
        "Means of windows.",
    ),
    function(
        "avg_pool2d",
        "input: tensor, kernel_size: ints, stride: ints = None, padding: ints = 0, "
        "ceil_mode: bool = False, count_include_pad: bool = True",
        layers.pooled(2),
        "Means of windows over two axes.",
    ),
    function(
        "max_pool1d",
        "input: tensor, kernel_size: ints, stride: ints = None, padding: ints = 0, dilation: ints = 1, "
        "ceil_mode: bool = False",
        layers.pooled(1),
        "The largest of windows.",
    ),
    function(
        "max_pool2d",
        "input: tensor, kernel_size: ints, stride: ints = None, padding: ints = 0, dilation: ints = 1, "
        "ceil_mode: bool = False",
        layers.pooled(2),
        "The largest of windows over two axes.",
    ),
    function(
        "adaptive_avg_pool1d",
        "input: tensor, output_size: ints",
        layers.adapted(1),
        "Means of as many windows as asked.",
    ),
    function("adaptive_avg_pool2d", "input: tensor, output_size: ints", layers.adapted(2), "The same over two axes."),
    function(
        "adaptive_max_pool1d",
        "input: tensor, output_size: ints",
        layers.adapted(1),
        "The largest of as many windows as asked.",
    ),
    function("adaptive_max_pool2d", "input: tensor, output_size: ints", layers.adapted(2), "The same over two axes."),
    function(
        "interpolate",
        "input: tensor, size: ints, mode: text = nearest, align_corners: bool = None",
        layers.resized,
        "Axes behind the first two made another size.",
    ),
    function(
        "scaled_dot_product_attention",
        "query: tensor, key: tensor, value: tensor, attn_mask: tensor = None, is_causal: bool = False, "
        "scale: number = None, enable_gqa: bool = False",
        layers.attended,
        "Attention; with enable_gqa, fewer keys and values than queries.",
    ),
)
"""The rows under "Layers"."""
