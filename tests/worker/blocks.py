"""Transformer blocks by hand, from weights alone: what standard port names mean, and what writing them does.

Nothing here is taken from transformers but names of weights and numbers of a configuration. Each block hands the value
at every standard place to `tap`, and goes on with what that returns.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Tap = Callable[[str, Tensor], Tensor]
LOWEST = torch.finfo(torch.float32).min


@dataclass
class Block:
    """The weights of one block, by their names in it, and the configuration."""

    weights: dict[str, Tensor]
    config: Any
    layer: int

    def linear(self, x: Tensor, name: str) -> Tensor:
        return functional.linear(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))

    def layer_norm(self, x: Tensor, name: str) -> Tensor:
        eps = getattr(self.config, "layer_norm_eps", None) or self.config.layer_norm_epsilon
        mean, spread = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, correction=0)
        return (x - mean) / (spread + eps).sqrt() * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def rms_norm(self, x: Tensor, name: str) -> Tensor:
        gain = self.weights[f"{name}.weight"] + self.config.model_type.startswith("gemma")
        return x * (x.pow(2).mean(-1, keepdim=True) + self.config.rms_norm_eps).rsqrt() * gain

    def heads(self, x: Tensor) -> Tensor:
        """(row, pos, head, width of a head)."""
        width = getattr(self.config, "head_dim", None) or self.config.hidden_size // self.config.num_attention_heads
        return x.reshape(*x.shape[:2], -1, width)


def rotated(x: Tensor, theta: float, part: float = 1.0) -> Tensor:
    """Positions turned into angles, in the first part of each head."""
    size = int(x.shape[-1] * part)
    angles = torch.arange(x.shape[1])[:, None] * theta ** (-torch.arange(0, size, 2) / size)
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    one, two, rest = x[..., : size // 2], x[..., size // 2 : size], x[..., size:]
    return torch.cat([one * cos - two * sin, two * cos + one * sin, rest], -1)


def attended(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tap: Tap,
    *,
    causal: bool = True,
    scale: float | None = None,
    window: int | None = None,
    cap: float | None = None,
) -> Tensor:
    """What each head takes from the values: (row, pos, head, width), flat in the end."""
    group = q.shape[2] // k.shape[2]
    k, v = k.repeat_interleave(group, 2), v.repeat_interleave(group, 2)
    scores = torch.einsum("rqhd,rkhd->rhqk", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if cap is not None:
        scores = cap * (scores / cap).tanh()
    back = torch.arange(q.shape[1])[:, None] - torch.arange(q.shape[1])
    if causal:
        scores = scores.masked_fill((back < 0) | (back >= (window or 10**6)), LOWEST)
    pattern = tap("pattern", tap("scores", scores).softmax(-1))
    return tap("z", torch.einsum("rhqk,rkhd->rqhd", pattern, v)).flatten(2)


def gpt2(block: Block, x: Tensor, tap: Tap) -> Tensor:
    def conv(x: Tensor, name: str) -> Tensor:
        return x @ block.weights[f"{name}.weight"] + block.weights[f"{name}.bias"]

    x = tap("resid_pre", x)
    q, k, v = (block.heads(part) for part in conv(block.layer_norm(x, "ln_1"), "attn.c_attn").chunk(3, -1))
    z = attended(tap("q", q), tap("k", k), tap("v", v), tap)
    x = tap("resid_mid", x + tap("attn_out", conv(z, "attn.c_proj")))
    hidden = conv(tap("mlp_in", block.layer_norm(x, "ln_2")), "mlp.c_fc")
    out = conv(tap("mlp_act", functional.gelu(hidden, approximate="tanh")), "mlp.c_proj")
    return tap("resid_post", x + tap("mlp_out", out))


def _rotary_of(block: Block) -> dict[str, Any]:
    found: dict[str, Any] = block.config.rope_parameters
    if "rope_theta" not in found:
        found = found[block.config.layer_types[block.layer]]
    return found


def _projected(block: Block, x: Tensor, tap: Tap, attn: str) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values: tapped as they are projected, then normalised and rotated where the model does."""
    q, k, v = (tap(name, block.heads(block.linear(x, f"{attn}.{name}_proj"))) for name in "qkv")
    if f"{attn}.q_norm.weight" in block.weights:
        q, k = block.rms_norm(q, f"{attn}.q_norm"), block.rms_norm(k, f"{attn}.k_norm")
    rotary = _rotary_of(block)
    part = rotary.get("partial_rotary_factor", 1.0)
    return rotated(q, rotary["rope_theta"], part), rotated(k, rotary["rope_theta"], part), v


