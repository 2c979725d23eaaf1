"""Rows of sorting, and what belongs where."""

from __future__ import annotations

from telepatch_protocol.ops import moments, reductions
from telepatch_protocol.ops.groups.rows import PICKS, function, method
from telepatch_protocol.ops.table import Op

SORTING: tuple[Op, ...] = (
    Op(
        "sort",
        "input: tensor, dim: dim = -1, descending: bool = False",
        reductions.sorted_values,
        PICKS,
        doc="In order, equal ones as they stood.",
    ),
    Op(
        "argsort",
        "input: tensor, dim: dim = -1, descending: bool = False",
        reductions.sorted_indices,
        doc="Where each one in order stood.",
    ),
    Op(
        "topk",
        "input: tensor, k: int, dim: dim = -1, largest: bool = True, sorted: bool = True",
        reductions.picked,
        PICKS,
        doc="The k largest or smallest.",
    ),
    function(
        "searchsorted",
        "sorted_sequence: tensor, values: operand, right: bool = False",
        reductions.searched,
        "Where values belong in a sorted sequence.",
    ),
    method(
        "kthvalue",
        "input: tensor, k: int, dim: dim = -1, keepdim: bool = False",
        moments.kth,
        "The k-th smallest, counted from 1.",
        PICKS,
    ),
    function(
        "bucketize",
        "input: tensor, boundaries: tensor, right: bool = False",
        moments.buckets,
        "Between which boundaries each element lies.",
    ),
    method(
        "unique",
        "input: tensor, return_inverse: bool = False, return_counts: bool = False",
        moments.distinct,
        "The different elements in order; where asked, which each element is and how often each occurs.",
        ("output", "inverse_indices", "counts"),
    ),
)
"""The rows under "Sorting"."""
