"""For every operation: calls, and what PyTorch says when asked in its own way."""

from __future__ import annotations

import torch
from tests.worker.cases_algebra import ALGEBRA
from tests.worker.cases_axes import AXES
from tests.worker.cases_functions import FUNCTIONS
from tests.worker.cases_learning import LEARNING
from tests.worker.operation_inputs import (
    CLASSES,
    COUNTS,
    LOGP,
    LOGQ,
    MASK,
    ODD,
    POSITIVE,
    ROW,
    SORTED,
    SQUARE,
    SYMMETRIC,
    VECTOR,
    WEIGHT,
    WHOLE,
    Case,
    X,
    Y,
    case,
)
from torch.nn import functional as F  # noqa: N812

from telepatch_protocol.indexing import Slice

_SELF = (
    "abs ceil cos detach erf exp expm1 floor isfinite isinf isnan logical_not neg round sigmoid sign sin square tanh"
)
_SELF_POSITIVE = "log log1p log2 reciprocal rsqrt sqrt"
_PAIRS = "add sub mul div maximum minimum remainder eq ne lt le gt ge logical_and logical_or logical_xor floor_divide"
_NUMBERS = "add sub mul div remainder eq ne lt le gt ge floor_divide"
_REDUCED = "sum mean std var amax amin any all"
_ONE_AXIS = "argmax argmin"

