"""What an operation costs, in floating-point operations, from shapes alone.

Products of matrices count two operations per pair of numbers that meet, decompositions their usual order of growth, and
all else one for each element that is read or made. Sizes that depend on data count at their upper bound; what has
no known bound adds nothing, and is looked at again when it runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from telepatch_protocol.meta import Meta
from telepatch_protocol.ops.linear import equation_terms, letter_sizes
from telepatch_protocol.ops.rules import dims_of, meta, metas
from telepatch_protocol.ops.table import Bound, Op
from telepatch_protocol.sizes import Dim, most, most_elements

_NONE: Mapping[str, int] = {}
_FREE = frozenset(
    ("detach", "size", "numel", "reshape", "flatten", "unflatten", "transpose", "mT", "permute", "squeeze", "unsqueeze")
) | {"expand", "expand_as", "broadcast_to", "movedim", "unfold", "diagonal", "select", "narrow", "meshgrid"}
"""Operations that only look at the same memory in another way."""

_ITERATIONS = {
    "svd": 20.0,
    "svdvals": 8.0,
    "pinv": 24.0,
    "matrix_rank": 8.0,
    "eigh": 9.0,
    "eigvalsh": 4.0,
    "qr": 4.0,
    "solve": 1.0,
    "solve_triangular": 1.0,
    "lstsq": 4.0,
    "inv": 2.0,
    "det": 1.0,
    "slogdet": 1.0,
    "logdet": 1.0,
    "cholesky": 1.0,
    "matrix_exp": 40.0,
    "matrix_power": 40.0,
    "matrix_norm": 8.0,
}
"""Operations of a decomposition for each element and the shorter side of its matrix, roughly."""


def flops(op: Op, bound: Bound, outputs: Meta | dict[str, Meta], lengths: Mapping[str, int] = _NONE) -> float:
    """Floating-point operations that a call takes.

    Args:
        op: the operation.
        bound: its arguments, as `bind` gives them.
        outputs: what the operation's rule gives for them.
        lengths: what named lengths are, as far as they are known.

    Example:
        The product of a (2, 3) and a (3, 4) matrix takes 48.
    """
    if op.name in _FREE:
        return 0.0
    results = list(outputs.values()) if isinstance(outputs, dict) else [outputs]
    made = sum(_elements(one, lengths) for one in results)
    touched = max(made, *(_elements(one, lengths) for one in metas(bound)), 0.0)
    return _COSTS.get(op.name, _once)(bound, touched, made, lengths)


def _once(bound: Bound, touched: float, made: float, lengths: Mapping[str, int]) -> float:
    return touched


def _products(name: str) -> Callable[[Bound, float, float, Mapping[str, int]], float]:
    """Two operations for each result and each number along the last axis of a value, over which it is summed."""

    def cost(bound: Bound, touched: float, made: float, lengths: Mapping[str, int]) -> float:
        shape = meta(bound, name).shape
        return 2.0 * made * _size(shape[-1], lengths) if shape else 0.0

    return cost


def _einsum(bound: Bound, touched: float, made: float, lengths: Mapping[str, int]) -> float:
    terms, _ = equation_terms(str(bound["equation"]))
    shapes = [value.shape for value in metas(bound) if value.shape is not None]
    if len(shapes) < len(terms):
        return 0.0
    sizes, dots = letter_sizes(terms, shapes)
    return 2.0 * math.prod(_size(dim, lengths) for dim in (*sizes.values(), *dots))


def _sorting(bound: Bound, touched: float, made: float, lengths: Mapping[str, int]) -> float:
    return touched * max(1.0, math.log2(max(touched, 2.0)))


def _decomposed(name: str) -> Callable[[Bound, float, float, Mapping[str, int]], float]:
    def cost(bound: Bound, touched: float, made: float, lengths: Mapping[str, int]) -> float:
        shape = (metas(bound)[0]).shape
        if not shape:
            return 0.0
        shorter = min(_size(dim, lengths) for dim in shape[-2:])
        return _ITERATIONS[name] * max(touched, made) * shorter

    return cost


def _contracted(bound: Bound, touched: float, made: float, lengths: Mapping[str, int]) -> float:
    left, count = meta(bound, "a").shape, bound["dims"]
    if left is None or not isinstance(count, int):
        return touched
    return 2.0 * made * math.prod(_size(dim, lengths) for dim in left[len(left) - count :])


def _chained(bound: Bound, touched: float, made: float, lengths: Mapping[str, int]) -> float:
    """One product after the other, from the left: never cheaper than the order that PyTorch takes."""
    shapes = [one.shape for one in metas(bound) if one.shape]
    rows = _size(shapes[0][0], lengths) if shapes and len(shapes[0]) > 1 else 1.0
    return sum(2.0 * rows * math.prod(_size(dim, lengths) for dim in shape) for shape in shapes[1:])


def _slid(bound: Bound, touched: float, made: float, lengths: Mapping[str, int]) -> float:
    """Two operations for each result and each weight that makes it."""
    weight = meta(bound, "weight").shape
    return 2.0 * made * math.prod(_size(dim, lengths) for dim in weight[1:]) if weight else touched


def _windowed(bound: Bound, touched: float, made: float, lengths: Mapping[str, int]) -> float:
    sizes, shape = dims_of(bound, "kernel_size"), meta(bound, "input").shape
    axes = len(shape) - 2 if shape is not None and len(sizes) == 1 else 1
    return touched + made * math.prod(_size(dim, lengths) for dim in sizes) ** max(axes, 1)


def _attended(bound: Bound, touched: float, made: float, lengths: Mapping[str, int]) -> float:
    query, key = meta(bound, "query").shape, meta(bound, "key").shape
    if not query or not key or len(key) < 2:
        return touched
    scores = math.prod(_size(dim, lengths) for dim in (*query[:-1], key[-2]))
    return 2.0 * scores * _size(query[-1], lengths) + 2.0 * made * _size(key[-2], lengths)


_COSTS: dict[str, Callable[[Bound, float, float, Mapping[str, int]], float]] = {
    "matmul": _products("input"),
    "linear": _products("weight"),
    "einsum": _einsum,
    "sort": _sorting,
    "argsort": _sorting,
    "quantile": _sorting,
    "median": _sorting,
    "topk": _sorting,
    **dict.fromkeys(("nanquantile", "nanmedian", "kthvalue", "mode", "unique", "isin"), _sorting),
    **{name: _products("input") for name in ("mm", "bmm", "mv", "dot", "inner", "pdist")},
    "cdist": _products("x1"),
    "addmm": _products("mat1"),
    "addmv": _products("mat"),
    "baddbmm": _products("batch1"),
    "tensordot": _contracted,
    "multi_dot": _chained,
    "conv1d": _slid,
    "conv2d": _slid,
    **{f"{kind}_pool{axes}d": _windowed for kind in ("avg", "max") for axes in (1, 2)},
    "scaled_dot_product_attention": _attended,
    **{name: _decomposed(name) for name in _ITERATIONS},
}


def _elements(value: Meta, lengths: Mapping[str, int]) -> float:
    return float((most_elements(value.shape, lengths) if value.shape is not None else None) or 0)


def _size(dim: Dim, lengths: Mapping[str, int]) -> float:
    return float(most(dim, lengths) or 0)
