"""A tiny random model of each family, and the standard ports that its blocks really have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from telepatch_worker.cards import CardFile

MEANINGS = {
    "resid_pre": ("row, pos, d_model", "the residual stream that the block takes"),
    "q": ("row, pos, head, d_head", "queries as projected: before any norm of queries and before rotary embedding"),
    "k": ("row, pos, kv_head, d_head", "keys as projected, likewise"),
    "v": ("row, pos, kv_head, d_head", "values as projected"),
    "scores": ("row, head, pos, pos", "what the softmax takes: scaled, capped where the model caps, masked"),
    "pattern": ("row, head, pos, pos", "what the softmax gives: the weights of the values"),
    "z": ("row, pos, head, d_head", "the weighted values of each head, before the output projection"),
    "attn_out": ("row, pos, d_model", "what attention adds to the residual stream"),
    "resid_mid": ("row, pos, d_model", "the residual stream between attention and MLP, for the skip path too"),
    "mlp_in": ("row, pos, d_model", "what the MLP takes, after the norm where there is one"),
    "router_logits": ("row, pos, expert", "the logits from which experts are chosen and weighted"),
    "mlp_act": ("row, pos, d_mlp", "the neurons: what the MLP's last projection takes"),
    "mlp_out": ("row, pos, d_model", "what the MLP adds to the residual stream"),
    "resid_post": ("row, pos, d_model", "the residual stream that the block returns"),
}
"""Axes and meaning of each standard port of a block."""

COMMON = ("resid_pre", "q", "k", "v", "scores", "pattern", "z", "attn_out")
DENSE = ("mlp_in", "mlp_act", "mlp_out", "resid_post")
EVERY = (*COMMON, "resid_mid", *DENSE)

SMALL = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
GROUPED = SMALL | {"num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GPT2 = {"vocab_size": 61, "n_positions": 64, "n_embd": 32, "n_layer": 3, "n_head": 4} | {
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@dataclass(frozen=True)
class Family:
    """One row of the table of sites."""

    title: str
    type: str
    config: dict[str, Any]
    ports: tuple[str, ...] = EVERY
    attention: str = "sdpa"
    name: str = ""

    @property
    def id(self) -> str:
        return self.name or self.type.replace("_", "-")

    @property
    def kind(self) -> str:
        return "encoder" if self.type == "bert" else "causal"

    def card(self) -> CardFile:
        head = {"id": self.id, "source": f"config:{self.type}", "kind": self.kind, "tokenizer": "none"}
        return CardFile.model_validate({**head, "attention": self.attention, "config": self.config, "device": "cpu"})


FAMILIES = (
    Family("GPT-2", "gpt2", GPT2),
    Family("Llama", "llama", GROUPED),
    Family("Mistral", "mistral", GROUPED | {"sliding_window": 4}),
    Family("Qwen2", "qwen2", GROUPED),
    Family("Qwen3", "qwen3", GROUPED | {"head_dim": 16}),
    Family("Gemma", "gemma", GROUPED | {"head_dim": 16}),
    Family("Gemma 2", "gemma2", GROUPED | {"head_dim": 16, "sliding_window": 4}, attention="eager"),
    Family("Gemma 3", "gemma3_text", GROUPED | {"head_dim": 16, "sliding_window": 4}),
    Family(
        "Mixtral",
        "mixtral",
        GROUPED | {"num_local_experts": 4},
        (*COMMON, "resid_mid", "mlp_in", "router_logits", "mlp_out", "resid_post"),
    ),
    Family("Phi", "phi", GROUPED, (*COMMON, *DENSE)),
    Family("GPT-NeoX, parallel", "gpt_neox", SMALL | {"bos_token_id": 1, "eos_token_id": 2}, (*COMMON, *DENSE)),
    Family(
        "GPT-NeoX, sequential",
        "gpt_neox",
        SMALL | {"use_parallel_residual": False, "bos_token_id": 1, "eos_token_id": 2},
        name="gpt-neox-sequential",
    ),
    Family("BERT", "bert", SMALL),
)
"""ViT takes images: it is checked beside these, and has every port that is here under `VIT`."""

VIT = Family(
    "ViT",
    "vit",
    {
        "hidden_size": 32,
        "intermediate_size": 40,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": 8,
        "patch_size": 4,
        "num_channels": 3,
    },
)
