"""Cases of losses, convolutions, pools and attention."""

from __future__ import annotations

import torch
from tests.worker.operation_inputs import CLASSES, LOGP, MASK, POSITIVE, ROW, SYMMETRIC, VECTOR, Case, X, Y, case
from torch.nn import functional as F  # noqa: N812

Z = X.flip(0)
PROBABLE = X.sigmoid()
WANTED = PROBABLE.flip(1)
SURPRISE = -(WANTED * PROBABLE.log() + (1 - WANTED) * (1 - PROBABLE).log())
SIGNS = torch.where(MASK, 1.0, -1.0)
IMAGE = torch.randn(2, 4, 5, 7, generator=torch.Generator().manual_seed(1))
SIGNAL = IMAGE[:, :, 0]
KERNEL = torch.randn(6, 2, 3, 2, generator=torch.Generator().manual_seed(2))
HEADS = torch.randn(2, 4, 3, 6, generator=torch.Generator().manual_seed(3))
SHARED = HEADS[:, :2]

_LOSSES: dict[str, list[Case]] = {
    "nll_loss": [
        case(LOGP, CLASSES, expected=-LOGP[torch.arange(3), CLASSES].mean()),
        case(LOGP, CLASSES, ignore_index=0, reduction="sum", expected=-(LOGP[0, 3] + LOGP[2, 1])),
        case(
            LOGP,
            CLASSES,
            VECTOR.abs(),
            reduction="none",
            expected=-LOGP[torch.arange(3), CLASSES] * VECTOR.abs()[CLASSES],
        ),
        case(LOGP[0], 2, expected=-LOGP[0, 2]),
    ],
    "multi_margin_loss": [
        case(Y, CLASSES, expected=F.multi_margin_loss(Y, CLASSES)),
        case(Y, CLASSES, 2, 0.5, "sum", expected=F.multi_margin_loss(Y, CLASSES, 2, 0.5, reduction="sum")),
        case(VECTOR, 1, expected=(1 - VECTOR[1] + VECTOR[[0, 2, 3]]).clamp(min=0).sum() / 4),
    ],
    "l1_loss": [case(X, Z, expected=(X - Z).abs().mean()), case(X, Z, "none", expected=(X - Z).abs())],
    "smooth_l1_loss": [
        case(X, Z, "none", 0.5, expected=torch.where((X - Z).abs() < 0.5, (X - Z).square(), (X - Z).abs() - 0.25)),
        case(X, Z, beta=0.0, expected=(X - Z).abs().mean()),
    ],
    "huber_loss": [
        case(
            X,
            Z,
            "sum",
            0.5,
            expected=torch.where((X - Z).abs() < 0.5, (X - Z) ** 2 / 2, (X - Z).abs() / 2 - 0.125).sum(),
        )
    ],
    "binary_cross_entropy": [
        case(PROBABLE, WANTED, expected=SURPRISE.mean()),
        case(PROBABLE, WANTED, POSITIVE[0], "none", expected=SURPRISE * POSITIVE[0]),
        case(PROBABLE, WANTED, POSITIVE[0], "sum", expected=(SURPRISE * POSITIVE[0]).sum()),
    ],
    "soft_margin_loss": [case(X, SIGNS, expected=(-SIGNS * X).exp().log1p().mean())],
    "hinge_embedding_loss": [case(X, SIGNS, 0.5, "none", expected=torch.where(MASK, X, (0.5 - X).clamp(min=0)))],
    "margin_ranking_loss": [case(X, Y[None], SIGNS, 0.1, expected=(0.1 - SIGNS * (X - Y)).clamp(min=0).mean())],
    "cosine_embedding_loss": [
        case(
            X[0],
            Y,
            SIGNS[0, :, 0],
            0.2,
            "none",
            expected=torch.where(
                MASK[0, :, 0], 1 - F.cosine_similarity(X[0], Y), (F.cosine_similarity(X[0], Y) - 0.2).clamp(min=0)
            ),
        ),
        case(VECTOR, Y[0], torch.tensor(1.0), expected=1 - F.cosine_similarity(VECTOR, Y[0], dim=0)),
    ],
    "triplet_margin_loss": [
        case(
            X, Y[None], Z, expected=((X - Y + 1e-6).norm(dim=-1) - (X - Z + 1e-6).norm(dim=-1) + 1).clamp(min=0).mean()
        ),
        case(
            X,
            Y[None],
            Z,
            0.5,
            1.0,
            swap=True,
            reduction="none",
            expected=F.triplet_margin_loss(X, Y[None], Z, 0.5, 1.0, swap=True, reduction="none"),
        ),
    ],
    "gaussian_nll_loss": [
        case(X, Z, POSITIVE, expected=(POSITIVE.log() + (X - Z) ** 2 / POSITIVE).mean() / 2),
        case(
            X,
            Z,
            POSITIVE[..., :1],
            True,
            reduction="none",
            expected=F.gaussian_nll_loss(X, Z, POSITIVE[..., :1], True, reduction="none"),
        ),
    ],
    "poisson_nll_loss": [
        case(X, POSITIVE, expected=(X.exp() - POSITIVE * X).mean()),
        case(
            POSITIVE, POSITIVE, False, reduction="sum", expected=(POSITIVE - POSITIVE * (POSITIVE + 1e-8).log()).sum()
        ),
    ],
}

