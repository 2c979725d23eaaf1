"""Cases of statistics along axes, of shapes, and of picking and placing."""

from __future__ import annotations

import torch
from tests.worker.operation_inputs import (
    CLASSES,
    COUNTS,
    MASK,
    SORTED,
    SQUARE,
    VECTOR,
    WEIGHT,
    WHOLE,
    Case,
    X,
    Y,
    case,
)
from torch.nn import functional as F  # noqa: N812

HOLES = torch.where(MASK, X, torch.nan)
LINE = torch.tensor([3, 1, 2, 3, 3, 1])

_MOMENTS: dict[str, list[Case]] = {
    "nansum": [
        case(HOLES, expected=(X * MASK).sum()),
        case(HOLES, [0, 2], True, expected=(X * MASK).sum((0, 2), True)),
    ],
    "nanmean": [case(HOLES, expected=X[MASK].mean()), case(HOLES, 1, expected=(X * MASK).sum(1) / MASK.sum(1))],
    "nanmedian": [
        case(HOLES, expected=X[MASK].median()),
        case(HOLES, 1, expected=tuple(HOLES.nanmedian(1))),
    ],
    "nanquantile": [
        case(HOLES, 0.5, expected=X[MASK].quantile(0.5)),
        case(X, 0.3, 2, True, expected=X.quantile(0.3, 2, True)),
    ],
    "std_mean": [
        case(X, expected=(X.std(), X.mean())),
        case(X, [0, 1], 0, True, expected=(X.std((0, 1), correction=0, keepdim=True), X.mean((0, 1), keepdim=True))),
    ],
    "var_mean": [case(X, expected=(X.var(), X.mean())), case(X, -1, expected=(X.var(-1), X.mean(-1)))],
    "aminmax": [
        case(X, expected=(X.min(), X.max())),
        case(X, 1, True, expected=(X.amin(1, True), X.amax(1, True))),
    ],
    "cummax": [case(X, 1, expected=tuple(X.cummax(1)))],
    "cummin": [case(X, -1, expected=tuple(X.cummin(2)))],
    "logcumsumexp": [case(X, 1, expected=X.exp().cumsum(1).log())],
    "mode": [
        case(WHOLE, 0, expected=tuple(WHOLE.mode(0))),
        case(LINE, expected=(torch.tensor(3), torch.tensor(4))),
        case(WHOLE, 1, True, expected=tuple(WHOLE.mode(1, True))),
    ],
    "kthvalue": [
        case(X, 2, expected=tuple(one[..., 1] for one in X.sort())),
        case(X, 1, 0, True, expected=tuple(X.kthvalue(1, 0, True))),
    ],
    "diff": [case(X, expected=X[..., 1:] - X[..., :-1]), case(X, 2, 1, expected=X[:, 2:] - 2 * X[:, 1:2] + X[:, :1])],
    "trapezoid": [
        case(X, expected=(X[..., 1:] + X[..., :-1]).sum(-1) / 2),
        case(X, SORTED, expected=((X[..., 1:] + X[..., :-1]) * SORTED.diff()).sum(-1) / 2),
        case(X, None, 0.5, 1, expected=(X[:, 1:] + X[:, :-1]).sum(1) / 4),
    ],
    "histc": [case(X, 4, -1, 1, expected=X.histc(4, -1, 1)), case(VECTOR, 3, expected=torch.tensor([1.0, 1.0, 2.0]))],
    "bincount": [
        case(COUNTS[0], None, 5, expected=torch.tensor([1, 1, 1, 0, 0])),
        case(
            CLASSES, X[0, :, 0], minlength=4, expected=torch.stack([X[0, 1, 0], X[0, 2, 0], X[0, 0, 0] * 0, X[0, 0, 0]])
        ),
    ],
    "cov": [
        case(Y, expected=(Y - Y.mean(1, True)) @ (Y - Y.mean(1, True)).mT / 3),
        case(VECTOR, 0, expected=VECTOR.var(correction=0)),
    ],
    "corrcoef": [case(Y, expected=F.normalize(Y - Y.mean(1, True)) @ F.normalize(Y - Y.mean(1, True)).mT)],
    "dist": [case(X, Y, expected=(X - Y).norm()), case(X, Y, 1, expected=(X - Y).abs().sum())],
    "bucketize": [
        case(X, SORTED, expected=(X[..., None] > SORTED).sum(-1)),
        case(SORTED, SORTED, right=True, expected=torch.tensor([1, 2, 3, 4])),
    ],
    "unique": [
        case(LINE, expected=torch.tensor([1, 2, 3])),
        case(LINE, True, True, expected=(torch.tensor([1, 2, 3]), LINE - 1, torch.tensor([2, 1, 3]))),
        case(WHOLE, return_counts=True, expected=torch.unique(WHOLE, return_counts=True)),
    ],
}

