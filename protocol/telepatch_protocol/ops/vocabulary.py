"""The operations, one row each; PyTorch's documentation is the reference for what each computes."""

from __future__ import annotations

from telepatch_protocol.errors import UnknownOperation
from telepatch_protocol.ops import linear, making, reductions, rules, selecting, shaping
from telepatch_protocol.ops.table import Op, Rule

_DIMS = "input: tensor, dim: dims = None, keepdim: bool = False"
_DIM = "input: tensor, dim: dim = None, keepdim: bool = False"
_PAIR = "input: operand, other: operand"
_RANDOM = "size: shape, key: key, dtype: dtype = float32"
_PICKS = ("values", "indices")


def _unary(name: str, rule: Rule, doc: str) -> Op:
    return Op(name, "input: tensor", rule, doc=doc)


def _function(name: str, signature: str, rule: Rule, doc: str, outputs: tuple[str, ...] = ()) -> Op:
    """An operation that PyTorch has no tensor method for."""
    return Op(name, signature, rule, outputs, method=False, doc=doc)


GROUPS: dict[str, tuple[Op, ...]] = {
    "Elementwise": (
        _unary("abs", rules.same_number, "Absolute value."),
        _unary("ceil", rules.same_number, "The integer above."),
        _unary("cos", rules.floating, "Cosine."),
        _unary("detach", rules.same, "The value, through which no gradient flows."),
        _unary("erf", rules.floating, "Error function."),
        _unary("exp", rules.floating, "e to the power of the value."),
        _unary("expm1", rules.floating, "exp minus one, exact near zero."),
        _unary("floor", rules.same_number, "The integer below."),
        _unary("isfinite", rules.tested, "Neither infinite nor nan."),
        _unary("isinf", rules.tested, "Infinite."),
        _unary("isnan", rules.tested, "Not a number."),
        _unary("log", rules.floating, "Natural logarithm."),
        _unary("log1p", rules.floating, "log of one plus the value, exact near zero."),
        _unary("log2", rules.floating, "Logarithm to base two."),
        _unary("logical_not", rules.tested, "True where the value is zero."),
        _unary("neg", rules.same_number, "The value with its sign turned."),
        _unary("reciprocal", rules.floating, "One divided by the value."),
        _unary("round", rules.same_number, "The nearest integer, halves to even."),
        _unary("rsqrt", rules.floating, "One divided by the square root."),
        _unary("sigmoid", rules.floating, "Logistic function."),
        _unary("sign", rules.same, "-1, 0 or 1."),
        _unary("sin", rules.floating, "Sine."),
        _unary("sqrt", rules.floating, "Square root."),
        _unary("square", rules.squared, "The value times itself."),
        _unary("tanh", rules.floating, "Hyperbolic tangent."),
        Op("add", _PAIR, rules.added, doc="Sum."),
        Op("div", _PAIR + ", rounding_mode: text = None", rules.divided, doc="Quotient; rounded 'trunc' or 'floor'."),
        Op("floor_divide", _PAIR, rules.never_bool(rules.elementwise), doc="Quotient rounded down."),
        Op("maximum", _PAIR, rules.elementwise, doc="The larger of two."),
        Op("minimum", _PAIR, rules.elementwise, doc="The smaller of two."),
        Op("mul", _PAIR, rules.multiplied, doc="Product."),
        Op("pow", "input: operand, exponent: operand", rules.powered, doc="Power."),
        Op(
            "remainder",
            _PAIR,
            rules.never_bool(rules.elementwise),
            doc="What division leaves, with the divisor's sign.",
        ),
        Op("sub", _PAIR, rules.subtracted, doc="Difference."),
        Op(
            "clamp", "input: tensor, min: operand = None, max: operand = None", rules.clamped, doc="Held within bounds."
        ),
        Op("lerp", "input: tensor, end: tensor, weight: operand", rules.interpolated, doc="Part of the way to end."),
        Op(
            "nan_to_num",
            "input: tensor, nan: number = 0.0, posinf: number = None, neginf: number = None",
            rules.same,
            doc="Numbers in place of nan and infinities.",
        ),
    ),
    "Comparison and logic": (
        Op("eq", _PAIR, rules.compared, doc="Equal."),
        Op("ne", _PAIR, rules.compared, doc="Not equal."),
        Op("lt", _PAIR, rules.compared, doc="Less."),
        Op("le", _PAIR, rules.compared, doc="Less or equal."),
        Op("gt", _PAIR, rules.compared, doc="Greater."),
        Op("ge", _PAIR, rules.compared, doc="Greater or equal."),
        Op("logical_and", _PAIR, rules.logical, doc="Both are not zero."),
        Op("logical_or", _PAIR, rules.logical, doc="One or both are not zero."),
        Op("logical_xor", _PAIR, rules.logical, doc="One of both is not zero."),
        _function(
            "where",
            "condition: tensor, input: operand, other: operand",
            rules.selected,
            "input where the condition is true, other where not.",
        ),
        Op(
            "masked_fill",
            "input: tensor, mask: tensor, value: operand",
            rules.masked_fill,
            doc="One number under a mask.",
        ),
    ),
    "Activations and norms": (
        _function("gelu", "input: tensor, approximate: text = none", rules.gated, "GELU, exact or by 'tanh'."),
        Op("relu", "input: tensor", rules.same_number, doc="The value where it is positive, else zero."),
        _function("silu", "input: tensor", rules.floats_only, "The value times its sigmoid."),
        _function(
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
        _function(
            "layer_norm",
            "input: tensor, normalized_shape: shape, weight: tensor = None, bias: tensor = None, eps: number = 1e-05",
            reductions.layer_norm,
            "Mean zero and variance one over the last axes.",
        ),
        _function(
            "rms_norm",
            "input: tensor, normalized_shape: shape, weight: tensor = None, eps: number = None",
            reductions.layer_norm,
            "Root mean square one over the last axes.",
        ),
        _function(
            "normalize",
            "input: tensor, p: number = 2.0, dim: dims = 1, eps: number = 1e-12",
            reductions.normalized,
            "Norm one along dim.",
        ),
    ),
    "Reductions": (
        Op("sum", _DIMS + ", dtype: dtype = None", reductions.reduced, doc="Sum."),
        Op("mean", _DIMS + ", dtype: dtype = None", reductions.averaged, doc="Mean."),
        Op("prod", _DIM + ", dtype: dtype = None", reductions.reduced, doc="Product."),
        Op(
            "std",
            "input: tensor, dim: dims = None, correction: number = 1, keepdim: bool = False",
            reductions.spread,
            doc="Standard deviation.",
        ),
        Op(
            "var",
            "input: tensor, dim: dims = None, correction: number = 1, keepdim: bool = False",
            reductions.spread,
            doc="Variance.",
        ),
        Op(
            "norm",
            "input: tensor, p: number = 2, dim: dims = None, keepdim: bool = False",
            reductions.spread,
            doc="Vector norm.",
        ),
        Op(
            "logsumexp",
            "input: tensor, dim: dims, keepdim: bool = False",
            reductions.logsumexp,
            doc="log of a sum of exp.",
        ),
        Op("amax", _DIMS, reductions.kept_dtype, doc="The largest."),
        Op("amin", _DIMS, reductions.kept_dtype, doc="The smallest."),
        Op("max", _DIM, reductions.extreme, _PICKS, doc="The largest; with dim, also where it is."),
        Op("min", _DIM, reductions.extreme, _PICKS, doc="The smallest; with dim, also where it is."),
        Op("median", _DIM, reductions.middle, _PICKS, doc="The middle one; with dim, also where it is."),
        Op(
            "quantile",
            "input: tensor, q: number, dim: dim = None, keepdim: bool = False",
            reductions.quantiled,
            doc="The value below which a share q lies.",
        ),
        Op("argmax", _DIM, reductions.placed, doc="Where the largest is."),
        Op("argmin", _DIM, reductions.placed, doc="Where the smallest is."),
        Op("any", _DIMS, reductions.asked, doc="Whether one is not zero."),
        Op("all", _DIMS, reductions.asked, doc="Whether none is zero."),
        Op("count_nonzero", "input: tensor, dim: dims = None", reductions.counted, doc="How many are not zero."),
        Op("cumsum", "input: tensor, dim: dim, dtype: dtype = None", reductions.accumulated, doc="Running sum."),
        Op("cumprod", "input: tensor, dim: dim, dtype: dtype = None", reductions.accumulated, doc="Running product."),
    ),
    "Sorting": (
        Op(
            "sort",
            "input: tensor, dim: dim = -1, descending: bool = False",
            reductions.sorted_values,
            _PICKS,
            doc="In order, equal ones as they stood.",
        ),
        Op(
            "argsort",
            "input: tensor, dim: dim = -1, descending: bool = False",
            reductions.sorted_indices,
            doc="Where each one in order stood.",
        ),
        Op(
            "topk",
            "input: tensor, k: int, dim: dim = -1, largest: bool = True, sorted: bool = True",
            reductions.picked,
            _PICKS,
            doc="The k largest or smallest.",
        ),
        _function(
            "searchsorted",
            "sorted_sequence: tensor, values: operand, right: bool = False",
            reductions.searched,
            "Where values belong in a sorted sequence.",
        ),
    ),
    "Shape": (
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
        _function("cat", "tensors: tensors, dim: dim = 0", shaping.joined, "Values one after another along an axis."),
        _function("stack", "tensors: tensors, dim: dim = 0", shaping.stacked, "Values side by side on a new axis."),
        Op("to", "input: tensor, dtype: dtype", rules.converted, doc="Another dtype."),
    ),
    "Picking by index": (
        _function("index", "input: tensor, index: index", rules.indexed, "input[index], masks included."),
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
        _function(
            "one_hot", "input: tensor, num_classes: int", selecting.one_hot, "Integers as vectors with a single one."
        ),
        Op("nonzero", "input: tensor", selecting.nonzero, doc="The places of all that are not zero."),
        Op(
            "diagonal",
            "input: tensor, offset: int = 0, dim1: dim = 0, dim2: dim = 1",
            selecting.diagonal,
            doc="A diagonal of two axes, as the last axis.",
        ),
        Op("tril", "input: tensor, diagonal: int = 0", selecting.triangle, doc="Zero above a diagonal."),
        Op("triu", "input: tensor, diagonal: int = 0", selecting.triangle, doc="Zero below a diagonal."),
    ),
    "Linear algebra": (
        Op("matmul", "input: tensor, other: tensor", linear.matmul, doc="Product of matrices, batches or vectors."),
        _function(
            "linear", "input: tensor, weight: tensor, bias: tensor = None", linear.linear, "input @ weight.mT + bias."
        ),
        Op("outer", "input: tensor, vec2: tensor", linear.outer, doc="Every product of two vectors' elements."),
        _function("einsum", "equation: text, operands: tensors", linear.einsum, "Sums of products, by equation."),
        _function(
            "svd",
            "A: tensor, full_matrices: bool = True",
            linear.svd,
            "Singular values (torch.linalg.svd).",
            ("U", "S", "Vh"),
        ),
        _function(
            "qr", "A: tensor, mode: text = reduced", linear.qr, "An orthogonal basis (torch.linalg.qr).", ("Q", "R")
        ),
        _function(
            "eigh",
            "A: tensor, UPLO: text = L",
            linear.eigh,
            "Eigenvalues of a symmetric matrix (torch.linalg.eigh).",
            ("eigenvalues", "eigenvectors"),
        ),
        _function("solve", "A: tensor, B: tensor", linear.solve, "X with A @ X = B (torch.linalg.solve)."),
        _function("pinv", "A: tensor", linear.pinv, "Pseudoinverse (torch.linalg.pinv)."),
    ),
    "Losses": (
        _function(
            "cross_entropy",
            "input: tensor, target: operand, weight: tensor = None, ignore_index: int = -100, "
            "reduction: text = mean, label_smoothing: number = 0.0",
            linear.cross_entropy,
            "Loss of scores against classes or probabilities.",
        ),
        _function(
            "kl_div",
            "input: tensor, target: tensor, reduction: text = mean, log_target: bool = False",
            linear.kl_div,
            "Divergence of a target from log-probabilities.",
        ),
        _function(
            "mse_loss", "input: tensor, target: tensor, reduction: text = mean", linear.paired_loss, "Squared error."
        ),
        _function(
            "binary_cross_entropy_with_logits",
            "input: tensor, target: tensor, reduction: text = mean",
            linear.paired_loss,
            "Loss of logits against probabilities.",
        ),
        _function(
            "cosine_similarity",
            "x1: tensor, x2: tensor, dim: dim = 1, eps: number = 1e-08",
            linear.cosine_similarity,
            "Cosine of the angle between vectors.",
        ),
    ),
    "Making": (
        _function("zeros", "size: shape, dtype: dtype = float32", making.made, "Zeros."),
        _function("ones", "size: shape, dtype: dtype = float32", making.made, "Ones."),
        _function(
            "full", "size: shape, fill_value: operand, dtype: dtype = None", making.filled, "One number everywhere."
        ),
        _function("zeros_like", "input: tensor, dtype: dtype = None", making.alike, "Zeros in a value's shape."),
        _function("ones_like", "input: tensor, dtype: dtype = None", making.alike, "Ones in a value's shape."),
        _function(
            "full_like",
            "input: tensor, fill_value: number, dtype: dtype = None",
            making.alike,
            "One number in a value's shape.",
        ),
        _function(
            "arange",
            "start: int, end: int, step: int = 1, dtype: dtype = None",
            making.ranged,
            "Integers from start to end.",
        ),
        _function(
            "linspace",
            "start: number, end: number, steps: int, dtype: dtype = float32",
            making.spaced,
            "Evenly spaced numbers, both ends included.",
        ),
        _function("eye", "n: int, m: int = None, dtype: dtype = float32", making.identity, "Ones on the diagonal."),
    ),
    "Random": (
        _function("rand", _RANDOM, making.drawn, "Uniform from 0 to 1; the same key gives the same numbers."),
        _function("randn", _RANDOM, making.drawn, "Normal; the same key gives the same numbers."),
        _function(
            "randint",
            "low: int, high: int, size: shape, key: key, dtype: dtype = int64",
            making.drawn_integers,
            "Integers below high; the same key gives the same numbers.",
        ),
        _function(
            "randperm", "n: int, key: key", making.shuffled, "The integers below n in an order that the key gives."
        ),
    ),
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
