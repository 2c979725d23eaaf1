"""Cases of products, decompositions and distances."""

from __future__ import annotations

import torch
from tests.worker.operation_inputs import SORTED, SQUARE, SYMMETRIC, VECTOR, WEIGHT, WHOLE, Case, X, Y, case

DEFINITE = SQUARE @ SQUARE.mT + torch.eye(3)
BATCH = torch.stack([SQUARE, DEFINITE])
GAPS = (Y[:, None] - WEIGHT).abs()

ALGEBRA: dict[str, list[Case]] = {
    "mm": [case(Y, WEIGHT.mT, expected=Y @ WEIGHT.mT)],
    "bmm": [case(X, X.mT, expected=torch.einsum("bij,bkj->bik", X, X))],
    "mv": [case(Y, VECTOR, expected=(Y * VECTOR).sum(-1))],
    "dot": [case(VECTOR, SORTED, expected=(VECTOR * SORTED).sum())],
    "inner": [case(X, Y, expected=torch.einsum("bij,kj->bik", X, Y)), case(VECTOR, SORTED, expected=VECTOR @ SORTED)],
    "tensordot": [
        case(X, Y, expected=torch.einsum("bij,ij->b", X, Y)),
        case(Y, X.permute(2, 0, 1), 1, expected=torch.einsum("ij,bkj->ibk", Y, X)),
        case(VECTOR, SORTED, 0, expected=VECTOR[:, None] * SORTED),
    ],
    "multi_dot": [
        case([Y, WEIGHT.mT, WEIGHT], expected=Y @ WEIGHT.mT @ WEIGHT),
        case([VECTOR, Y.mT, SQUARE[0]], expected=VECTOR @ Y.mT @ SQUARE[0]),
    ],
    "addmm": [
        case(VECTOR[:3], Y, Y.mT, expected=VECTOR[:3] + Y @ Y.mT),
        case(SQUARE, Y, Y.mT, 0.5, 2.0, expected=SQUARE / 2 + 2 * Y @ Y.mT),
    ],
    "addmv": [case(SQUARE[0], Y, VECTOR, expected=SQUARE[0] + Y @ VECTOR)],
    "baddbmm": [case(SQUARE, X, X.mT, 2.0, 0.5, expected=2 * SQUARE + X @ X.mT / 2)],
    "cross": [
        case(Y[:, :3], SQUARE, expected=torch.cross(Y[:, :3], SQUARE, dim=1)),
        case(Y[None], X, -2, expected=torch.cross(Y.expand(2, 3, 4), X, dim=1)),
    ],
    "kron": [
        case(SQUARE, Y, expected=torch.einsum("ab,cd->acbd", SQUARE, Y).reshape(9, 12)),
        case(VECTOR, Y, expected=torch.kron(VECTOR, Y)),
    ],
    "trace": [case(SQUARE, expected=SQUARE.diagonal().sum()), case(WHOLE[0], expected=WHOLE[0].diagonal().sum())],
    "svdvals": [case(X, expected=torch.linalg.svd(X).S)],
    "eigvalsh": [
        case(SYMMETRIC, expected=torch.linalg.eigh(SYMMETRIC).eigenvalues),
        case(SQUARE, "U", expected=torch.linalg.eigvalsh(SQUARE, "U")),
    ],
    "cholesky": [
        case(DEFINITE, expected=torch.linalg.cholesky(DEFINITE)),
        case(DEFINITE, True, expected=torch.linalg.cholesky(DEFINITE).mT),
    ],
    "solve_triangular": [
        case(SQUARE, Y, upper=True, expected=SQUARE.triu().inverse() @ Y),
        case(SQUARE, Y.mT, False, False, expected=Y.mT @ SQUARE.tril().inverse()),
        case(BATCH, Y, True, unitriangular=True, expected=(BATCH.triu(1) + torch.eye(3)).inverse() @ Y),
    ],
    "lstsq": [
        case(Y.mT, WEIGHT[:4], expected=(Y @ Y.mT).inverse() @ Y @ WEIGHT[:4]),
        case(X.mT, VECTOR[:, None].expand(2, 4, 1), expected=torch.linalg.pinv(X.mT) @ VECTOR[:, None]),
    ],
    "inv": [case(BATCH, expected=torch.linalg.solve(BATCH, torch.eye(3)))],
    "det": [case(BATCH, expected=torch.linalg.svdvals(BATCH).prod(-1) * torch.linalg.slogdet(BATCH).sign)],
    "slogdet": [case(BATCH, expected=(BATCH.det().sign(), BATCH.det().abs().log()))],
    "logdet": [case(DEFINITE, expected=DEFINITE.det().log())],
    "matrix_exp": [
        case(SQUARE / 4, expected=torch.linalg.matrix_exp(SQUARE / 8) @ torch.linalg.matrix_exp(SQUARE / 8))
    ],
    "matrix_power": [
        case(BATCH, 3, expected=BATCH @ BATCH @ BATCH),
        case(SQUARE, -2, expected=SQUARE.inverse() @ SQUARE.inverse()),
        case(SQUARE, 0, expected=torch.eye(3)),
    ],
    "matrix_norm": [
        case(X, expected=X.square().sum((-2, -1)).sqrt()),
        case(X, "1", expected=X.abs().sum(-2).amax(-1)),
        case(X, "-inf", [1, 2], True, expected=X.abs().sum(-1, keepdim=True).amin(-2, keepdim=True)),
        case(Y, "nuc", expected=torch.linalg.svdvals(Y).sum()),
        case(X, "2", [0, 2], expected=torch.linalg.svdvals(X.permute(1, 0, 2)).amax(-1)),
    ],
    "matrix_rank": [
        case(BATCH, expected=torch.tensor([3, 3])),
        case(VECTOR[:, None] * SORTED, expected=torch.tensor(1)),
    ],
    "vander": [
        case(VECTOR, expected=VECTOR[:, None] ** torch.arange(4)),
        case(Y, 3, expected=torch.stack([Y**0, Y, Y * Y], -1)),
        case(WHOLE[0, 0], 2, expected=torch.stack([WHOLE[0, 0] ** 0, WHOLE[0, 0]], -1)),
    ],
    "cdist": [
        case(Y, WEIGHT, expected=GAPS.square().sum(-1).sqrt()),
        case(Y, WEIGHT, 1.0, expected=GAPS.sum(-1)),
        case(X, WEIGHT, "inf", expected=(X[:, :, None] - WEIGHT).abs().amax(-1)),
    ],
    "pdist": [
        case(WEIGHT, expected=torch.stack([(WEIGHT[i] - WEIGHT[j]).norm() for i in range(5) for j in range(i + 1, 5)])),
        case(Y, 1.0, expected=torch.stack([(Y[i] - Y[j]).abs().sum() for i, j in ((0, 1), (0, 2), (1, 2))])),
    ],
    "pairwise_distance": [
        case(X, Y, expected=(X - Y + 1e-6).norm(dim=-1)),
        case(X, Y, 1.0, keepdim=True, expected=(X - Y + 1e-6).abs().sum(-1, keepdim=True)),
    ],
}
