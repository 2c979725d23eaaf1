"""What a cache will take, before anything runs."""

from __future__ import annotations

import torch
from transformers import PreTrainedConfig
from transformers.cache_utils import get_layer_types_and_kwargs

_STATES = ("linear_attention", "conv", "hybrid", "hybrid_sliding")
_STATE_BYTES = 4


def past_bytes(config: PreTrainedConfig, dtype: torch.dtype, rows: int, positions: int) -> int:
    """Bytes that the keys and values of one sequence take at its end; an upper bound where a layer keeps a state.

    Args:
        config: of the model.
        dtype: that keys and values have.
        rows: of the sequence.
        positions: prompt and new tokens; the last new token is never read.
    """
    text = config.get_text_config(decoder=True)
    kinds, options = get_layer_types_and_kwargs(text)
    found = 0
    for kind, option, layer in zip(kinds, options, text.per_layer_config, strict=True):
        if kind in _STATES:
            found += rows * _state(layer) * _STATE_BYTES
        if kind not in ("dummy", "linear_attention", "conv"):
            found += rows * _kept(positions, option.get("sliding_window")) * _numbers(layer) * dtype.itemsize
    return found


def _kept(positions: int, window: int | None) -> int:
    """Positions whose keys and values stay: with a sliding window, one less than the window."""
    return max(0, positions - 1) if window is None else min(max(0, positions - 1), window - 1)


def _numbers(layer: PreTrainedConfig) -> int:
    """Numbers that one layer keeps for each row and position: a key and a value for each of its heads."""
    heads = getattr(layer, "num_key_value_heads", None) or layer.num_attention_heads
    size = getattr(layer, "head_dim", None) or layer.hidden_size // layer.num_attention_heads
    if getattr(layer, "kv_lora_rank", None) is not None:  # latent attention caches what it has spread out again
        return int(heads) * int(layer.qk_nope_head_dim + layer.qk_rope_head_dim + layer.v_head_dim)
    return 2 * int(heads) * int(size)


def _state(layer: PreTrainedConfig) -> int:
    """Numbers of one layer's running state for each row: for every inner channel a state and a short convolution."""
    heads, size = (getattr(layer, name, None) for name in ("linear_num_value_heads", "linear_value_head_dim"))
    inner = heads * size if heads and size else 2 * layer.hidden_size
    inner = max(inner, getattr(layer, "intermediate_size", None) or 0)
    state = max(getattr(layer, name, None) or 0 for name in ("linear_key_head_dim", "state_size", "mamba_d_state"))
    kernel = max(getattr(layer, name, None) or 0 for name in ("linear_conv_kernel_dim", "conv_kernel", "mamba_d_conv"))
    return int(inner) * int((state or 128) + 3 * (kernel or 4))