CASES: dict[str, list[Case]] = {
    **FUNCTIONS,
    **AXES,
    **ALGEBRA,
    **LEARNING,
    **{name: [case(X, expected=getattr(X, name)())] for name in _SELF.split()},
    **{name: [case(POSITIVE, expected=getattr(POSITIVE, name)())] for name in _SELF_POSITIVE.split()},
    **{name: [case(X, Y, expected=getattr(X, name)(Y))] for name in _PAIRS.split()},
    **{
        name: [
            case(X, expected=getattr(X, name)()),
            case(X, -2, keepdim=True, expected=getattr(X, name)(dim=1, keepdim=True)),
            case(X, [0, 2], expected=getattr(X, name)(dim=(0, 2))),
        ]
        for name in _REDUCED.split()
    },
    **{
        name: [case(X, expected=getattr(X, name)()), case(X, 1, True, expected=getattr(X, name)(1, keepdim=True))]
        for name in _ONE_AXIS.split()
    },
    **{
        name: [
            case(X, expected=getattr(X, name)()),
            case(X, 1, True, expected=tuple(getattr(X, name)(1, keepdim=True))),
        ]
        for name in ("max", "min", "median")
    },
    "pow": [
        case(POSITIVE, 2.5, expected=POSITIVE**2.5),
        case(2, X, expected=2**X),
        case(POSITIVE, Y, expected=POSITIVE**Y),
    ],
    "clamp": [
        case(X, expected=X.clip(-0.5), min=-0.5),
        case(X, -0.5, Y.abs(), expected=torch.minimum(torch.maximum(X, torch.tensor(-0.5)), Y.abs())),
    ],
    "lerp": [case(X, Y, 0.25, expected=X + 0.25 * (Y - X)), case(X, Y, Y, expected=X.lerp(Y.expand(2, 3, 4), Y))],
    "nan_to_num": [
        case(ODD, expected=ODD.nan_to_num()),
        case(ODD, 7.0, "inf", -3, expected=torch.tensor([7.0, float("inf"), -3.0, 1.5])),
    ],
    "where": [
        case(MASK, X, 0.0, expected=X * MASK),
        case(MASK, "-inf", Y, expected=Y.expand(2, 3, 4).masked_fill(MASK, -float("inf"))),
        case(MASK, 1.0, 2, expected=torch.ones(2, 3, 4) + (~MASK).float()),
    ],
    "masked_fill": [
        case(X, MASK, "-inf", expected=X.clone().masked_fill_(MASK, -float("inf"))),
        case(Y, MASK, torch.tensor(2.0), expected=Y.expand(2, 3, 4).clone().masked_fill_(MASK, 2.0)),
    ],
    "gelu": [case(X, expected=F.gelu(X)), case(X, "tanh", expected=F.gelu(X, approximate="tanh"))],
    "relu": [case(X, expected=X.clamp(min=0))],
    "silu": [case(X, expected=X * X.sigmoid())],
    "softplus": [case(X, expected=X.exp().log1p())],
    "softmax": [
        case(X, -1, expected=X.softmax(-1)),
        case(X, 0, "float64", expected=X.double().softmax(0)),
    ],
    "log_softmax": [case(X, 1, expected=X.log_softmax(1))],
    "layer_norm": [
        case(X, [4], Y[0], Y[1], expected=F.layer_norm(X, [4], Y[0], Y[1])),
        case(X, [3, 4], expected=F.layer_norm(X, [3, 4])),
    ],
    "rms_norm": [case(X, [4], Y[0], 1e-6, expected=X * (X.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * Y[0])],
    "normalize": [
        case(X, dim=-1, expected=X / X.norm(dim=-1, keepdim=True)),
        case(X, 1.0, 0, expected=F.normalize(X, 1.0, 0)),
    ],
    "prod": [case(X, expected=X.prod()), case(X, 2, expected=X.prod(2))],
    "norm": [
        case(X, expected=X.norm()),
        case(X, 1, [0, 1], expected=X.abs().sum((0, 1))),
        case(X, "inf", -1, expected=X.abs().amax(-1)),
    ],
    "logsumexp": [
        case(X, -1, expected=X.exp().sum(-1).log()),
        case(X, [0, 1], True, expected=X.logsumexp((0, 1), True)),
    ],
    "quantile": [case(X, 0.25, expected=X.quantile(0.25)), case(X, 0.5, 1, expected=X.quantile(0.5, 1))],
    "count_nonzero": [case(WHOLE, expected=(WHOLE != 0).sum()), case(WHOLE, 1, expected=(WHOLE != 0).sum(1))],
    "cumsum": [case(X, 1, expected=X.cumsum(1)), case(MASK, -1, expected=MASK.cumsum(-1))],
    "cumprod": [case(X, 1, expected=X.cumprod(1))],
    "sort": [
        case(X, expected=tuple(X.sort())),
        case(WHOLE, 0, True, expected=tuple(WHOLE.sort(dim=0, descending=True, stable=True))),
    ],
    "argsort": [case(WHOLE, 1, expected=WHOLE.argsort(dim=1, stable=True))],
    "topk": [
        case(X, 2, expected=tuple(X.topk(2))),
        case(X, 1, 0, False, expected=tuple(X.topk(1, 0, largest=False))),
    ],
    "searchsorted": [
        case(SORTED, X, expected=(X[..., None] > SORTED).sum(-1)),
        case(SORTED, 2.0, True, expected=torch.tensor(3)),
    ],
    "size": [case(X, -1, expected=torch.tensor(4))],
    "numel": [case(X, expected=torch.tensor(24))],
    "reshape": [case(X, [6, -1], expected=X.view(6, 4)), case(X, [-1, 3, 2, 2], expected=X.view(2, 3, 2, 2))],
    "flatten": [case(X, expected=X.view(24)), case(X, 1, expected=X.view(2, 12))],
    "unflatten": [case(X, -1, [2, -1], expected=X.view(2, 3, 2, 2))],
    "transpose": [case(X, 0, -1, expected=X.swapaxes(0, 2))],
    "mT": [case(X, expected=X.transpose(1, 2))],
    "permute": [case(X, [2, 0, 1], expected=torch.einsum("abc->cab", X))],
    "squeeze": [
        case(X[:1], expected=X[0]),
        case(X[:1, :1], [0, 1], expected=X[0, 0]),
        case(X[:, :1], 0, expected=X[:, :1]),
    ],
    "unsqueeze": [case(X, -1, expected=X[..., None]), case(X, 0, expected=X[None])],
    "expand": [case(X[:, :1], [5, 2, 3, -1], expected=X[:, [0, 0, 0]].repeat(5, 1, 1, 1))],
    "repeat": [case(Y, [2, 1, 3], expected=torch.cat([torch.cat([Y] * 3, 1)[None]] * 2))],
    "repeat_interleave": [
        case(X, 2, 1, expected=X[:, [0, 0, 1, 1, 2, 2]]),
        case(Y, 2, expected=torch.stack([Y.flatten()] * 2, 1).flatten()),
    ],
    "flip": [case(X, [0, -1], expected=X.flip(0).flip(2)), case(X, 1, expected=X.flip(1))],
    "roll": [
        case(X, 1, 2, expected=X[..., [3, 0, 1, 2]]),
        case(X, [1, -1], [0, 1], expected=X.roll(1, 0).roll(-1, 1)),
        case(Y, 2, expected=Y.roll(2)),
    ],
    "cat": [
        case([X, X], -1, expected=torch.concatenate([X, X], -1)),
        case([X, Y[None]], expected=torch.concatenate([X, Y[None]])),
    ],
    "stack": [
        case([Y, Y, Y], 1, expected=torch.cat([Y[:, None]] * 3, 1)),
        case([torch.tensor(1), torch.tensor(2)], expected=torch.tensor([1, 2])),
    ],
    "to": [case(X, "int32", expected=X.int()), case(WHOLE, "bfloat16", expected=WHOLE.bfloat16())],
    "index": [
        case(X, [0, Slice(1), Ellipsis], expected=X[0, 1:]),
        case(X, [Slice(), ROW], expected=X[:, ROW]),
        case(X, [Slice(), [0, 2], None, CLASSES[:2]], expected=X[:, [0, 2], None, CLASSES[:2]]),
        case(X, [MASK], expected=X[MASK]),
        case(X, [Slice(torch.tensor(0), None, 2), torch.tensor(-1)], expected=X[::2, -1]),
    ],
    "index_select": [case(X, 2, CLASSES, expected=X[..., CLASSES])],
    "gather": [
        case(X, 1, WHOLE[:, :1] % 3, expected=torch.take_along_dim(X, WHOLE[:, :1] % 3, 1)),
        case(X, 2, (WHOLE % 4).int(), expected=X.gather(2, WHOLE % 4)),
    ],
    "take_along_dim": [
        case(X, X.argsort(1), 1, expected=X.sort(1).values),
        case(X, CLASSES, expected=X.flatten()[CLASSES]),
    ],
    "scatter": [
        case(Y, 1, COUNTS[:, :1], 9.0, expected=Y.scatter(1, COUNTS[:, :1], 9.0)),
        case(Y, 1, COUNTS, X[0], expected=Y.scatter(1, COUNTS, X[0])),
    ],
    "scatter_add": [case(Y, 0, COUNTS.new_zeros(2, 4), X[0], expected=Y.index_add(0, torch.tensor([0, 0]), X[0, :2]))],
    "one_hot": [case(COUNTS, 4, expected=torch.eye(4, dtype=torch.int64)[COUNTS])],
    "nonzero": [case(WHOLE, expected=torch.argwhere(WHOLE))],
    "diagonal": [
        case(X, 1, 1, 2, expected=torch.stack([X[:, i, i + 1] for i in range(3)], 1)),
        case(X, -1, 1, 2, expected=X.diagonal(-1, 1, 2)),
    ],
    "tril": [case(SQUARE, -1, expected=SQUARE * torch.ones(3, 3).tril(-1))],
    "triu": [case(X, expected=X * torch.ones(3, 4).triu())],
    "matmul": [
        case(X, Y.mT, expected=X @ Y.mT),
        case(VECTOR, VECTOR, expected=(VECTOR * VECTOR).sum()),
        case(X, VECTOR, expected=(X * VECTOR).sum(-1)),
    ],
    "linear": [
        case(X, WEIGHT, Y.new_ones(5), expected=X @ WEIGHT.mT + 1),
        case(X, VECTOR, expected=X @ VECTOR),
    ],
    "outer": [case(VECTOR, SORTED, expected=VECTOR[:, None] * SORTED)],
    "einsum": [
        case("bij,kj->bik", X, Y, expected=X @ Y.mT),
        case("...ij,...ij->...i", [X, X], expected=X.square().sum(-1)),
        case("ii", SQUARE, expected=SQUARE.trace()),
        case("ba", Y, expected=Y.mT),
    ],
    "svd": [
        case(X, False, expected=tuple(torch.linalg.svd(X, full_matrices=False))),
        case(Y, expected=tuple(torch.linalg.svd(Y))),
    ],
    "qr": [
        case(Y.mT, expected=tuple(torch.linalg.qr(Y.mT))),
        case(Y, "complete", expected=tuple(torch.linalg.qr(Y, "complete"))),
    ],
    "eigh": [case(SYMMETRIC, expected=tuple(torch.linalg.eigh(SYMMETRIC)))],
    "solve": [
        case(SQUARE, Y, expected=SQUARE.inverse() @ Y),
        case(SQUARE, Y[:, 0], expected=SQUARE.inverse() @ Y[:, 0]),
    ],
    "pinv": [case(Y, expected=Y.mT @ (Y @ Y.mT).inverse())],
    "cross_entropy": [
        case(Y, CLASSES, expected=-LOGP[torch.arange(3), CLASSES].mean()),
        case(Y, CLASSES, reduction="none", expected=-LOGP[torch.arange(3), CLASSES]),
        case(VECTOR, 2, expected=VECTOR.logsumexp(0) - 2.0),
        case(Y, LOGQ.exp(), reduction="sum", expected=-(LOGQ.exp() * LOGP).sum()),
    ],
    "kl_div": [
        case(LOGP, LOGQ.exp(), expected=(LOGQ.exp() * (LOGQ - LOGP)).mean()),
        case(LOGP, LOGQ, reduction="sum", log_target=True, expected=(LOGQ.exp() * (LOGQ - LOGP)).sum()),
        case(LOGP, LOGQ, "batchmean", True, expected=(LOGQ.exp() * (LOGQ - LOGP)).sum() / 3),
        case(LOGP, LOGQ, "none", True, expected=LOGQ.exp() * (LOGQ - LOGP)),
    ],
    "mse_loss": [case(X, X.flip(0), expected=(X - X.flip(0)).square().mean())],
    "binary_cross_entropy_with_logits": [
        case(Y, MASK[0].float(), "none", expected=F.softplus(torch.where(MASK[0], -Y, Y)))
    ],
    "cosine_similarity": [case(X, Y, -1, expected=F.normalize(X, dim=-1).mul(F.normalize(Y, dim=-1)).sum(-1))],
    "zeros": [case([2, 3], expected=torch.tensor([[0.0] * 3] * 2)), case([2], "int64", expected=torch.tensor([0, 0]))],
    "ones": [case([2], expected=torch.tensor([1.0, 1.0])), case([], "bool", expected=torch.tensor(True))],
    "full": [
        case([2], 7, expected=torch.tensor([7, 7])),
        case([1, 2], "-inf", expected=torch.tensor([[-float("inf")] * 2])),
    ],
    "zeros_like": [case(WHOLE, expected=WHOLE * 0), case(X, "bool", expected=X != X)],
    "ones_like": [case(X, expected=X * 0 + 1)],
    "full_like": [case(X, 2.5, expected=X * 0 + 2.5)],
    "arange": [
        case(1, 4, expected=torch.tensor([1, 2, 3])),
        case(5, -1, -2, "float32", expected=torch.tensor([5.0, 3.0, 1.0])),
    ],
    "linspace": [case(0, 1, 5, expected=torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]))],
    "eye": [case(2, expected=torch.tensor([[1.0, 0.0], [0.0, 1.0]])), case(1, 2, expected=torch.tensor([[1.0, 0.0]]))],
}
for _name in _NUMBERS.split():
    CASES[_name].append(case(X, 2, expected=getattr(X, _name)(2)))
    CASES[_name].append(case(2, X, expected=getattr(torch.full_like(X, 2.0), _name)(X)))
