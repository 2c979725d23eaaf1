"""Rows of making new values, and drawing random ones."""

from __future__ import annotations

from telepatch_protocol.ops import drawing, making
from telepatch_protocol.ops.groups.rows import function, method
from telepatch_protocol.ops.table import Op

MAKING: tuple[Op, ...] = (
    function("zeros", "size: shape, dtype: dtype = float32", making.made, "Zeros."),
    function("ones", "size: shape, dtype: dtype = float32", making.made, "Ones."),
    function("full", "size: shape, fill_value: operand, dtype: dtype = None", making.filled, "One number everywhere."),
    function("zeros_like", "input: tensor, dtype: dtype = None", making.alike, "Zeros in a value's shape."),
    function("ones_like", "input: tensor, dtype: dtype = None", making.alike, "Ones in a value's shape."),
    function(
        "full_like",
        "input: tensor, fill_value: number, dtype: dtype = None",
        making.alike,
        "One number in a value's shape.",
    ),
    function(
        "arange",
        "start: int, end: int, step: int = 1, dtype: dtype = None",
        making.ranged,
        "Integers from start to end.",
    ),
    function(
        "linspace",
        "start: number, end: number, steps: int, dtype: dtype = float32",
        making.spaced,
        "Evenly spaced numbers, both ends included.",
    ),
    function("eye", "n: int, m: int = None, dtype: dtype = float32", making.identity, "Ones on the diagonal."),
    function(
        "logspace",
        "start: number, end: number, steps: int, base: number = 10.0, dtype: dtype = float32",
        making.spaced,
        "A base to the power of evenly spaced exponents.",
    ),
    function(
        "tril_indices", "row: int, col: int, offset: int = 0", making.lower_places, "Places on and below a diagonal."
    ),
    function(
        "triu_indices", "row: int, col: int, offset: int = 0", making.triangle_places, "Places on and above a diagonal."
    ),
)
"""The rows under "Making"."""

RANDOM: tuple[Op, ...] = (
    function(
        "rand",
        "size: shape, key: key, dtype: dtype = float32",
        drawing.drawn,
        "Uniform from 0 to 1; the same key gives the same numbers.",
    ),
    function(
        "randn",
        "size: shape, key: key, dtype: dtype = float32",
        drawing.drawn,
        "Normal; the same key gives the same numbers.",
    ),
    function(
        "randint",
        "low: int, high: int, size: shape, key: key, dtype: dtype = int64",
        drawing.drawn_integers,
        "Integers below high; the same key gives the same numbers.",
    ),
    function("randperm", "n: int, key: key", drawing.shuffled, "The integers below n in an order that the key gives."),
    function(
        "rand_like",
        "input: tensor, key: key, dtype: dtype = None",
        drawing.drawn_alike,
        "Uniform from 0 to 1, in a value's shape.",
    ),
    function(
        "randn_like", "input: tensor, key: key, dtype: dtype = None", drawing.drawn_alike, "Normal, in a value's shape."
    ),
    function(
        "normal",
        "mean: operand, std: operand, key: key",
        drawing.normal,
        "Normal, of given means and standard deviations.",
    ),
    method(
        "bernoulli",
        "input: tensor, key: key",
        drawing.drawn_from,
        "One with the probability that stands there, else zero.",
    ),
    function(
        "poisson", "input: tensor, key: key", drawing.drawn_from, "Counts of events of the rates that stand there."
    ),
    method(
        "multinomial",
        "input: tensor, num_samples: int, key: key, replacement: bool = False",
        drawing.picked_places,
        "Places along the last axis, by the weights there.",
    ),
    function(
        "dropout",
        "input: tensor, key: key, p: number = 0.5",
        drawing.dropped,
        "A share p zero, the rest larger for it.",
    ),
    function(
        "gumbel_softmax",
        "logits: tensor, key: key, tau: number = 1.0, hard: bool = False, dim: dim = -1",
        drawing.drawn_softly,
        "A draw that a gradient flows through.",
    ),
)
"""The rows under "Random"."""
