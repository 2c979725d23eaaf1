"""What operations cost, from shapes alone."""

from __future__ import annotations

import pytest

from telepatch_protocol.meta import Meta
from telepatch_protocol.ops import bind, find_op
from telepatch_protocol.ops.cost import flops
from telepatch_protocol.sizes import Size

N = Size.symbol("n")
X = Meta((2, 3), "float32")
MASK = Meta((2, 3), "bool")


def cost(name: str, *args: object, **lengths: int) -> float:
    op = find_op(name)
    bound = bind(op, args, {})
    return flops(op, bound, op.rule(bound), lengths)


@pytest.mark.parametrize(
    ("name", "args", "expected"),
    [
        ("exp", (X,), 6),
        ("add", (Meta((2, 1), "float32"), Meta((3,), "float32")), 6),
        ("sum", (X,), 6),
        ("matmul", (X, Meta((3, 4), "float32")), 2 * 2 * 3 * 4),
        ("matmul", (Meta((5, 2, 3), "float32"), Meta((3,), "float32")), 2 * 5 * 2 * 3),
        ("linear", (X, Meta((4, 3), "float32")), 2 * 2 * 3 * 4),
        ("einsum", ("bqd,bkd->bqk", Meta((2, 3, 4), "float32"), Meta((2, 5, 4), "float32")), 2 * 2 * 3 * 4 * 5),
        ("einsum", ("...i,...i->...", X, X), 2 * 6),
        ("reshape", (X, [3, 2]), 0),
        ("mm", (X, Meta((3, 4), "float32")), 2 * 2 * 3 * 4),
        ("addmm", (Meta((2, 4), "float32"), X, Meta((3, 4), "float32")), 2 * 2 * 3 * 4),
        ("tensordot", (X, Meta((3, 4), "float32"), 1), 2 * 2 * 3 * 4),
        ("multi_dot", ([X, Meta((3, 4), "float32"), Meta((4, 5), "float32")],), 2 * 2 * 3 * 4 + 2 * 2 * 4 * 5),
        ("conv1d", (Meta((1, 4, 10), "float32"), Meta((6, 4, 3), "float32")), 2 * 6 * 8 * 4 * 3),
        ("max_pool2d", (Meta((1, 4, 10, 10), "float32"), 2), 400 + 100 * 4),
        ("scaled_dot_product_attention", (Meta((5, 8), "float32"), *(Meta((7, 8), "float32"),) * 2), 4 * 5 * 7 * 8),
        ("cdist", (X, X), 2 * 2 * 2 * 3),
        ("index", (X, [MASK]), 6),
        ("zeros", ([4, 5],), 20),
        ("topk", (Meta((8,), "float32"), 1), 8 * 3),
        ("exp", (Meta(None, "float32"),), 0),
    ],
)
def test_an_operation_costs_what_its_shapes_say(name: str, args: tuple[object, ...], expected: float) -> None:
    assert cost(name, *args) == expected


def test_a_length_that_is_known_by_now_counts() -> None:
    assert cost("matmul", Meta((1, N, 8), "float32"), Meta((8, 4), "float32"), n=10) == 2 * 10 * 8 * 4


def test_decompositions_grow_with_the_cube_of_the_side() -> None:
    small, large = (cost("svd", Meta((side, side), "float32")) for side in (10, 20))
    assert large > 7 * small
