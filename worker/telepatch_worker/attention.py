"""Eager attention for one forward: patterns and scores exist only there, and the model is shared by all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from transformers import PreTrainedModel

EAGER = "eager"


def implementation(model: nn.Module) -> str | None:
    """The attention implementation that a model runs with now; None for a model that has no choice of them."""
    found = getattr(getattr(model, "config", None), "_attn_implementation", None)
    return found if isinstance(found, str) else None


@contextmanager
def attention(model: nn.Module, *, eager: bool) -> Iterator[None]:
    """Run the block under eager attention where that is asked for; afterwards the model is as it was."""
    before = implementation(model)
    if not eager or before is None or before == EAGER or not isinstance(model, PreTrainedModel):
        yield
        return
    try:
        model.set_attn_implementation(EAGER)
        yield
    finally:
        model.set_attn_implementation(before)


def can_be_eager(model: nn.Module) -> bool:
    """Whether the model runs under eager attention, or can be switched to it."""
    with attention(model, eager=True):
        return implementation(model) == EAGER
