"""For every operation, arguments that its rule refuses, and what the refusal says."""

from __future__ import annotations

import pytest
from tests.protocol.refusals import MORE_REFUSALS, VAST, Refusal

from telepatch_protocol.errors import GraphError
from telepatch_protocol.indexing import Slice
from telepatch_protocol.meta import Meta
from telepatch_protocol.ops import OPS, bind, find_op
from telepatch_protocol.sizes import Size

X = Meta((2, 3), "float32")
Y = Meta((2, 4), "float32")
HALF = Meta((2, 3), "float16")
WHOLE = Meta((2, 3), "int64")
TRUTH = Meta((2, 3), "bool")
POINT = Meta((), "float32")
CUBE = Meta((2, 3, 4), "float32")
EMPTY = Meta((0, 3), "float32")
N = Size.symbol("n")
OPEN = Meta((1, N, 8), "float32")

_ANY = "cos detach erf exp expm1 isfinite isinf isnan log log1p log2 logical_not reciprocal rsqrt sigmoid sign sin"
_ANY += " sqrt square tanh size numel nonzero count_nonzero"
_NO_BOOL = "abs ceil floor neg round relu"
_PAIRS = "add sub mul div maximum minimum remainder floor_divide eq ne lt le gt ge"
_AXES = "sum mean std var amax amin any all logsumexp max min median argmax argmin prod"
_FLOATS = "silu softplus softmax log_softmax"