_SHAPES: dict[str, list[Case]] = {
    "broadcast_to": [
        case(Y, [2, 3, 4], expected=torch.stack([Y, Y])),
        case(Y, [2, -1, 4], expected=torch.stack([Y, Y])),
    ],
    "expand_as": [case(Y[:1], X, expected=X * 0 + Y[0])],
    "movedim": [
        case(X, 0, -1, expected=X.permute(1, 2, 0)),
        case(X, [0, 2], [1, 0], expected=X.permute(2, 0, 1)),
    ],
    "tile": [
        case(Y, [2], expected=torch.cat([Y, Y], 1)),
        case(Y, [2, 1, 3], expected=Y.repeat(2, 1, 3)),
        case(X, [1, 2], expected=X.repeat(1, 1, 2)),
    ],
    "rot90": [
        case(X, expected=X.transpose(0, 1).flip(0)),
        case(X, 2, [1, 2], expected=X.flip(1, 2)),
        case(X, -1, [0, 2], expected=X.rot90(3, [0, 2])),
    ],
    "fliplr": [case(X, expected=X.flip(1))],
    "flipud": [case(VECTOR, expected=VECTOR.flip(0))],
    "unfold": [
        case(X, -1, 3, 1, expected=torch.stack([X[..., :3], X[..., 1:]], 2)),
        case(Y, 0, 1, 2, expected=Y[::2, :, None]),
    ],
    "hstack": [
        case([X, X], expected=torch.cat([X, X], 1)),
        case([VECTOR, SORTED], expected=torch.cat([VECTOR, SORTED])),
        case([torch.tensor(1.0), VECTOR], expected=torch.cat([torch.tensor([1.0]), VECTOR])),
    ],
    "vstack": [case([X, X], expected=torch.cat([X, X])), case([Y, VECTOR], expected=torch.cat([Y, VECTOR[None]]))],
    "dstack": [
        case([VECTOR, SORTED], expected=torch.stack([VECTOR, SORTED], 1)[None]),
        case([Y, Y], expected=torch.stack([Y, Y], 2)),
        case([X, X], expected=torch.cat([X, X], 2)),
    ],
    "column_stack": [case([VECTOR, Y.mT], expected=torch.cat([VECTOR[:, None], Y.mT], 1))],
    "block_diag": [
        case([Y, VECTOR[:2]], expected=torch.cat([F.pad(Y, (0, 2)), F.pad(VECTOR[None, :2], (4, 0))])),
        case([SQUARE, torch.tensor(5.0)], expected=torch.block_diag(SQUARE, torch.tensor(5.0))),
    ],
    "meshgrid": [
        case([VECTOR, SORTED[:2]], expected=(VECTOR[:, None].expand(4, 2), SORTED[None, :2].expand(4, 2))),
        case([VECTOR, SORTED[:2]], "xy", expected=torch.meshgrid(VECTOR, SORTED[:2], indexing="xy")),
    ],
    "cartesian_prod": [
        case([VECTOR, SORTED], expected=torch.stack([VECTOR.repeat_interleave(4), SORTED.repeat(4)], 1)),
        case([VECTOR], expected=VECTOR),
    ],
    "pad": [
        case(X, [1, 2], expected=torch.cat([X.new_zeros(2, 3, 1), X, X.new_zeros(2, 3, 2)], 2)),
        case(X, [0, -1, 2, 0], "constant", 5.0, expected=torch.cat([X.new_full((2, 2, 3), 5.0), X[..., :3]], 1)),
        case(X, [1, 1], "circular", expected=torch.cat([X[..., -1:], X, X[..., :1]], -1)),
        case(X, [2, 0], "reflect", expected=torch.cat([X[..., 2:3], X[..., 1:2], X], -1)),
        case(X, [0, 2], "replicate", expected=torch.cat([X, X[..., -1:], X[..., -1:]], -1)),
    ],
}

