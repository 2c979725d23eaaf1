"""Rows of activations and norms."""

from __future__ import annotations

from telepatch_protocol.ops import layers, mathematics, moments, reductions, rules
from telepatch_protocol.ops.groups.rows import function, method
from telepatch_protocol.ops.table import Op

ACTIVATIONS: tuple[Op, ...] = (
    function("gelu", "input: tensor, approximate: text = none", rules.gated, "GELU, exact or by 'tanh'."),
    Op("relu", "input: tensor", rules.same_number, doc="The value where it is positive, else zero."),
    function("silu", "input: tensor", rules.floats_only, "The value times its sigmoid."),
    function(
        "softplus",
        "input: tensor, beta: number = 1.0, threshold: number = 20.0",
        rules.floats_only,
        "A smooth relu.",
    ),
    Op(
        "softmax",
        "input: tensor, dim: dim, dtype: dtype = None",
        reductions.softmaxed,
        doc="Probabilities along dim.",
    ),
    Op(
        "log_softmax",
        "input: tensor, dim: dim, dtype: dtype = None",
        reductions.softmaxed,
        doc="Logarithms of the softmax.",
    ),
    function(
        "layer_norm",
        "input: tensor, normalized_shape: shape, weight: tensor = None, bias: tensor = None, eps: number = 1e-05",
        reductions.layer_norm,
        "Mean zero and variance one over the last axes.",
    ),
    function(
        "rms_norm",
        "input: tensor, normalized_shape: shape, weight: tensor = None, eps: number = None",
        reductions.layer_norm,
        "Root mean square one over the last axes.",
    ),
    function(
        "normalize",
        "input: tensor, p: number = 2.0, dim: dims = 1, eps: number = 1e-12",
        reductions.normalized,
        "Norm one along dim.",
    ),
    function("celu", "input: tensor, alpha: number = 1.0", rules.floats_only, "A smooth relu, -alpha far below zero."),
    function("elu", "input: tensor, alpha: number = 1.0", rules.floats_only, "Exponential below zero."),
    function(
        "glu", "input: tensor, dim: dim = -1", mathematics.halved, "One half of an axis times the sigmoid of the other."
    ),
    method("hardshrink", "input: tensor, lambd: number = 0.5", rules.floats_only, "Zero within lambd of zero."),
    function("hardsigmoid", "input: tensor", rules.floats_only, "A sigmoid of straight lines."),
    function("hardswish", "input: tensor", rules.floats_only, "The value times its hardsigmoid."),
    function(
        "hardtanh",
        "input: tensor, min_val: number = -1.0, max_val: number = 1.0",
        mathematics.within_bounds,
        "Held within two numbers.",
    ),
    function("leaky_relu", "input: tensor, negative_slope: number = 0.01", rules.floats_only, "A slope below zero."),
    function("logsigmoid", "input: tensor", rules.floats_only, "Logarithm of the sigmoid."),
    function("mish", "input: tensor", rules.floats_only, "The value times tanh of its softplus."),
    method("prelu", "input: tensor, weight: tensor", mathematics.leaky, "Slopes below zero, one for each channel."),
    function("relu6", "input: tensor", rules.same_number, "Held within 0 and 6."),
    function("selu", "input: tensor", rules.floats_only, "An elu that keeps mean and variance."),
    function(
        "softmin", "input: tensor, dim: dim, dtype: dtype = None", reductions.softmaxed, "Softmax of the negative."
    ),
    function("softshrink", "input: tensor, lambd: number = 0.5", mathematics.shrunk, "Moved to zero by lambd."),
    function("softsign", "input: tensor", mathematics.both_floats, "x / (1 + |x|)."),
    function("tanhshrink", "input: tensor", mathematics.both_floats, "x - tanh(x)."),
    function(
        "threshold",
        "input: tensor, threshold: number, value: number",
        rules.floats_only,
        "A number in place of all that are not above another.",
    ),
    function(
        "group_norm",
        "input: tensor, num_groups: int, weight: tensor = None, bias: tensor = None, eps: number = 1e-05",
        moments.grouped,
        "Mean zero and variance one within groups of channels.",
    ),
    function(
        "batch_norm",
        "input: tensor, running_mean: tensor, running_var: tensor, weight: tensor = None, "
        "bias: tensor = None, eps: number = 1e-05",
        layers.standardised,
        "Scaled by stored means and variances.",
    ),
)
"""The rows under "Activations and norms"."""
