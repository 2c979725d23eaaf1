"""How rows are written down, and the signatures that many of them share."""

from __future__ import annotations

from telepatch_protocol.ops.table import Op, Rule

DIMS = "input: tensor, dim: dims = None, keepdim: bool = False"
DIM = "input: tensor, dim: dim = None, keepdim: bool = False"
LAST = "input: tensor, dim: dim = -1, keepdim: bool = False"
PAIR = "input: operand, other: operand"
TWO = "input: tensor, other: tensor"
LOSS = "input: tensor, target: tensor, reduction: text = mean"
PICKS = ("values", "indices")


def unary(name: str, rule: Rule, doc: str) -> Op:
    """An operation on one value, and a method of it."""
    return Op(name, "input: tensor", rule, doc=doc)


def method(name: str, signature: str, rule: Rule, doc: str, outputs: tuple[str, ...] = ()) -> Op:
    """An operation that PyTorch's tensors have as a method."""
    return Op(name, signature, rule, outputs, doc=doc)


def function(name: str, signature: str, rule: Rule, doc: str, outputs: tuple[str, ...] = ()) -> Op:
    """An operation that PyTorch has no tensor method for."""
    return Op(name, signature, rule, outputs, method=False, doc=doc)
