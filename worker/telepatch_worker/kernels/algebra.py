"""Kernels of linear algebra: products, decompositions, distances."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from telepatch_worker.kernels.adapters import Kernel, placed, plain


def _addmm(input: Tensor, mat1: Tensor, mat2: Tensor, beta: float, alpha: float) -> Tensor:
    return torch.addmm(input, mat1, mat2, beta=beta, alpha=alpha)


def _baddbmm(input: Tensor, batch1: Tensor, batch2: Tensor, beta: float, alpha: float) -> Tensor:
    return torch.baddbmm(input, batch1, batch2, beta=beta, alpha=alpha)


def _addmv(input: Tensor, mat: Tensor, vec: Tensor, beta: float, alpha: float) -> Tensor:
    return torch.addmv(input, mat, vec, beta=beta, alpha=alpha)


def _cholesky(A: Tensor, upper: bool) -> Tensor:  # noqa: N803
    found: Tensor = torch.linalg.cholesky(A, upper=upper)
    return found


def _lstsq(A: Tensor, B: Tensor) -> Tensor:  # noqa: N803
    found: Tensor = torch.linalg.lstsq(A, B).solution
    return found


def _solve_triangular(A: Tensor, B: Tensor, upper: bool, left: bool, unitriangular: bool) -> Tensor:  # noqa: N803
    found: Tensor = torch.linalg.solve_triangular(A, B, upper=upper, left=left, unitriangular=unitriangular)
    return found


def _matrix_norm(A: Tensor, ord: str, dim: list[int] | None, keepdim: bool) -> Tensor:  # noqa: N803
    order = ord if ord in ("fro", "nuc") else float(ord)
    found: Tensor = torch.linalg.matrix_norm(A, order, dim or [-2, -1], keepdim)
    return found


def _cdist(x1: Tensor, x2: Tensor, p: float) -> Tensor:
    """The distances themselves, as the way over products of matrices is not exact near zero."""
    return torch.cdist(x1, x2, p, compute_mode="donot_use_mm_for_euclid_dist")


KERNELS: dict[str, Kernel] = {
    **{
        function.__name__: plain(function)
        for function in (
            *(torch.matmul, functional.linear, torch.outer, torch.bmm, torch.mm, torch.mv, torch.dot, torch.inner),
            *(
                torch.kron,
                torch.trace,
                torch.tensordot,
                functional.pdist,
                functional.pairwise_distance,
                torch.cosine_similarity,
            ),
        )
    },
    "einsum": lambda equation, operands: torch.einsum(equation, operands),
    "cross": plain(torch.linalg.cross),
    "addmm": _addmm,
    "addmv": _addmv,
    "baddbmm": _baddbmm,
    "multi_dot": placed(torch.linalg.multi_dot),
    "svd": plain(torch.linalg.svd),
    "svdvals": placed(torch.linalg.svdvals),
    "qr": plain(torch.linalg.qr),
    "eigh": lambda **given: tuple(torch.linalg.eigh(*given.values())),
    "eigvalsh": placed(torch.linalg.eigvalsh),
    "solve": plain(torch.linalg.solve),
    "solve_triangular": _solve_triangular,
    "lstsq": _lstsq,
    "cholesky": _cholesky,
    "pinv": placed(torch.linalg.pinv),
    "inv": placed(torch.linalg.inv),
    "det": placed(torch.linalg.det),
    "slogdet": placed(torch.linalg.slogdet),
    "logdet": placed(torch.logdet),
    "matrix_exp": placed(torch.linalg.matrix_exp),
    "matrix_power": placed(torch.linalg.matrix_power),
    "matrix_norm": _matrix_norm,
    "matrix_rank": placed(torch.linalg.matrix_rank),
    "vander": plain(torch.linalg.vander),
    "cdist": _cdist,
}
"""The kernels of this group by the names of their operations."""
