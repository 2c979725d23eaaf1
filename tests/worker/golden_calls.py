"""Calls that give arguments which the cases leave at their defaults: with the cases, every argument is given once."""

from __future__ import annotations

import torch
from tests.worker.cases_axes import HOLES
from tests.worker.cases_learning import IMAGE, SIGNAL, SIGNS
from tests.worker.operation_inputs import (
    CLASSES,
    LOGP,
    POSITIVE,
    SQUARE,
    SYMMETRIC,
    VECTOR,
    WHOLE,
    X,
    Y,
)

Call = tuple[tuple[object, ...], dict[str, object]]

_WIDER = {
    **dict.fromkeys(("mean", "prod", "nansum", "nanmean", "ones_like", "rand_like", "randn_like"), (X,)),
    **dict.fromkeys(("log_softmax", "softmin", "cumsum", "cumprod"), (X, -1)),
    **dict.fromkeys(("rand", "randn"), ([5],)),
    "full": ([2], 7),
    "full_like": (X, 2),
    "linspace": (0, 1, 5),
    "eye": (2,),
}
"""Calls to which only a dtype is missing."""

_REDUCED = dict.fromkeys(("mse_loss", "soft_margin_loss"), (X, SIGNS)) | {"margin_ranking_loss": (X, X.flip(0), SIGNS)}
"""Losses to which only the reduction is missing."""


def _call(*args: object, **kwargs: object) -> Call:
    return args, kwargs


MORE: dict[str, Call] = {
    **{name: _call(*args, dtype="float64") for name, args in _WIDER.items()},
    **{name: _call(*args, reduction="sum") for name, args in _REDUCED.items()},
    "addmv": _call(SQUARE[0], Y, VECTOR, beta=0.5, alpha=2),
    "allclose": _call(X, X, rtol=0.1, atol=0.01, equal_nan=True),
    "argsort": _call(WHOLE, 1, descending=True),
    "avg_pool2d": _call(IMAGE[0], 2, padding=1, count_include_pad=False),
    "celu": _call(X, alpha=0.5),
    "conv1d": _call(SIGNAL, IMAGE[:, :, 0, :3], dilation=2),
    "cosine_similarity": _call(X, Y, eps=0.01),
    "cross_entropy": _call(LOGP, CLASSES, VECTOR.abs(), 0, label_smoothing=0.1),
    "diagonal_scatter": _call(X, Y[:2, :3], offset=1, dim1=1, dim2=2),
    "dropout": _call(X, p=0.25),
    "eigh": _call(SYMMETRIC, UPLO="U"),
    "flatten": _call(X, 0, end_dim=1),
    "gaussian_nll_loss": _call(X, Y, POSITIVE, eps=0.01),
    "group_norm": _call(X, 3, eps=0.01),
    "gumbel_softmax": _call(X, tau=0.5, hard=True, dim=0),
    "isclose": _call(X, Y[None], rtol=0.1),
    "layer_norm": _call(X, [4], eps=0.01),
    "max_pool2d": _call(IMAGE[0], 2, dilation=2, ceil_mode=True),
    "multinomial": _call(torch.ones(3), 6, replacement=True),
    "nanmean": _call(HOLES, 1, keepdim=True, dtype="float64"),
    "nanmedian": _call(HOLES, 1, keepdim=True),
    "norm": _call(X, 2, 1, keepdim=True),
    "normalize": _call(X, eps=0.01),
    "pairwise_distance": _call(X, Y, eps=0.01),
    "poisson_nll_loss": _call(X, POSITIVE, full=True, eps=0.01),
    "prod": _call(X, 1, keepdim=True, dtype="float64"),
    "quantile": _call(X, 0.5, 1, keepdim=True),
    "randint": _call(3, 9, [2], dtype="int32"),
    "softplus": _call(X, beta=2.0, threshold=10.0),
    "topk": _call(X, 2, sorted=False),
    "triplet_margin_loss": _call(X, Y[None], X.flip(0), eps=0.01),
    "triu": _call(X, diagonal=1),
    "var": _call(X, 1, correction=0),
    "var_mean": _call(X, 1, correction=0, keepdim=True),
}
"""By operation; a random one is given its key beside."""