def _gated(block: Block, x: Tensor, tap: Tap) -> Tensor:
    act = functional.silu if block.config.model_type[:5] != "gemma" else _gelu_tanh
    return block.linear(
        tap("mlp_act", act(block.linear(x, "mlp.gate_proj")) * block.linear(x, "mlp.up_proj")), "mlp.down_proj"
    )


def _gelu_tanh(x: Tensor) -> Tensor:
    return functional.gelu(x, approximate="tanh")


def llama(block: Block, x: Tensor, tap: Tap, mlp: Callable[[Block, Tensor, Tap], Tensor] = _gated) -> Tensor:
    x = tap("resid_pre", x)
    q, k, v = _projected(block, block.rms_norm(x, "input_layernorm"), tap, "self_attn")
    window = block.config.sliding_window if block.config.model_type in ("mistral", "mixtral") else None
    z = attended(q, k, v, tap, window=window)
    x = tap("resid_mid", x + tap("attn_out", block.linear(z, "self_attn.o_proj")))
    out = mlp(block, tap("mlp_in", block.rms_norm(x, "post_attention_layernorm")), tap)
    return tap("resid_post", x + tap("mlp_out", out))


def gemma2(block: Block, x: Tensor, tap: Tap) -> Tensor:
    c = block.config
    x = tap("resid_pre", x)
    q, k, v = _projected(block, block.rms_norm(x, "input_layernorm"), tap, "self_attn")
    window = c.sliding_window if c.layer_types[block.layer] == "sliding_attention" else None
    z = attended(q, k, v, tap, window=window, scale=c.query_pre_attn_scalar**-0.5, cap=c.attn_logit_softcapping)
    out = block.rms_norm(block.linear(z, "self_attn.o_proj"), "post_attention_layernorm")
    x = tap("resid_mid", x + tap("attn_out", out))
    hidden = _gated(block, tap("mlp_in", block.rms_norm(x, "pre_feedforward_layernorm")), tap)
    return tap("resid_post", x + tap("mlp_out", block.rms_norm(hidden, "post_feedforward_layernorm")))


def _experts(block: Block, x: Tensor, tap: Tap) -> Tensor:
    logits = tap("router_logits", x @ block.weights["mlp.gate.weight"].T)
    chance, chosen = logits.softmax(-1).topk(block.config.num_experts_per_tok, -1)
    share = torch.zeros_like(logits).scatter(-1, chosen, chance / chance.sum(-1, keepdim=True))
    gate, up = torch.einsum("rpd,efd->rpef", x, block.weights["mlp.experts.gate_up_proj"]).chunk(2, -1)
    given = torch.einsum("rpef,edf->rped", functional.silu(gate) * up, block.weights["mlp.experts.down_proj"])
    return (share[..., None] * given).sum(2)


def mixtral(block: Block, x: Tensor, tap: Tap) -> Tensor:
    return llama(block, x, tap, _experts)


def phi(block: Block, x: Tensor, tap: Tap) -> Tensor:
    x = tap("resid_pre", x)
    normed = block.layer_norm(x, "input_layernorm")
    z = attended(*_projected(block, normed, tap, "self_attn"), tap)
    attn = tap("attn_out", block.linear(z, "self_attn.dense"))
    hidden = _gelu_tanh(block.linear(tap("mlp_in", normed), "mlp.fc1"))
    return tap("resid_post", x + attn + tap("mlp_out", block.linear(tap("mlp_act", hidden), "mlp.fc2")))


