"""Rows of comparison and logic."""

from __future__ import annotations

from telepatch_protocol.ops import mathematics, rules
from telepatch_protocol.ops.groups.rows import PAIR, TWO, function, method, unary
from telepatch_protocol.ops.table import Op

LOGIC: tuple[Op, ...] = (
    Op("eq", PAIR, rules.compared, doc="Equal."),
    Op("ne", PAIR, rules.compared, doc="Not equal."),
    Op("lt", PAIR, rules.compared, doc="Less."),
    Op("le", PAIR, rules.compared, doc="Less or equal."),
    Op("gt", PAIR, rules.compared, doc="Greater."),
    Op("ge", PAIR, rules.compared, doc="Greater or equal."),
    Op("logical_and", PAIR, rules.logical, doc="Both are not zero."),
    Op("logical_or", PAIR, rules.logical, doc="One or both are not zero."),
    Op("logical_xor", PAIR, rules.logical, doc="One of both is not zero."),
    function(
        "where",
        "condition: tensor, input: operand, other: operand",
        rules.selected,
        "input where the condition is true, other where not.",
    ),
    Op(
        "masked_fill",
        "input: tensor, mask: tensor, value: operand",
        rules.masked_fill,
        doc="One number under a mask.",
    ),
    unary("signbit", rules.tested, "Whether the sign is minus, that of zero too."),
    unary("isposinf", rules.tested, "Infinite, above zero."),
    unary("isneginf", rules.tested, "Infinite, below zero."),
    method(
        "isclose",
        "input: tensor, other: tensor, rtol: number = 1e-05, atol: number = 1e-08, equal_nan: bool = False",
        mathematics.near,
        "Nearly equal.",
    ),
    method(
        "allclose",
        "input: tensor, other: tensor, rtol: number = 1e-05, atol: number = 1e-08, equal_nan: bool = False",
        mathematics.all_near,
        "Whether all are nearly equal.",
    ),
    method("equal", TWO, mathematics.same_throughout, "Whether shapes and all elements are equal."),
    function(
        "isin",
        "elements: tensor, test_elements: tensor, invert: bool = False",
        mathematics.members,
        "Whether each element is among others.",
    ),
)
"""The rows under "Comparison and logic"."""
