"""For operations beyond arithmetic, arguments that their rules refuse, and what the refusal says."""

from __future__ import annotations

from telepatch_protocol.meta import Meta

Refusal = tuple[tuple[object, ...], dict[str, object], str]

X = Meta((2, 3), "float32")
Y = Meta((2, 4), "float32")
HALF = Meta((2, 3), "float16")
WHOLE = Meta((2, 3), "int64")
TRUTH = Meta((2, 3), "bool")
POINT = Meta((), "float32")
LINE = Meta((5,), "float32")
PLACES = Meta((2,), "int64")
CUBE = Meta((2, 3, 4), "float32")
SQUARE = Meta((3, 3), "float32")
EMPTY = Meta((0, 3), "float32")
IMAGE = Meta((2, 4, 5, 7), "float32")
SIGNAL = Meta((2, 4, 5), "float32")
LONG = Meta((1, 100_000, 1), "float32")
VAST = Meta((1_000_000,), "float32")

_UNARY = "acos acosh asin asinh atan atanh cosh sinh tan deg2rad rad2deg digamma entr erfc erfinv exp2 i0 lgamma log10"
_UNARY += " sinc signbit isposinf isneginf logit unique"
_FLOATS = "frac celu elu hardshrink hardsigmoid hardswish hardtanh leaky_relu logsigmoid mish selu softshrink softsign"
_FLOATS += " tanhshrink glu histc cov corrcoef pdist"
_PAIRS = "atan2 copysign fmax fmin fmod hypot logaddexp logaddexp2 xlogy float_power gcd lcm"
_TWO_OF_ONE_DTYPE = "isclose allclose equal heaviside dist inner kron"
_SQUARE = "inv det slogdet cholesky matrix_exp matrix_power logdet eigvalsh"
_PAIRED = "l1_loss smooth_l1_loss huber_loss binary_cross_entropy soft_margin_loss"
_ALONG = "cummax cummin logcumsumexp softmin"

_FUNCTIONS: dict[str, list[Refusal]] = {
    **{name: [((2,), {}, "'input' is a tensor; found 2")] for name in _UNARY.split()},
    **{name: [((WHOLE,), {}, "needs a floating-point value, found int64")] for name in _FLOATS.split()},
    **{
        name: [((X, Y), {}, "do not broadcast together"), ((1, 2.0), {}, "needs at least one value")]
        for name in _PAIRS.split()
    },
    **{name: [((X, HALF), {}, "do not mix|one dtype")] for name in _TWO_OF_ONE_DTYPE.split()},
    "trunc": [((TRUTH,), {}, "is not defined for bool")],
    "relu6": [((TRUTH,), {}, "is not defined for bool")],
    "clamp_min": [((X, Y), {}, "do not broadcast"), ((X, "low"), {}, "'min' is an operand")],
    "clamp_max": [((TRUTH, TRUTH), {}, "is not defined for bool")],
    "addcmul": [((X, X, HALF), {}, "one dtype"), ((X, X, Y), {}, "do not broadcast")],
    "addcdiv": [((WHOLE, X, X), {}, "floating-point")],
    "isin": [((X, WHOLE), {}, "one dtype"), ((VAST, VAST), {}, "makes comparisons of 1,000,000,000,000 numbers")],
    "prelu": [((X, LINE), {}, r"'weight' has shape \(5,\); it holds one number, or 3")],
    "threshold": [((X, X, 1.0), {}, "'threshold' is a number"), ((WHOLE, 0, 0), {}, "floating-point")],
    "group_norm": [((CUBE, 2), {}, "3 channels of shape"), ((CUBE, 1, LINE), {}, "there are 3 channels")],
    "batch_norm": [((CUBE, LINE, LINE), {}, "'running_mean' has shape"), ((LINE, LINE, LINE), {}, "a channel axis")],
    **{name: [((X, 2), {}, r"dim is 2, but shape \(2, 3\)")] for name in _ALONG.split()},
    "nansum": [((X, 2), {}, "dim is 2")],
    "nanmean": [((WHOLE,), {}, "floating-point")],
    "nanmedian": [((TRUTH,), {}, "not defined for bool")],
    "nanquantile": [((X, 2.0), {}, "lies between 0 and 1")],
    "std_mean": [((WHOLE,), {}, "floating-point"), ((X, 2), {}, "dim is 2")],
    "var_mean": [((X, []), {}, "'dim' is an empty list")],
    "aminmax": [((EMPTY,), {}, "nothing has no extreme"), ((X, 2), {}, "dim is 2")],
    "mode": [((EMPTY, 0), {}, r"axis 0 of shape \(0, 3\) is empty")],
    "kthvalue": [((X, 0), {}, "k is 0, but axis -1 of the value has size 3"), ((TRUTH, 1), {}, "not defined for bool")],
    "diff": [((X, -1), {}, "'n' holds -1"), ((POINT,), {}, "needs an axis")],
    "trapezoid": [((X, LINE), {}, "'x' has 5 points; axis 1 of 'y' has size 3"), ((WHOLE,), {}, "floating-point")],
    "bincount": [
        ((PLACES,), {}, "'minlength' holds 0; sizes are 1 or more"),
        ((LINE, None, 3), {}, "counts integers, found float32"),
        ((WHOLE, None, 3), {}, "integers of one axis"),
        ((PLACES, LINE, 3), {}, "'weights' has shape"),
    ],
    "bucketize": [((X, X), {}, "'boundaries' has one axis"), ((X, PLACES), {}, "one dtype")],
}