REFUSALS: dict[str, list[Refusal]] = {
    **MORE_REFUSALS,
    **{name: [((2,), {}, "'input' is a tensor; found 2")] for name in _ANY.split()},
    **{name: [((TRUTH,), {}, "is not defined for bool, found bool")] for name in _NO_BOOL.split()},
    **{
        name: [
            ((X, Y), {}, r"shapes \(2, 3\) and \(2, 4\) do not broadcast"),
            ((X, HALF), {}, r"float32 and float16 do not mix; convert one, for example with .to\('float32'\)"),
            ((1, 2.0), {}, "needs at least one value, found only the numbers 1, 2.0"),
        ]
        for name in _PAIRS.split()
    },
    **{
        name: [((X, Y), {}, "do not broadcast"), ((1, True), {}, "needs at least one value")]
        for name in ("logical_and", "logical_or", "logical_xor")
    },
    **{
        name: [((X, 2), {}, r"dim is 2, but shape \(2, 3\) has axes from -2 to 1"), ((2, 0), {}, "is a tensor")]
        for name in _AXES.split()
    },
    **{
        name: [((WHOLE, 0)[: len(OPS[name].params)], {}, "needs a floating-point value, found int64")]
        for name in _FLOATS.split()
    },
    "pow": [((WHOLE, -1), {}, "integers have no power -1"), ((X, HALF), {}, "do not mix")],
    "clamp": [((X,), {}, "needs 'min', 'max' or both"), ((X, Y), {}, "do not broadcast")],
    "lerp": [
        ((WHOLE, WHOLE, 0.5), {}, "needs a floating-point value"),
        ((X, HALF, 0.5), {}, "needs values of one dtype"),
    ],
    "nan_to_num": [((X, "zero"), {}, "'nan' is a number")],
    "where": [((X, X, X), {}, "needs a mask of bool, found float32"), ((TRUTH, X, HALF), {}, "do not mix")],
    "masked_fill": [((X, X, 1), {}, "needs a mask of bool"), ((X, TRUTH, X), {}, "'value' is one number")],
    "gelu": [((X, "fast"), {}, "'approximate' is 'fast'; it may be 'none', 'tanh'"), ((WHOLE,), {}, "floating-point")],
    "layer_norm": [
        ((X, [4]), {}, r"'normalized_shape' is \(4,\), but the value's last axes are \(3,\)"),
        ((X, [3], Y), {}, r"'weight' has shape \(2, 4\); the normalised axes have \(3,\)"),
        ((X, [3], Meta((3,), "float16")), {}, "needs values of one dtype"),
    ],
    "rms_norm": [((X, []), {}, "'normalized_shape' is empty"), ((WHOLE, [3]), {}, "floating-point")],
    "normalize": [((POINT,), {}, "dim is 1"), ((WHOLE,), {}, "floating-point")],
    "norm": [((WHOLE,), {}, "needs a floating-point value"), ((X, 2, 2), {}, "dim is 2")],
    "quantile": [((X, 1.5), {}, "'q' is 1.5; it lies between 0 and 1"), ((HALF, 0.5), {}, "needs float32 or float64")],
    "cumsum": [((X, 2), {}, "dim is 2")],
    "cumprod": [((X, -3), {}, "dim is -3")],
    "sort": [((X, 2), {}, "dim is 2")],
    "argsort": [((X, 2), {}, "dim is 2")],
    "topk": [((X, 4), {}, "k is 4, but axis -1 of the value has size 3"), ((TRUTH, 1), {}, "is not defined for bool")],
    "searchsorted": [
        ((X, Meta((4, 2), "float32")), {}, "differ in more than the last axis"),
        ((X, 1.0), {}, "a number is looked up in one sequence"),
        ((X, HALF), {}, "needs values of one dtype"),
    ],
    "reshape": [
        ((X, [4, 2]), {}, r"shape \(2, 3\) has 6 elements, which do not fill \(4, 2\)"),
        ((X, [-1, -1]), {}, "more than one -1"),
        ((X, [4, -1]), {}, "which no -1"),
        ((X, [-2, 3]), {}, "'shape' holds -2"),
        ((OPEN, [1, N, 9]), {}, "do not fill"),
    ],
    "flatten": [((X, 1, 0), {}, "start_dim 1 comes after end_dim 0")],
    "unflatten": [((X, 1, [2, 2]), {}, "do not fill"), ((X, 1, []), {}, "'sizes' is empty")],
    "transpose": [((X, 0, 2), {}, "dim1 is 2")],
    "mT": [((Meta((3,), "float32"),), {}, r"needs two axes, found shape \(3,\)")],
    "permute": [((X, [0, 0]), {}, "names an axis twice"), ((X, [0]), {}, "names 1 axes")],
    "squeeze": [((X, 2), {}, "dim is 2")],
    "unsqueeze": [((X, 3), {}, "dim is 3")],
    "expand": [((X, [2, 4]), {}, "only axes of size 1 are repeated"), ((X, [-1, 2, 3]), {}, "does not expand")],
    "repeat": [((X, [2]), {}, "names 1 axes"), ((X, [2, -1]), {}, "'repeats' holds -1")],
    "repeat_interleave": [((X, -1), {}, "'repeats' holds -1"), ((X, 2, 2), {}, "dim is 2")],
    "flip": [((X, [2]), {}, "dims is 2")],
    "roll": [((X, [1, 1], 0), {}, "2 shifts were given for 1 axes"), ((X, 1, 5), {}, "dims is 5")],
    "cat": [
        (([X, Y],), {}, "differ in more than axis 0"),
        (([POINT, POINT],), {}, "stack them"),
        (([X, HALF],), {}, "do not mix"),
    ],
    "stack": [(([X, Y],), {}, "stacked values have one shape")],
    "to": [((X, "complex64"), {}, "'dtype' is a dtype")],
    "index": [
        ((X, [2]), {}, "index 2 is past the end of axis 0 of the value, which has size 2"),
        ((X, [0, 0, 0]), {}, "the index names 3"),
        ((X, [..., ...]), {}, "more than one '...'"),
        ((X, [Slice(None, None, -1)]), {}, "steps are positive"),
        ((X, [[True, False, True]]), {}, r"a mask of shape \(3,\) does not fit"),
        ((X, [[0, 1], [0, 1, 2]]), {}, "do not broadcast"),
    ],
    "index_select": [((X, 0, X), {}, "needs an index of integers"), ((X, 0, WHOLE), {}, "'index' has one axis")],
    "gather": [
        ((X, 0, TRUTH), {}, "needs an index of integers"),
        ((X, 0, Meta((5, 4), "int64")), {}, "is longer than value"),
        ((X, 0, Meta((5,), "int64")), {}, "differ in their number of axes"),
    ],
    "take_along_dim": [((X, TRUTH, 1), {}, "'indices' are int64"), ((CUBE, WHOLE, 0), {}, "differ")],
    "scatter": [
        ((X, 0, WHOLE, HALF), {}, "one dtype"),
        ((X, 0, WHOLE, Meta((1, 3), "float32")), {}, "larger than src"),
    ],
    "scatter_add": [((X, 0, X, X), {}, "needs an index of integers")],
    "one_hot": [((X, 3), {}, "needs int64"), ((WHOLE, 0), {}, "'num_classes' holds 0")],
    "diagonal": [((X, 0, 1, 1), {}, "name the same axis")],
    "tril": [((POINT,), {}, "needs two axes")],
    "triu": [((POINT,), {}, "needs two axes")],
    "matmul": [
        ((X, Y), {}, r"shapes \(2, 3\) and \(2, 4\) do not fit; 3 columns meet 2 rows"),
        ((X, POINT), {}, "needs at least one axis"),
        ((WHOLE, WHOLE), {}, r"needs a floating-point value, found int64 \(2, 3\); convert it with .to\('float32'\)"),
        ((X, Meta((3, 2), "float16")), {}, "needs values of one dtype, found float32 and float16"),
    ],
    "linear": [
        ((X, Y), {}, "the value's last axis has size 3, the weight's 4"),
        ((X, X, Meta((3,), "float32")), {}, "'bias' has shape"),
    ],
    "outer": [((X, X), {}, "needs two vectors")],
    "einsum": [
        (("ij,jk->ik", X, Y), {}, "letter 'j' stands for sizes 3 and 2"),
        (("ij->ik", X), {}, "letter 'k' of the result"),
        (("ijk->i", X), {}, "term 'ijk' names 3 axes"),
        (("ij,ij->i", X), {}, "has 2 terms for 1 values"),
        (("i1->i", X), {}, "is no equation"),
        (("i,j,ij->", VAST, VAST, Meta((1, 1), "float32")), {}, "makes products of 1,000,000,000,000 numbers"),
    ],
    "svd": [((HALF,), {}, "needs float32 or float64, found float16"), ((POINT,), {}, "needs a matrix")],
    "qr": [((X, "r"), {}, "'mode' is 'r'; it may be 'reduced', 'complete'")],
    "eigh": [((X,), {}, "needs a square matrix, found 2 rows and 3 columns")],
    "solve": [((X, X), {}, "needs a square matrix"), ((Meta((3, 3), "float32"), X), {}, "A has 3 rows; B has shape")],
    "pinv": [((WHOLE,), {}, "floating-point")],
    "cross_entropy": [
        ((X, Meta((3,), "int64")), {}, r"'target' has shape \(3,\); scores of shape \(2, 3\) need \(2,\)"),
        ((X, Meta((2,), "int32")), {}, "'target' holds int64 classes"),
        ((X, 1), {}, "need classes of shape"),
        ((X, Meta((2,), "int64")), {"reduction": "avg"}, "'reduction' is 'avg'"),
    ],
    "kl_div": [((X, Y), {}, "do not broadcast"), ((X, X, "max"), {}, "'reduction' is 'max'")],
    "mse_loss": [((X, Y), {}, "make them one shape")],
    "binary_cross_entropy_with_logits": [((X, WHOLE), {}, "floating-point")],
    "cosine_similarity": [
        ((VAST, Meta((1000, 1), "float32")), {}, "makes products of 1,000,000,000 numbers"),
        ((X, Y), {}, "do not broadcast"),
        ((X, X, 2), {}, "dim is 2"),
    ],
    "zeros": [(([-1],), {}, "'size' holds -1")],
    "ones": [(([2], "float"), {}, "'dtype' is a dtype")],
    "full": [(([2], X), {}, "'fill_value' is one number"), (([2], POINT), {}, "name the dtype")],
    "zeros_like": [((3,), {}, "'input' is a tensor")],
    "ones_like": [(([1],), {}, "'input' is a tensor")],
    "full_like": [((X, X), {}, "'fill_value' is a number")],
    "arange": [((3, 1), {}, "no steps of 1 lead from 3 to 1"), ((0, 3, 0), {}, "no steps of 0")],
    "linspace": [((0, 1, -1), {}, "'steps' holds -1"), ((0, 1, 2, "bool"), {}, "has no dtype bool")],
    "eye": [((-1,), {}, "'n, m' holds -1")],
    "rand": [(([2], 0, "int64"), {}, "'dtype' is int64")],
    "randn": [(([2], [X]), {}, "a key holds integers; found float32")],
    "randint": [((3, 3, [2], 0), {}, "there is no integer from 3")],
    "randperm": [((-1, 0), {}, "'n' holds -1")],
}
REFUSALS["sum"].append(((X, []), {}, "'dim' is an empty list"))
REFUSALS["sum"].append(((X, [0, -2]), {}, "dim names an axis twice"))
REFUSALS["amax"].append(((EMPTY, 0), {}, r"axis 0 of shape \(0, 3\) is empty"))
REFUSALS["mean"].append(((WHOLE,), {}, r"needs a floating-point value, found int64 \(2, 3\); convert it"))
REFUSALS["sub"].append(((TRUTH, TRUTH), {}, "is not defined for bool"))
REFUSALS["div"].append(((X, X, "up"), {}, "'rounding_mode' is 'up'; it may be 'trunc', 'floor'"))
REFUSALS["size"].append(((X, 2), {}, "dim is 2"))
REFUSALS["softmax"].append(((X, 2), {}, "dim is 2"))


