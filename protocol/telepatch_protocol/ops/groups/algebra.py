"""Rows of linear algebra."""

from __future__ import annotations

from telepatch_protocol.ops import linear, matrices
from telepatch_protocol.ops.groups.rows import TWO, function, method
from telepatch_protocol.ops.table import Op

ALGEBRA: tuple[Op, ...] = (
    Op("matmul", "input: tensor, other: tensor", linear.matmul, doc="Product of matrices, batches or vectors."),
    function(
        "linear", "input: tensor, weight: tensor, bias: tensor = None", linear.linear, "input @ weight.mT + bias."
    ),
    Op("outer", "input: tensor, vec2: tensor", linear.outer, doc="Every product of two vectors' elements."),
    function("einsum", "equation: text, operands: tensors", linear.einsum, "Sums of products, by equation."),
    function(
        "svd",
        "A: tensor, full_matrices: bool = True",
        linear.svd,
        "Singular values (torch.linalg.svd).",
        ("U", "S", "Vh"),
    ),
    function("qr", "A: tensor, mode: text = reduced", linear.qr, "An orthogonal basis (torch.linalg.qr).", ("Q", "R")),
    function(
        "eigh",
        "A: tensor, UPLO: text = L",
        linear.eigh,
        "Eigenvalues of a symmetric matrix (torch.linalg.eigh).",
        ("eigenvalues", "eigenvectors"),
    ),
    function("solve", "A: tensor, B: tensor", linear.solve, "X with A @ X = B (torch.linalg.solve)."),
    function("pinv", "A: tensor", linear.pinv, "Pseudoinverse (torch.linalg.pinv)."),
    method("mm", "input: tensor, mat2: tensor", matrices.product_of("input", 2, "mat2", 2), "Product of two matrices."),
    method(
        "bmm",
        "input: tensor, mat2: tensor",
        matrices.product_of("input", 3, "mat2", 3),
        "Products of two batches of matrices.",
    ),
    method(
        "mv",
        "input: tensor, vec: tensor",
        matrices.product_of("input", 2, "vec", 1),
        "Product of a matrix and a vector.",
    ),
    method(
        "dot", "input: tensor, tensor: tensor", matrices.product_of("input", 1, "tensor", 1), "Product of two vectors."
    ),
    method("inner", TWO, matrices.inner, "Sums of products over the last axes."),
    function(
        "tensordot",
        "a: tensor, b: tensor, dims: int = 2",
        matrices.contracted,
        "Sums of products over the last axes of a and the first of b.",
    ),
    function(
        "multi_dot",
        "tensors: tensors",
        matrices.chained,
        "Product of several matrices in the cheapest order (torch.linalg.multi_dot).",
    ),
    method(
        "addmm",
        "input: tensor, mat1: tensor, mat2: tensor, beta: number = 1, alpha: number = 1",
        matrices.sum_with_product("mat1", 2, "mat2", 2),
        "beta * input + alpha * mat1 @ mat2.",
    ),
    method(
        "addmv",
        "input: tensor, mat: tensor, vec: tensor, beta: number = 1, alpha: number = 1",
        matrices.sum_with_product("mat", 2, "vec", 1),
        "beta * input + alpha * mat @ vec.",
    ),
    method(
        "baddbmm",
        "input: tensor, batch1: tensor, batch2: tensor, beta: number = 1, alpha: number = 1",
        matrices.sum_with_product("batch1", 3, "batch2", 3),
        "The same for batches of matrices.",
    ),
    method(
        "cross",
        "input: tensor, other: tensor, dim: dim = -1",
        matrices.crossed,
        "Vectors at right angles to two others (torch.linalg.cross).",
    ),
    method("kron", TWO, matrices.kronecker, "Kronecker product."),
    method("trace", "input: tensor", matrices.traced, "Sum of the diagonal."),
    function("svdvals", "A: tensor", matrices.singular_values, "Singular values alone (torch.linalg.svdvals)."),
    function(
        "eigvalsh",
        "A: tensor, UPLO: text = L",
        linear.eigenvalues,
        "Eigenvalues alone of a symmetric matrix (torch.linalg.eigvalsh).",
    ),
    function(
        "cholesky",
        "A: tensor, upper: bool = False",
        matrices.square_to(2),
        "Triangular factor of a positive definite matrix (torch.linalg.cholesky).",
    ),
    function(
        "solve_triangular",
        "A: tensor, B: tensor, upper: bool, left: bool = True, unitriangular: bool = False",
        matrices.triangular,
        "X with A @ X = B for a triangular A (torch.linalg.solve_triangular).",
    ),
    function(
        "lstsq",
        "A: tensor, B: tensor",
        matrices.least_squares,
        "X with A @ X nearest to B, for A of full rank (torch.linalg.lstsq).",
    ),
    function("inv", "A: tensor", matrices.square_to(2), "Inverse (torch.linalg.inv)."),
    function("det", "A: tensor", matrices.square_to(0), "Determinant (torch.linalg.det)."),
    function(
        "slogdet",
        "A: tensor",
        matrices.signed_log,
        "Sign and logarithm of the determinant (torch.linalg.slogdet).",
        ("sign", "logabsdet"),
    ),
    method("logdet", "input: tensor", matrices.square_to(0, "input"), "Logarithm of the determinant."),
    function("matrix_exp", "A: tensor", matrices.square_to(2), "Exponential of a matrix (torch.linalg.matrix_exp)."),
    function(
        "matrix_power", "A: tensor, n: int", matrices.powered, "A multiplied with itself (torch.linalg.matrix_power)."
    ),
    function(
        "matrix_norm",
        "A: tensor, ord: text = fro, dim: dims = None, keepdim: bool = False",
        matrices.matrix_norm,
        "Norm of a matrix: 'fro', 'nuc', '1', '2', 'inf' or their negatives (torch.linalg.matrix_norm).",
    ),
    function("matrix_rank", "A: tensor", matrices.rank, "How many rows are independent (torch.linalg.matrix_rank)."),
    function(
        "vander",
        "x: tensor, N: int = None",
        matrices.powers_of,
        "Powers from zero on, one row per number (torch.linalg.vander).",
    ),
    function(
        "cdist",
        "x1: tensor, x2: tensor, p: number = 2.0",
        matrices.distances,
        "Distances of all rows of one matrix from those of another.",
    ),
    function(
        "pdist", "input: tensor, p: number = 2.0", matrices.own_distances, "Distances of each two rows of a matrix."
    ),
    function(
        "pairwise_distance",
        "x1: tensor, x2: tensor, p: number = 2.0, eps: number = 1e-06, keepdim: bool = False",
        matrices.paired_distance,
        "Distances of vectors, pair by pair.",
    ),
)
"""The rows under "Linear algebra"."""