_PICKING: dict[str, list[Case]] = {
    "select": [case(X, 1, -1, expected=X[:, -1])],
    "narrow": [case(X, 2, 1, 3, expected=X[..., 1:]), case(X, 1, -2, 1, expected=X[:, 1:2])],
    "take": [case(X, CLASSES, expected=X.flatten()[CLASSES]), case(X, COUNTS - 4, expected=X.flatten()[COUNTS - 4])],
    "masked_select": [case(X, MASK, expected=X[MASK]), case(Y, MASK, expected=Y.expand(2, 3, 4)[MASK])],
    "index_add": [
        case(Y, 1, CLASSES, X[0, :, :3], 0.5, expected=Y + 0.5 * torch.eye(4)[CLASSES].mT.matmul(X[0, :, :3].mT).mT),
        case(Y, 0, COUNTS[0], X[1], expected=Y + X[1][[0, 2, 1]]),
    ],
    "index_copy": [case(Y, 0, COUNTS[0, :2], X[0, :2], expected=torch.stack([X[0, 0], Y[1], X[0, 1]]))],
    "index_fill": [
        case(Y, 1, CLASSES, 7.0, expected=torch.stack([Y[:, 0] * 0 + 7, Y[:, 1] * 0 + 7, Y[:, 2], Y[:, 0] * 0 + 7], 1)),
        case(Y, 0, COUNTS[0, :1], torch.tensor(2.0), expected=torch.cat([Y[:1] * 0 + 2, Y[1:]])),
    ],
    "scatter_reduce": [
        case(Y, 1, COUNTS, X[0], reduce, expected=Y.scatter_reduce(1, COUNTS, X[0], reduce))
        for reduce in ("sum", "prod", "mean", "amax", "amin")
    ]
    + [
        case(
            Y,
            0,
            COUNTS % 3,
            X[0],
            "sum",
            False,
            expected=Y.scatter_reduce(0, COUNTS % 3, X[0], "sum", include_self=False),
        )
    ],
    "select_scatter": [case(X, Y, 0, 1, expected=torch.stack([X[0], Y]))],
    "slice_scatter": [
        case(X, X[:, :2] + 1, 1, 1, expected=torch.cat([X[:, :1], X[:, :2] + 1], 1)),
        case(
            X,
            Y[None, :, :2].expand(2, 3, 2),
            -1,
            None,
            None,
            2,
            expected=torch.stack([Y[:, 0].expand(2, 3), X[..., 1], Y[:, 1].expand(2, 3), X[..., 3]], -1),
        ),
    ],
    "diagonal_scatter": [case(SQUARE, VECTOR[:3], expected=SQUARE - SQUARE.diagonal().diag() + VECTOR[:3].diag())],
    "diag": [
        case(VECTOR, expected=torch.eye(4) * VECTOR),
        case(VECTOR, -2, expected=F.pad(torch.eye(4) * VECTOR, (0, 2, 2, 0))),
        case(Y, 1, expected=torch.stack([Y[0, 1], Y[1, 2], Y[2, 3]])),
    ],
    "diag_embed": [
        case(Y, expected=torch.eye(4) * Y[:, None]),
        case(Y, 1, 0, 2, expected=torch.diag_embed(Y, 1, 0, 2)),
    ],
    "diagflat": [case(Y, expected=torch.eye(12) * Y.flatten()), case(VECTOR, -1, expected=VECTOR.diag(-1))],
    "embedding": [case(COUNTS, WEIGHT, expected=WEIGHT[COUNTS]), case(CLASSES.int(), WEIGHT, expected=WEIGHT[CLASSES])],
    "tril_indices": [
        case(3, 4, expected=torch.ones(3, 4).tril().nonzero().mT),
        case(2, 3, 1, expected=torch.tril_indices(2, 3, 1)),
    ],
    "triu_indices": [case(3, 3, 1, expected=torch.ones(3, 3).triu(1).nonzero().mT)],
    "logspace": [
        case(0, 2, 3, expected=torch.tensor([1.0, 10.0, 100.0])),
        case(0, 2, 3, 2.0, "float64", expected=torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)),
    ],
}

AXES: dict[str, list[Case]] = {**_MOMENTS, **_SHAPES, **_PICKING}