def infer(name: str, *args: object, **kwargs: object) -> Meta | dict[str, Meta]:
    op = find_op(name)
    return op.rule(bind(op, args, kwargs))


def test_every_operation_has_a_refusal() -> None:
    assert REFUSALS.keys() == OPS.keys()


@pytest.mark.parametrize(
    ("name", "refusal"),
    [
        pytest.param(name, one, id=f"{name}-{at}")
        for name, several in REFUSALS.items()
        for at, one in enumerate(several)
    ],
)
def test_an_operation_refuses_by_name_what_cannot_be(name: str, refusal: Refusal) -> None:
    args, kwargs, match = refusal
    with pytest.raises(GraphError, match=match) as caught:
        infer(name, *args, **kwargs)
    assert caught.value.detail.startswith(name)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (infer("index", OPEN, [Slice(), Slice(1, -1)]), (1, N - 2, 8)),
        (infer("reshape", OPEN, [1, -1, 2, 4]), (1, N, 2, 4)),
        (infer("flatten", OPEN, 1), (1, N * 8)),
        (infer("matmul", OPEN, Meta((8, 5), "float32")), (1, N, 5)),
        (infer("cat", [OPEN, OPEN], 1), (1, N * 2, 8)),
        (infer("stack", [OPEN, OPEN]), (2, 1, N, 8)),
        (infer("mean", OPEN, 1), (1, 8)),
        (infer("einsum", "bqd,bkd->bqk", OPEN, OPEN), (1, N, N)),
        (infer("add", OPEN, POINT), (1, N, 8)),
        (infer("zeros", [infer("size", OPEN, 1), 2]), (N, 2)),
        (infer("arange", 1, infer("size", OPEN, 1)), (N - 1,)),
        (infer("zeros", [infer("sub", infer("size", OPEN, 1), 1)]), (N - 1,)),
    ],
)
def test_a_size_that_is_not_known_yet_is_carried_along(found: Meta, expected: tuple[object, ...]) -> None:
    assert found.shape is not None
    assert found.shape[-len(expected) :] == expected


def test_a_value_of_unknown_shape_passes_every_rule_that_only_needs_its_dtype() -> None:
    unknown = Meta(None, "float32")
    assert infer("softmax", unknown, -1) == unknown
    assert infer("matmul", unknown, X) == unknown
    assert infer("index", unknown, [0]) == unknown
    assert infer("add", unknown, X) == unknown
    assert infer("add", unknown, Meta((), "float64")).dtype is None  # type: ignore[union-attr]


def test_a_number_or_a_value_without_axes_does_not_widen_one_with_axes() -> None:
    for other in (2.5, Meta((), "float64"), True, Meta((), "int64")):
        assert infer("mul", HALF, other) == HALF


def test_a_mask_has_no_more_entries_than_elements() -> None:
    found = infer("index", CUBE, [Meta((2, 3), "bool")])
    assert isinstance(found, Meta)
    assert found.bytes() is None
    assert found.bytes_at_most({}) == 2 * 3 * 4 * 4