_SHAPES: dict[str, list[Refusal]] = {
    "broadcast_to": [((X, [2, 4]), {}, "only axes of size 1 are repeated")],
    "expand_as": [((X, Y), {}, "does not expand to")],
    "movedim": [((X, 0, [0, 1]), {}, "'source' names 1 axes and 'destination' 2"), ((X, 2, 0), {}, "source is 2")],
    "tile": [((X, [-1]), {}, "'dims' holds -1")],
    "rot90": [((LINE,), {}, "needs two axes"), ((X, 1, [0]), {}, "two axes make a plane")],
    "fliplr": [((LINE,), {}, "needs two axes")],
    "flipud": [((POINT,), {}, "needs an axis")],
    "unfold": [((X, 1, 4, 1), {}, "'size' is 4, but axis 1 of the value has size 3"), ((X, 1, 2, 0), {}, "'step'")],
    "hstack": [(([X, Meta((3, 3), "float32")],), {}, "differ in more than axis 1")],
    "vstack": [(([X, Y],), {}, "differ in more than axis 0")],
    "dstack": [(([X, Y],), {}, "differ in more than axis 2")],
    "column_stack": [(([LINE, X],), {}, "differ in more than axis 1")],
    "block_diag": [(([CUBE],), {}, "needs matrices, vectors or numbers")],
    "meshgrid": [(([X],), {}, "needs vectors"), (([LINE, LINE], "yx"), {}, "'indexing' is 'yx'")],
    "cartesian_prod": [(([POINT],), {}, "needs vectors"), (([LINE, PLACES],), {}, "one dtype")],
    "pad": [
        ((X, [1]), {}, "'pad' holds 1 numbers"),
        ((X, [0, -4]), {}, "'pad' takes more than there is of axis 1"),
        ((X, [1, 1, 1, 1, 1, 1]), {}, "'pad' is for 3 axes"),
        ((X, [3, 0], "reflect"), {}, "mode 'reflect' adds at most 2"),
        ((X, [1, 1], "wrap"), {}, "'mode' is 'wrap'"),
    ],
    "select": [((X, 1, 3), {}, "index 3 is past the end of axis 1, which has size 3"), ((POINT, 0, 0), {}, "no|none")],
    "narrow": [((X, 1, 2, 2), {}, "2 from 2 on is past the end of axis 1, which has size 3")],
    "take": [((X, X), {}, "needs an index of integers")],
    "masked_select": [((X, X), {}, "needs a mask of bool")],
    "index_add": [
        ((X, 0, PLACES, CUBE), {}, "'source' has shape"),
        ((WHOLE, 0, PLACES, WHOLE, 0.5), {}, "'alpha' is 0.5"),
        ((X, 0, WHOLE, X), {}, "'index' has one axis"),
    ],
    "index_copy": [((X, 0, PLACES, HALF), {}, "one dtype"), ((X, 0, LINE, X), {}, "index of integers")],
    "index_fill": [((X, 0, PLACES, LINE), {}, "'value' is one number"), ((X, 2, PLACES, 1), {}, "dim is 2")],
    "scatter_reduce": [((X, 0, WHOLE, X, "max"), {}, "'reduce' is 'max'"), ((X, 0, X, X, "sum"), {}, "integers")],
    "select_scatter": [((X, Y, 0, 0), {}, r"'src' has shape \(2, 4\); what it replaces has \(3,\)")],
    "slice_scatter": [((X, Y, 1, 1), {}, r"what it replaces has \(2, 2\)"), ((X, X, 1, 0, 3, 0), {}, "'step' holds 0")],
    "diagonal_scatter": [((SQUARE, PLACES), {}, r"'src' has shape|one dtype")],
    "diag": [((CUBE,), {}, "needs a vector or a matrix")],
    "diag_embed": [((X, 0, 1, 1), {}, "name the same axis"), ((POINT,), {}, "needs an axis")],
    "diagflat": [((2,), {}, "'input' is a tensor")],
    "embedding": [((X, X), {}, "needs an index of integers"), ((WHOLE, LINE), {}, "'weight' is a matrix")],
    "tril_indices": [((-1, 2), {}, "'row, col' holds -1")],
    "triu_indices": [((2, -1), {}, "'row, col' holds -1")],
    "logspace": [((0, 1, -1), {}, "'steps' holds -1")],
}