_LAYERS: dict[str, list[Case]] = {
    "conv1d": [
        case(
            SIGNAL,
            KERNEL[..., 0].repeat(1, 2, 1),
            VECTOR.repeat(2)[:6],
            expected=torch.einsum("nclk,ock->nol", SIGNAL.unfold(-1, 3, 1), KERNEL[..., 0].repeat(1, 2, 1))
            + VECTOR.repeat(2)[:6, None],
        ),
        case(
            SIGNAL[0],
            KERNEL[..., 0],
            stride=2,
            padding=1,
            groups=2,
            expected=F.conv1d(SIGNAL[0], KERNEL[..., 0], stride=2, padding=1, groups=2),
        ),
    ],
    "conv2d": [
        case(
            IMAGE,
            KERNEL.repeat(1, 2, 1, 1),
            expected=torch.einsum(
                "nchwij,ocij->nohw", IMAGE.unfold(2, 3, 1).unfold(3, 2, 1), KERNEL.repeat(1, 2, 1, 1)
            ),
        ),
        case(IMAGE, KERNEL, None, [1, 2], [1, 0], 2, 2, expected=F.conv2d(IMAGE, KERNEL, None, (1, 2), (1, 0), 2, 2)),
    ],
    "avg_pool1d": [
        case(SIGNAL, 3, expected=SIGNAL[..., :6].unflatten(-1, (2, 3)).mean(-1)),
        case(SIGNAL, 2, 2, 1, True, False, expected=F.avg_pool1d(SIGNAL, 2, 2, 1, True, False)),
    ],
    "avg_pool2d": [
        case(IMAGE, 2, 1, expected=IMAGE.unfold(2, 2, 1).unfold(3, 2, 1).mean((-1, -2))),
        case(IMAGE, [3, 2], ceil_mode=True, expected=F.avg_pool2d(IMAGE, (3, 2), ceil_mode=True)),
    ],
    "max_pool1d": [
        case(SIGNAL, 3, 2, expected=SIGNAL.unfold(-1, 3, 2).amax(-1)),
        case(SIGNAL, 3, 3, 1, 2, True, expected=F.max_pool1d(SIGNAL, 3, 3, 1, 2, True)),
    ],
    "max_pool2d": [
        case(IMAGE, 2, 1, expected=IMAGE.unfold(2, 2, 1).unfold(3, 2, 1).amax((-1, -2))),
        case(IMAGE[0], [2, 3], [2, 1], [1, 0], expected=F.max_pool2d(IMAGE[0], (2, 3), (2, 1), (1, 0))),
    ],
    "adaptive_avg_pool1d": [case(SIGNAL, 1, expected=SIGNAL.mean(-1, keepdim=True))],
    "adaptive_avg_pool2d": [
        case(IMAGE, [5, 1], expected=IMAGE.mean(-1, keepdim=True)),
        case(IMAGE, 3, expected=F.adaptive_avg_pool2d(IMAGE, 3)),
    ],
    "adaptive_max_pool1d": [case(SIGNAL, 7, expected=SIGNAL)],
    "adaptive_max_pool2d": [case(IMAGE, [1, 1], expected=IMAGE.amax((-1, -2), keepdim=True))],
    "interpolate": [
        case(SIGNAL, 14, expected=SIGNAL.repeat_interleave(2, -1)),
        case(IMAGE, [10, 7], expected=IMAGE.repeat_interleave(2, 2)),
        case(SIGNAL, 3, "linear", True, expected=SIGNAL[..., [0, 3, 6]]),
        case(IMAGE, [3, 4], "bicubic", expected=F.interpolate(IMAGE, (3, 4), mode="bicubic")),
        case(IMAGE, 3, "area", expected=F.adaptive_avg_pool2d(IMAGE, 3)),
    ],
    "scaled_dot_product_attention": [
        case(X, Z, X + 1, expected=(X @ Z.mT / 2).softmax(-1) @ (X + 1)),
        case(
            X,
            Z,
            X,
            is_causal=True,
            scale=1.0,
            expected=(X @ Z.mT).masked_fill(torch.ones(3, 3).triu(1).bool(), -torch.inf).softmax(-1) @ X,
        ),
        case(X, Z, X, ROW, expected=(X @ Z.mT / 2).masked_fill(~ROW, -torch.inf).softmax(-1) @ X),
        case(X, Z, X, SYMMETRIC, expected=(X @ Z.mT / 2 + SYMMETRIC).softmax(-1) @ X),
        case(
            HEADS,
            SHARED,
            SHARED,
            enable_gqa=True,
            expected=F.scaled_dot_product_attention(HEADS, SHARED[:, [0, 0, 1, 1]], SHARED[:, [0, 0, 1, 1]]),
        ),
    ],
}

LEARNING: dict[str, list[Case]] = {**_LOSSES, **_LAYERS}
