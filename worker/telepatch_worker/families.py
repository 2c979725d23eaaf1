"""Standard aliases of the model families: the same names for the same places, whatever the architecture calls them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from telepatch_protocol.card import Aliases, ModuleCard


@dataclass(frozen=True)
class Family:
    """Where an architecture keeps the standard places; an empty string for what it does not have."""

    blocks: str
    attn: str
    mlp: str
    embed: str
    final_norm: str
    unembed: str


FAMILIES = (
    Family("transformer.h.*", "attn", "mlp", "transformer.wte", "transformer.ln_f", "lm_head"),
    Family("model.layers.*", "self_attn", "mlp", "model.embed_tokens", "model.norm", "lm_head"),
    Family("gpt_neox.layers.*", "attention", "mlp", "gpt_neox.embed_in", "gpt_neox.final_layer_norm", "lm_head"),
    Family("encoder.layer.*", "attention", "", "embeddings.word_embeddings", "", ""),
    Family("h.*", "attn", "mlp", "wte", "ln_f", ""),
    Family("layers.*", "self_attn", "mlp", "embed_tokens", "norm", ""),
    Family("layers.*", "attention", "mlp", "embeddings", "layernorm", ""),
    Family("vit.layers.*", "attention", "mlp", "vit.embeddings", "vit.layernorm", "classifier"),
)
"""GPT-2, Llama and those built like it, GPT-NeoX, BERT; GPT-2 and Llama without a head; ViT without one and with."""


def _matching(pattern: str, modules: tuple[ModuleCard, ...]) -> list[ModuleCard]:
    form = re.compile(re.escape(pattern).replace(r"\*", r"\d+"))
    return [module for module in modules if form.fullmatch(module.path)]


def _offers(pattern: str, count: int, modules: tuple[ModuleCard, ...]) -> bool:
    """Whether the place exists as often as it should and fires every time."""
    found = _matching(pattern, modules)
    return len(found) == count and all(module.input and module.output for module in found)


def aliases_of(modules: tuple[ModuleCard, ...]) -> Aliases:
    """The aliases of a model, of those its family has and that are really there; none for an unknown family."""
    fitting = [
        (family, count)
        for family in FAMILIES
        if (count := len(_matching(family.blocks, modules))) and _offers(family.blocks, count, modules)
    ]
    for family, count in fitting:
        if _offers(f"{family.blocks}.{family.attn}", count, modules):
            return _aliases(family, count, modules)
    return _aliases(*fitting[0], modules) if fitting else Aliases()


def _aliases(family: Family, count: int, modules: tuple[ModuleCard, ...]) -> Aliases:
    inside = {"blocks.*.attn": family.attn, "blocks.*.mlp": family.mlp}
    candidates = {alias: (f"{family.blocks}.{name}", count) for alias, name in inside.items() if name}
    singles = {"embed": family.embed, "final_norm": family.final_norm, "unembed": family.unembed}
    candidates |= {alias: (path, 1) for alias, path in singles.items() if path}
    offered = {alias: path for alias, (path, times) in candidates.items() if _offers(path, times, modules)}
    ports = {"resid_pre": "input", "resid_post": "output"}
    return Aliases(modules={"blocks.*": family.blocks, **offered}, ports={"blocks.*": ports})