_ALGEBRA: dict[str, list[Refusal]] = {
    "mm": [((CUBE, X), {}, "needs shapes of 2 and 2 axes"), ((X, X), {}, "3 columns meet 2 rows")],
    "bmm": [((CUBE, Meta((5, 4, 2), "float32")), {}, "batches of 2 and 5 matrices do not pair up")],
    "mv": [((X, X), {}, "needs shapes of 2 and 1 axes")],
    "dot": [((LINE, Meta((4,), "float32")), {}, "do not fit"), ((PLACES, PLACES), {}, "floating-point")],
    "tensordot": [((X, Y, 1), {}, "at the end of 'a' does not fit"), ((X, Y, 3), {}, "no so many axes")],
    "multi_dot": [(([X],), {}, "two matrices or more"), (([X, CUBE],), {}, "multiplies matrices")],
    "addmm": [((LINE, X, Meta((3, 4), "float32")), {}, "do not broadcast|the product has")],
    "addmv": [((X, X, Meta((3,), "float32")), {}, "do not broadcast|the product has")],
    "baddbmm": [((X, X, X), {}, "needs shapes of 3 and 3 axes")],
    "cross": [((Y, Y), {}, "needs three numbers along dim -1"), ((X, LINE), {}, "values of as many axes")],
    "trace": [((CUBE,), {}, "needs a matrix"), ((TRUTH,), {}, "not defined for bool")],
    **{
        name: [
            ((X, *((2,) if name == "matrix_power" else ())), {}, "needs a square matrix, found 2 rows and 3 columns")
        ]
        for name in _SQUARE.split()
    },
    "svdvals": [((HALF,), {}, "needs float32 or float64"), ((LINE,), {}, "needs a matrix")],
    "solve_triangular": [((X, X, True), {}, "square"), ((SQUARE, X, True), {}, "A has 3 rows; B has shape")],
    "lstsq": [((X, SQUARE), {}, "A has 2 rows; B has shape")],
    "matrix_norm": [((X, "max"), {}, "'ord' is 'max'"), ((CUBE, "fro", [0]), {}, "a matrix lies along two axes")],
    "matrix_rank": [((WHOLE,), {}, "floating-point")],
    "vander": [((POINT,), {}, "needs a vector"), ((LINE, 1), {}, "'N' holds 1; sizes are 2 or more")],
    "cdist": [((X, Y), {}, "rows of one length"), ((X, X, -1.0), {}, "'p' is -1.0; it is zero or more")],
    "pairwise_distance": [
        ((X, Y), {}, "do not broadcast"),
        ((VAST, Meta((1000, 1), "float32")), {}, "makes differences"),
    ],
}
_ALGEBRA["matrix_power"].append(((SQUARE, 2**62), {}, "powers go up to 10000"))
_FUNCTIONS["pdist"].append(((LINE,), {}, "needs a matrix of rows"))
_FUNCTIONS["glu"].append(((X,), {}, "axis 1 of shape .* is odd"))
_FUNCTIONS["hardtanh"].append(((X, 1, 0), {}, "'min_val' is 1, above 'max_val', 0"))
_FUNCTIONS["softshrink"].append(((X, -1), {}, "'lambd' is -1"))
_FUNCTIONS["histc"].append(((X, 0), {}, "'bins' holds 0"))
_FUNCTIONS["cov"].append(((CUBE,), {}, "one row for each variable"))
_FUNCTIONS["gcd"].append(((X, X), {}, "is defined for integers"))
_FUNCTIONS["hypot"].append(((WHOLE, 2), {}, "floating-point"))

