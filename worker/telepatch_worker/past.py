"""The cache of a company of sequences: keys and values of what each has read, in transformers' own cache objects.

Each row's own columns stand at the right end of the cache and padding, if the row is shorter than others, before them.
So the next column is the next for everybody, relative distances hold, and what is only padding can be cut off. Padding
is zeros, masked, and never attended to.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Literal

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from telepatch_protocol.errors import NotYetSupported

Sharing = Literal["any", "equal", "alone"]
"""With whom a sequence of a model can share forwards: sequences of any length, of its own length only, or nobody."""

_CACHE_NAMES = ("cache", "past_key_values", "cache_params")


def parameters_of(module: PreTrainedModel) -> frozenset[str]:
    """The names of what a model's forward takes."""
    return frozenset(inspect.signature(type(module).forward).parameters)


def cache_name(module: PreTrainedModel) -> str:
    """What a model calls its cache.

    Raises:
        NotYetSupported: it takes none.
    """
    taken = parameters_of(module)
    for name in _CACHE_NAMES:
        if name in taken:
            return name
    raise NotYetSupported(
        f"{type(module).__name__} takes no cache of keys and values, so it cannot generate here; a trace of it works"
    )


def sharing_of(module: PreTrainedModel) -> Sharing:
    """With whom sequences of a model can share forwards.

    Mixed lengths need position ids of each row and layers that keep every column. A sliding window counts columns for
    all rows at once, so its rows must be equally long; a layer that keeps a running state (Mamba), or anything else
    that is not known here, is not put together with others at all.
    """
    kinds = {type(layer) for layer in new_cache(module).layers}
    if kinds == {DynamicLayer} and "position_ids" in parameters_of(module):
        return "any"
    return "equal" if kinds and kinds <= {DynamicLayer, DynamicSlidingWindowLayer} else "alone"


def new_cache(module: PreTrainedModel) -> DynamicCache:
    """An empty cache of the layers that a model's configuration asks for, as `generate` makes it."""
    return DynamicCache(config=module.config.get_text_config(decoder=True))


class Past:
    """What the rows of a company have read.

    Args:
        cache: filled by one forward over right-padded prompts.
        lengths: real positions of each row.
    """

    def __init__(self, cache: DynamicCache, lengths: Sequence[int]) -> None:
        self.cache = cache
        self.lengths = list(lengths)
        if self.ragged:
            self._change(self._aligned)

    @property
    def width(self) -> int:
        """Positions of the longest row, which are the columns that are kept for all."""
        return max(self.lengths)

    @property
    def ragged(self) -> bool:
        """Whether some row is shorter than others."""
        return min(self.lengths) < self.width

    def grow(self) -> None:
        """Every row has read one position more; its column is in the cache already."""
        self.lengths = [length + 1 for length in self.lengths]

    def inputs(self, device: torch.device) -> dict[str, torch.Tensor]:
        """What a model must be told to read one position more: positions, and which columns are padding."""
        if not self.ragged:
            return {"position_ids": torch.full((1, 1), self.width, dtype=torch.int64, device=device)}
        lengths = torch.tensor(self.lengths)[:, None]
        real = torch.arange(self.width + 1)[None] >= self.width - lengths
        return {"position_ids": lengths.to(device), "attention_mask": real.to(device, torch.int64)}

    def keep(self, rows: Sequence[int]) -> None:
        """Let all rows go but these, and the columns that are padding for all that stay."""
        before = self.width
        self.lengths = [self.lengths[row] for row in rows]
        cut = before - self.width
        index = torch.tensor(rows)

        def kept(tensor: torch.Tensor) -> torch.Tensor:
            found = tensor.index_select(0, index.to(tensor.device))
            return found[:, :, cut:] if cut else found

        self._change(kept)

    def join(self, other: Past) -> None:
        """Take in the rows of another, below one's own; of any length if all layers keep every column."""
        width = max(self.width, other.width)
        for mine, theirs in zip(self._layers(), other._layers(), strict=True):
            mine.keys = torch.cat([_widened(mine.keys, self.width, width), _widened(theirs.keys, other.width, width)])
            mine.values = torch.cat(
                [_widened(mine.values, self.width, width), _widened(theirs.values, other.width, width)]
            )
        self.lengths += other.lengths

    def _aligned(self, tensor: torch.Tensor) -> torch.Tensor:
        """The columns of each row moved to the right end."""
        found = torch.zeros_like(tensor)
        for row, length in enumerate(self.lengths):
            found[row, :, tensor.shape[2] - length :] = tensor[row, :, :length]
        return found

    def _change(self, to: Any) -> None:
        for layer in self._layers():
            layer.keys, layer.values = to(layer.keys), to(layer.values)

    def _layers(self) -> list[Any]:
        """The layers that hold something: a model may leave one out."""
        return [layer for layer in self.cache.layers if isinstance(layer, DynamicLayer) and layer.is_initialized]


def _widened(tensor: torch.Tensor, before: int, width: int) -> torch.Tensor:
    """Columns of padding in front, until there are enough."""
    if before == width:
        return tensor
    rows, heads, _, size = tensor.shape
    return torch.cat([tensor.new_zeros(rows, heads, width - before, size), tensor], dim=2)
