"""What a cache will take, before anything runs."""

from __future__ import annotations

import torch
from transformers import PreTrainedConfig
from transformers.cache_utils import get_layer_types_and_kwargs


def past_bytes(config: PreTrainedConfig, dtype: torch.dtype, rows: int, positions: int) -> int:
    """Bytes that the keys and values of one sequence take at its end.

    A layer with a sliding window keeps one position less than the window. A layer of another kind (a running state)
    counts as if it kept everything, which is more than it does.

    Args:
        config: of the model.
        dtype: that keys and values have.
        rows: of the sequence.
        positions: prompt and new tokens; the last new token is never read.
    """
    text = config.get_text_config(decoder=True)
    kinds, options = get_layer_types_and_kwargs(text)
    return sum(
        rows * _kept(positions, option.get("sliding_window")) * _numbers(layer) * dtype.itemsize
        for kind, option, layer in zip(kinds, options, text.per_layer_config, strict=True)
        if kind != "dummy"
    )


def _kept(positions: int, window: int | None) -> int:
    return max(0, positions - 1) if window is None else min(max(0, positions - 1), window - 1)


def _numbers(layer: PreTrainedConfig) -> int:
    """Numbers that one layer keeps for each row and position: a key and a value for each of its heads."""
    heads = getattr(layer, "num_key_value_heads", None) or layer.num_attention_heads
    size = getattr(layer, "head_dim", None) or layer.hidden_size // layer.num_attention_heads
    if getattr(layer, "kv_lora_rank", None) is not None:  # latent attention caches what it has spread out again
        return int(heads) * int(layer.qk_nope_head_dim + layer.qk_rope_head_dim + layer.v_head_dim)
    return 2 * int(heads) * int(size)
