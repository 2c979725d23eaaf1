"""Rows of losses and distances."""

from __future__ import annotations

from telepatch_protocol.ops import linear, losses
from telepatch_protocol.ops.groups.rows import LOSS, function
from telepatch_protocol.ops.table import Op

LOSSES: tuple[Op, ...] = (
    function(
        "cross_entropy",
        "input: tensor, target: operand, weight: tensor = None, ignore_index: int = -100, "
        "reduction: text = mean, label_smoothing: number = 0.0",
        losses.cross_entropy,
        "Loss of scores against classes or probabilities.",
    ),
    function(
        "kl_div",
        "input: tensor, target: tensor, reduction: text = mean, log_target: bool = False",
        losses.kl_div,
        "Divergence of a target from log-probabilities.",
    ),
    function("mse_loss", "input: tensor, target: tensor, reduction: text = mean", losses.paired_loss, "Squared error."),
    function(
        "binary_cross_entropy_with_logits",
        "input: tensor, target: tensor, reduction: text = mean",
        losses.paired_loss,
        "Loss of logits against probabilities.",
    ),
    function(
        "cosine_similarity",
        "x1: tensor, x2: tensor, dim: dim = 1, eps: number = 1e-08",
        linear.cosine_similarity,
        "Cosine of the angle between vectors.",
    ),
    function(
        "nll_loss",
        "input: tensor, target: operand, weight: tensor = None, ignore_index: int = -100, reduction: text = mean",
        losses.class_loss,
        "Loss of log-probabilities against classes.",
    ),
    function(
        "multi_margin_loss",
        "input: tensor, target: operand, p: int = 1, margin: number = 1.0, reduction: text = mean",
        losses.margin_of_classes,
        "Hinge loss of scores against classes.",
    ),
    function("l1_loss", LOSS, losses.paired_loss, "Absolute error."),
    function(
        "smooth_l1_loss",
        LOSS + ", beta: number = 1.0",
        losses.smoothed("beta", zero=True),
        "Squared below beta, absolute above.",
    ),
    function(
        "huber_loss",
        LOSS + ", delta: number = 1.0",
        losses.smoothed("delta", zero=False),
        "Squared below delta, delta times absolute above.",
    ),
    function(
        "binary_cross_entropy",
        "input: tensor, target: tensor, weight: tensor = None, reduction: text = mean",
        losses.weighted_loss,
        "Loss of probabilities against probabilities.",
    ),
    function("soft_margin_loss", LOSS, losses.paired_loss, "Logistic loss of scores against signs."),
    function(
        "hinge_embedding_loss",
        "input: tensor, target: tensor, margin: number = 1.0, reduction: text = mean",
        losses.broadcast_loss,
        "Loss of distances against signs.",
    ),
    function(
        "margin_ranking_loss",
        "input1: tensor, input2: tensor, target: tensor, margin: number = 0.0, reduction: text = mean",
        losses.ranked,
        "Loss of two scores against which should be larger.",
    ),
    function(
        "cosine_embedding_loss",
        "input1: tensor, input2: tensor, target: tensor, margin: number = 0.0, reduction: text = mean",
        losses.embedded_pairs,
        "Loss of pairs of vectors against whether they are alike.",
    ),
    function(
        "triplet_margin_loss",
        "anchor: tensor, positive: tensor, negative: tensor, margin: number = 1.0, p: number = 2.0, "
        "eps: number = 1e-06, swap: bool = False, reduction: text = mean",
        losses.triplets,
        "Loss of being nearer to negative than to positive.",
    ),
    function(
        "gaussian_nll_loss",
        "input: tensor, target: tensor, var: tensor, full: bool = False, eps: number = 1e-06, reduction: text = mean",
        losses.gaussian,
        "Loss of means and variances.",
    ),
    function(
        "poisson_nll_loss",
        "input: tensor, target: tensor, log_input: bool = True, full: bool = False, "
        "eps: number = 1e-08, reduction: text = mean",
        losses.broadcast_loss,
        "Loss of rates against counts.",
    ),
)
"""The rows under "Losses"."""
