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
    head: str = ""


FAMILIES = (
    Family("transformer.h.*", "attn", "mlp", "transformer.wte", "transformer.ln_f", "lm_head"),
    Family("model.layers.*", "self_attn", "mlp", "model.embed_tokens", "model.norm", "lm_head"),
    Family(
        "model.language_model.layers.*",
        "self_attn",
        "mlp",
        "model.language_model.embed_tokens",
        "model.language_model.norm",
        "lm_head",
    ),
    Family("gpt_neox.layers.*", "attention", "mlp", "gpt_neox.embed_in", "gpt_neox.final_layer_norm", "lm_head"),
    Family("encoder.layer.*", "attention", "", "embeddings.word_embeddings", "", ""),
    Family("vit.layers.*", "attention", "mlp", "vit.embeddings", "vit.layernorm", "", "classifier"),
    Family("h.*", "attn", "mlp", "wte", "ln_f", ""),
    Family("layers.*", "self_attn", "mlp", "embed_tokens", "norm", ""),
    Family("layers.*", "attention", "mlp", "embeddings", "layernorm", ""),
)
"""GPT-2, Llama and those built like it, Llama beside images, GPT-NeoX, BERT, ViT; then GPT-2, Llama and ViT without a
head."""


def _matching(pattern: str, modules: tuple[ModuleCard, ...]) -> list[ModuleCard]:
    form = re.compile(re.escape(pattern).replace(r"\*", r"\d+"))
    return [module for module in modules if form.fullmatch(module.path)]


def _offers(pattern: str, count: int, modules: tuple[ModuleCard, ...]) -> bool:
    """Whether the place exists as often as it should and fires every time."""
    found = _matching(pattern, modules)
    return len(found) == count and all(module.input and module.output for module in found)


def aliases_of(modules: tuple[ModuleCard, ...]) -> Aliases:
    """The aliases of a model, of those its family has and that are really there; none for an unknown family.

    Two families may keep their blocks under one path; it is then of the one of which it has more.
    """
    counted = ((family, len(_matching(family.blocks, modules))) for family in FAMILIES)
    found = (
        _aliases(family, count, modules)
        for family, count in counted
        if count and _offers(family.blocks, count, modules)
    )
    return max(found, key=lambda aliases: len(aliases.modules), default=Aliases())


def _aliases(family: Family, count: int, modules: tuple[ModuleCard, ...]) -> Aliases:
    inside = {"blocks.*.attn": family.attn, "blocks.*.mlp": family.mlp}
    candidates = {alias: (f"{family.blocks}.{name}", count) for alias, name in inside.items() if name}
    singles = {"embed": family.embed, "final_norm": family.final_norm, "unembed": family.unembed, "head": family.head}
    candidates |= {alias: (path, 1) for alias, path in singles.items() if path}
    offered = {alias: path for alias, (path, times) in candidates.items() if _offers(path, times, modules)}
    ports = {"resid_pre": "input", "resid_post": "output"}
    return Aliases(modules={"blocks.*": family.blocks, **offered}, ports={"blocks.*": ports})
