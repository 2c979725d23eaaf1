"""Rows of reductions along axes, running ones, and counting."""

from __future__ import annotations

from telepatch_protocol.ops import moments, reductions
from telepatch_protocol.ops.groups.rows import DIM, DIMS, LAST, PICKS, function, method
from telepatch_protocol.ops.table import Op

REDUCTIONS: tuple[Op, ...] = (
    Op("sum", DIMS + ", dtype: dtype = None", reductions.reduced, doc="Sum."),
    Op("mean", DIMS + ", dtype: dtype = None", reductions.averaged, doc="Mean."),
    Op("prod", DIM + ", dtype: dtype = None", reductions.reduced, doc="Product."),
    Op(
        "std",
        "input: tensor, dim: dims = None, correction: number = 1, keepdim: bool = False",
        reductions.spread,
        doc="Standard deviation.",
    ),
    Op(
        "var",
        "input: tensor, dim: dims = None, correction: number = 1, keepdim: bool = False",
        reductions.spread,
        doc="Variance.",
    ),
    Op(
        "norm",
        "input: tensor, p: number = 2, dim: dims = None, keepdim: bool = False",
        reductions.spread,
        doc="Vector norm.",
    ),
    Op(
        "logsumexp",
        "input: tensor, dim: dims, keepdim: bool = False",
        reductions.logsumexp,
        doc="log of a sum of exp.",
    ),
    Op("amax", DIMS, reductions.kept_dtype, doc="The largest."),
    Op("amin", DIMS, reductions.kept_dtype, doc="The smallest."),
    Op("max", DIM, reductions.extreme, PICKS, doc="The largest; with dim, also where it is."),
    Op("min", DIM, reductions.extreme, PICKS, doc="The smallest; with dim, also where it is."),
    Op("median", DIM, reductions.middle, PICKS, doc="The middle one; with dim, also where it is."),
    Op(
        "quantile",
        "input: tensor, q: number, dim: dim = None, keepdim: bool = False",
        reductions.quantiled,
        doc="The value below which a share q lies.",
    ),
    Op("argmax", DIM, reductions.placed, doc="Where the largest is."),
    Op("argmin", DIM, reductions.placed, doc="Where the smallest is."),
    Op("any", DIMS, reductions.asked, doc="Whether one is not zero."),
    Op("all", DIMS, reductions.asked, doc="Whether none is zero."),
    Op("count_nonzero", "input: tensor, dim: dims = None", reductions.counted, doc="How many are not zero."),
    Op("cumsum", "input: tensor, dim: dim, dtype: dtype = None", reductions.accumulated, doc="Running sum."),
    Op("cumprod", "input: tensor, dim: dim, dtype: dtype = None", reductions.accumulated, doc="Running product."),
    method("nansum", DIMS + ", dtype: dtype = None", reductions.reduced, "Sum without nan."),
    method("nanmean", DIMS + ", dtype: dtype = None", reductions.averaged, "Mean without nan."),
    method("nanmedian", DIM, reductions.middle, "The middle one without nan; with dim, also where it is.", PICKS),
    method(
        "nanquantile",
        "input: tensor, q: number, dim: dim = None, keepdim: bool = False",
        reductions.quantiled,
        "The quantile without nan.",
    ),
    function(
        "std_mean",
        "input: tensor, dim: dims = None, correction: number = 1, keepdim: bool = False",
        moments.spread_and_mean("std"),
        "Standard deviation and mean.",
        ("std", "mean"),
    ),
    function(
        "var_mean",
        "input: tensor, dim: dims = None, correction: number = 1, keepdim: bool = False",
        moments.spread_and_mean("var"),
        "Variance and mean.",
        ("var", "mean"),
    ),
    method("aminmax", DIM, moments.both_extremes, "The smallest and the largest.", ("min", "max")),
    method("cummax", "input: tensor, dim: dim", moments.running_extreme, "The largest so far.", PICKS),
    method("cummin", "input: tensor, dim: dim", moments.running_extreme, "The smallest so far.", PICKS),
    method("logcumsumexp", "input: tensor, dim: dim", moments.running_floats, "log of a running sum of exp."),
    method("mode", LAST, moments.one_of_axis, "The most frequent one.", PICKS),
    method(
        "diff",
        "input: tensor, n: int = 1, dim: dim = -1",
        moments.differences,
        "Differences of neighbours, n times over.",
    ),
    function(
        "trapezoid",
        "y: tensor, x: tensor = None, dx: number = 1.0, dim: dim = -1",
        moments.area,
        "Integral by the trapezoidal rule.",
    ),
    method(
        "histc",
        "input: tensor, bins: int = 100, min: number = 0, max: number = 0",
        moments.histogram,
        "Counts within bins of equal width; equal bounds take the value's own.",
    ),
    method(
        "bincount",
        "input: tensor, weights: tensor = None, minlength: int = 0",
        moments.bins,
        "How often each integer below minlength occurs.",
    ),
    method("cov", "input: tensor, correction: int = 1", moments.covariance, "Covariances of rows."),
    method("corrcoef", "input: tensor", moments.covariance, "Correlations of rows."),
    method("dist", "input: tensor, other: tensor, p: number = 2", moments.distance, "Norm of the difference."),
)
"""The rows under "Reductions"."""