def gpt_neox(block: Block, x: Tensor, tap: Tap) -> Tensor:
    x = tap("resid_pre", x)
    fused = block.linear(block.layer_norm(x, "input_layernorm"), "attention.query_key_value")
    q, k, v = (tap(name, part) for name, part in zip("qkv", _by_head(block, fused), strict=True))
    rotary = _rotary_of(block)
    turned = (rotated(one, rotary["rope_theta"], rotary.get("partial_rotary_factor", 1.0)) for one in (q, k))
    attn = tap("attn_out", block.linear(attended(*turned, v, tap), "attention.dense"))
    parallel = block.config.use_parallel_residual
    middle = x if parallel else tap("resid_mid", x + attn)
    normed = tap("mlp_in", block.layer_norm(middle, "post_attention_layernorm"))
    hidden = tap("mlp_act", functional.gelu(block.linear(normed, "mlp.dense_h_to_4h")))
    out = tap("mlp_out", block.linear(hidden, "mlp.dense_4h_to_h"))
    return tap("resid_post", middle + out + attn if parallel else middle + out)


def _by_head(block: Block, fused: Tensor) -> tuple[Tensor, ...]:
    """Three for each head, one head after the other."""
    heads = fused.reshape(*fused.shape[:2], block.config.num_attention_heads, -1)
    return heads.chunk(3, -1)


def bert(block: Block, x: Tensor, tap: Tap) -> Tensor:
    x = tap("resid_pre", x)
    names = {"q": "query", "k": "key", "v": "value"}
    q, k, v = (tap(short, block.heads(block.linear(x, f"attention.self.{name}"))) for short, name in names.items())
    attn = tap("attn_out", block.linear(attended(q, k, v, tap, causal=False), "attention.output.dense"))
    x = tap("resid_mid", block.layer_norm(x + attn, "attention.output.LayerNorm"))
    hidden = tap("mlp_act", functional.gelu(block.linear(tap("mlp_in", x), "intermediate.dense")))
    return tap(
        "resid_post", block.layer_norm(x + tap("mlp_out", block.linear(hidden, "output.dense")), "output.LayerNorm")
    )


def vit(block: Block, x: Tensor, tap: Tap) -> Tensor:
    x = tap("resid_pre", x)
    normed = block.layer_norm(x, "layernorm_before")
    q, k, v = (tap(name, block.heads(block.linear(normed, f"attention.{name}_proj"))) for name in "qkv")
    out = block.linear(attended(q, k, v, tap, causal=False), "attention.o_proj")
    x = tap("resid_mid", x + tap("attn_out", out))
    hidden = functional.gelu(block.linear(tap("mlp_in", block.layer_norm(x, "layernorm_after")), "mlp.fc1"))
    return tap("resid_post", x + tap("mlp_out", block.linear(tap("mlp_act", hidden), "mlp.fc2")))


BLOCKS: dict[str, Callable[[Block, Tensor, Tap], Tensor]] = {
    "gpt2": gpt2,
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma"), llama),
    **dict.fromkeys(("gemma2", "gemma3_text"), gemma2),
    "mixtral": mixtral,
    "phi": phi,
    "gpt_neox": gpt_neox,
    "bert": bert,
    "vit": vit,
}


def carried_on(
    weights: dict[str, Tensor], config: Any, blocks: str, x: Tensor, tap: Callable[[int, str, Tensor], Tensor]
) -> Tensor:
    """The stream after all blocks, from what the first one takes; `tap` is told the number of the block too."""
    with torch.no_grad():
        for layer in range(config.num_hidden_layers):
            prefix = blocks.replace("*", str(layer)) + "."
            own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
            block = Block(own, config, layer)
            x = BLOCKS[config.model_type](block, x, lambda name, value, layer=layer: tap(layer, name, value))
    assert not math.isnan(float(x.sum()))
    return x