for _name in ("maximum", "minimum"):
    CASES[_name].append(case(1.0, X, expected=getattr(X, _name)(torch.ones_like(X))))
CASES["div"].append(case(WHOLE, 3, "floor", expected=torch.div(WHOLE, 3, rounding_mode="floor")))
CASES["sum"].append(case(MASK, 0, expected=MASK.long().sum(0)))
CASES["sum"].append(case(X, dtype="float64", expected=X.double().sum()))
CASES["std"].append(case(X, 0, 0, expected=X.var(0, correction=0).sqrt()))

DRAWN: dict[str, tuple[tuple[object, ...], tuple[int, ...], str]] = {
    "rand": (([2, 3],), (2, 3), "float32"),
    "randn": (([5],), (5,), "float32"),
    "randint": ((3, 9, [4, 2]), (4, 2), "int64"),
    "randperm": ((6,), (6,), "int64"),
    "rand_like": ((X,), (2, 3, 4), "float32"),
    "randn_like": ((X,), (2, 3, 4), "float32"),
    "normal": ((X, 2.0), (2, 3, 4), "float32"),
    "bernoulli": ((torch.full((40,), 0.5),), (40,), "float32"),
    "poisson": ((torch.full((40,), 3.0),), (40,), "float32"),
    "multinomial": ((torch.ones(3, 8), 6), (3, 6), "int64"),
    "dropout": ((torch.ones(40),), (40,), "float32"),
    "gumbel_softmax": ((X,), (2, 3, 4), "float32"),
}
"""Random operations: arguments but the key, and the shape and dtype of what they draw."""