_LEARNING: dict[str, list[Refusal]] = {
    **{name: [((X, Y), {}, "make them one shape"), ((WHOLE, WHOLE), {}, "floating-point")] for name in _PAIRED.split()},
    "nll_loss": [((X, X), {}, "'target' holds int64 classes"), ((X, WHOLE), {}, "'target' has shape")],
    "multi_margin_loss": [
        ((CUBE, PLACES), {}, "scores of one row"),
        ((X, PLACES, 3), {}, "'p' is 3; it may be 1 or 2"),
    ],
    "hinge_embedding_loss": [((X, Y), {}, "do not broadcast")],
    "margin_ranking_loss": [((X, X, LINE), {}, "values of as many axes")],
    "cosine_embedding_loss": [((X, X, LINE), {}, "there are 5 signs for 2 pairs"), ((X, X, X), {}, "pairs")],
    "triplet_margin_loss": [((X, X, CUBE), {}, "as many axes"), ((X, X, X), {"reduction": "max"}, "'reduction'")],
    "gaussian_nll_loss": [((X, X, Y), {}, "'var' has shape")],
    "poisson_nll_loss": [((X, X), {"reduction": "max"}, "'reduction' is 'max'")],
    "conv1d": [
        ((SIGNAL, Meta((6, 3, 3), "float32")), {}, "the value has 4 channels; 'weight' of shape .* takes 3"),
        ((SIGNAL, Meta((6, 4, 9), "float32")), {}, "a window of 9 does not fit into an axis of size 5"),
        ((SIGNAL, Meta((5, 2, 3), "float32")), {"groups": 2}, "5 channels do not make 2 equal groups"),
        ((SIGNAL, Meta((6, 4, 3), "float32"), LINE), {}, "there are 6 channels to give"),
    ],
    "conv2d": [
        ((SIGNAL, Meta((6, 4, 3), "float32")), {}, "'weight' has shape"),
        (
            (IMAGE, Meta((6, 4, 3, 3), "float32")),
            {"stride": [1, 2, 3]},
            r"'stride' is \[1, 2, 3\]; it is one number, or 2",
        ),
        ((Meta((64, 4, 1000, 1000), "float32"), Meta((6, 4, 9, 9), "float32")), {}, "makes windows of"),
    ],
    **{
        name: [((CUBE, 2, 0), {}, "'stride' holds 0"), ((CUBE, 2, 1, 2), {}, "more than half of 'kernel_size'")]
        for name in ("avg_pool1d", "max_pool1d")
    },
    **{
        name: [((LINE, 2), {}, "needs \\(rows, channels"), ((IMAGE, 9), {}, "a window of 9 does not fit")]
        for name in ("avg_pool2d", "max_pool2d")
    },
    **{
        f"adaptive_{name}": [((WHOLE, 2), {}, "floating-point"), ((IMAGE, -1), {}, "'output_size' holds -1|needs")]
        for name in ("avg_pool1d", "avg_pool2d", "max_pool1d", "max_pool2d")
    },
    "interpolate": [
        ((SIGNAL, 3, "bilinear"), {}, "mode 'bilinear' is for 2 axes"),
        ((SIGNAL, 3, "nearest", True), {}, "'align_corners' is for linear and cubic modes"),
        ((SIGNAL, 0), {}, "'size' holds 0"),
    ],
    "scaled_dot_product_attention": [
        ((X, Y, Y), {}, "do not go together"),
        ((X, X, X, TRUTH), {"is_causal": True}, "do not go together; put both into one mask"),
        ((CUBE, CUBE, CUBE, WHOLE), {}, "'attn_mask' holds booleans"),
        ((CUBE, CUBE, CUBE, Meta((5, 5), "bool")), {}, "do not broadcast together"),
        ((LONG, LONG, LONG), {}, "makes scores of 10,000,000,000 numbers on its way"),
        ((CUBE, Meta((3, 3, 4), "float32"), Meta((3, 3, 4), "float32")), {"enable_gqa": True}, "do not share"),
    ],
    "rand_like": [((WHOLE, 0), {}, "floating-point"), ((X, 0, "int64"), {}, "'dtype' is int64")],
    "randn_like": [((X, [X]), {}, "a key holds integers")],
    "normal": [((0.0, 1.0, 0), {}, "needs a value as 'mean' or 'std'"), ((X, -1.0, 0), {}, "'std' is -1.0")],
    "bernoulli": [((WHOLE, 0), {}, "floating-point"), ((X,), {}, "needs 'key'")],
    "poisson": [((WHOLE, 0), {}, "floating-point")],
    "multinomial": [
        ((X, 4, 0), {}, "only 3 can be drawn without replacement"),
        ((CUBE, 1, 0), {}, "one row of weights"),
    ],
    "dropout": [((X, 0, 1.5), {}, "'p' is 1.5; it lies between 0 and 1")],
    "gumbel_softmax": [((X, 0, 0.0), {}, "'tau' is 0.0"), ((X, 0), {"dim": 2}, "dim is 2")],
}

MORE_REFUSALS: dict[str, list[Refusal]] = {**_FUNCTIONS, **_SHAPES, **_ALGEBRA, **_LEARNING}
