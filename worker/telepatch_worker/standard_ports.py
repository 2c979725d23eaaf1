"""Where each model type keeps what standard port names of a block mean, as far as it can be read and written there.

Only types whose blocks the tests write out by hand are here: a model whose modules merely have the same names may add
and normalise elsewhere, and a write would mean something else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from telepatch_protocol.card import Axis, ModelCard, Target, View
from telepatch_protocol.errors import UnknownSite
from telepatch_protocol.sites import Found, Site, find

Heads = Literal["", "split", "thirds", "interleaved"]
"""How the last axis of a tensor holds heads: not; one after the other; three times that, fused; three for each head."""


@dataclass(frozen=True)
class Spot:
    """One standard port.

    Attributes:
        site: ``path:port`` from the block on; a star stands for the last number of an operation's name.
        heads: how heads lie on the last axis.
        third: which of three things that are fused it is.
        tokens: whether the first axis is rows times positions.
        sums: whether the line of an operation must add something: numbers of operations may change with transformers.
    """

    site: str
    heads: Heads = ""
    third: int = 0
    tokens: bool = False
    sums: bool = False


def _split(attn: str, q: str, k: str, v: str, out: str) -> dict[str, Spot]:
    """Queries, keys, values and what attention gives, of projections that each have their own module."""
    names = {"q": q, "k": k, "v": v}
    found = {name: Spot(f"{attn}.{own}:output", "split") for name, own in names.items()}
    return found | {"z": Spot(f"{out}:input", "split")}


def _patterns(attn: str) -> dict[str, Spot]:
    """Scores are what the softmax takes: scaled, capped, masked. The pattern is what the values are weighted with."""
    inside = f"{attn}:source.attention_interface_1.source"
    return {
        "scores": Spot(f"{inside}.nn_functional_softmax_0.input"),
        "pattern": Spot(f"{inside}.attn_weights_*.output"),
    }


_STREAM = {"resid_pre": Spot(":input"), "resid_post": Spot(":output")}

GPT2 = {
    **_STREAM,
    "q": Spot("attn.c_attn:output", "thirds", 0),
    "k": Spot("attn.c_attn:output", "thirds", 1),
    "v": Spot("attn.c_attn:output", "thirds", 2),
    "z": Spot("attn.c_proj:input", "split"),
    **_patterns("attn"),
    "attn_out": Spot("attn:output"),
    "resid_mid": Spot(":source.hidden_states_1.output", sums=True),
    "mlp_in": Spot("mlp:input"),
    "mlp_act": Spot("mlp.c_proj:input"),
    "mlp_out": Spot("mlp:output"),
}

LLAMA = {
    **_STREAM,
    **_split("self_attn", "q_proj", "k_proj", "v_proj", "self_attn.o_proj"),
    **_patterns("self_attn"),
    "attn_out": Spot("self_attn:output"),
    "resid_mid": Spot(":source.hidden_states_1.output", sums=True),
    "mlp_in": Spot("mlp:input"),
    "mlp_act": Spot("mlp.down_proj:input"),
    "mlp_out": Spot("mlp:output"),
}

GEMMA2 = {
    **LLAMA,
    "attn_out": Spot("post_attention_layernorm:output"),
    "resid_mid": Spot(":source.hidden_states_2.output", sums=True),
    "mlp_out": Spot("post_feedforward_layernorm:output"),
}

MIXTRAL = {
    **{name: spot for name, spot in LLAMA.items() if name != "mlp_act"},
    "router_logits": Spot("mlp.gate:source.router_logits_0.output", tokens=True),
}

PHI = {
    **_STREAM,
    **_split("self_attn", "q_proj", "k_proj", "v_proj", "self_attn.dense"),
    **_patterns("self_attn"),
    "attn_out": Spot("self_attn:output"),
    "mlp_in": Spot("mlp:input"),
    "mlp_act": Spot("mlp.fc2:input"),
    "mlp_out": Spot("mlp:output"),
}

GPT_NEOX = {
    **_STREAM,
    "q": Spot("attention.query_key_value:output", "interleaved", 0),
    "k": Spot("attention.query_key_value:output", "interleaved", 1),
    "v": Spot("attention.query_key_value:output", "interleaved", 2),
    "z": Spot("attention.dense:input", "split"),
    **_patterns("attention"),
    "attn_out": Spot("attention:output"),
    "resid_mid": Spot(":source.attn_output_1.output", sums=True),
    "mlp_in": Spot("mlp:input"),
    "mlp_act": Spot("mlp.dense_4h_to_h:input"),
    "mlp_out": Spot("mlp:output"),
}

BERT = {
    **_STREAM,
    **_split("attention.self", "query", "key", "value", "attention.output.dense"),
    **_patterns("attention.self"),
    "attn_out": Spot("attention.output.dense:output"),
    "resid_mid": Spot("attention:output"),
    "mlp_in": Spot("intermediate:input"),
    "mlp_act": Spot("output.dense:input"),
    "mlp_out": Spot("output.dense:output"),
}

VIT = {
    **_STREAM,
    **_split("attention", "q_proj", "k_proj", "v_proj", "attention.o_proj"),
    **_patterns("attention"),
    "attn_out": Spot("attention:output"),
    "resid_mid": Spot(":source.hidden_states_2.output", sums=True),
    "mlp_in": Spot("mlp:input"),
    "mlp_act": Spot("mlp.fc2:input"),
    "mlp_out": Spot("mlp:output"),
}

STANDARD_PORTS: Mapping[str, Mapping[str, Spot]] = {
    "gpt2": GPT2,
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "gemma": LLAMA,
    "gemma2": GEMMA2,
    "gemma3_text": GEMMA2,
    "mixtral": MIXTRAL,
    "phi": PHI,
    "gpt_neox": GPT_NEOX,
    "bert": BERT,
    "vit": VIT,
}
"""By model type, as transformers names it; a name is offered only where every block of the model has the place."""


def with_standard_ports(card: ModelCard, heads: int | None) -> ModelCard:
    """The card with the standard ports of its model type, as far as its blocks have them.

    Args:
        card: with aliases of modules, and operations.
        heads: attention heads of queries, where the model's configuration says.
    """
    blocks = card.aliases.modules.get("blocks.*")
    spots = STANDARD_PORTS.get(card.family, {})
    if blocks is None or not spots:
        return card
    paths = [path for path in card.by_path if _fits(blocks, path)]
    width = _head_width(card, paths[0], spots["z"], heads)
    ports: dict[str, str | Target] = {}
    for name, spot in spots.items():
        target = _target(card, paths, spot, width)
        if target is not None:
            ports[name] = target.port if not target.path and target.view is None else target
    aliases = card.aliases.model_copy(update={"ports": {**card.aliases.ports, "blocks.*": ports}})
    return card.model_copy(update={"aliases": aliases})


def _fits(pattern: str, path: str) -> bool:
    keys, segments = pattern.split("."), path.split(".")
    return len(keys) == len(segments) and all(
        key == segment or (key == "*" and segment.isdigit()) for key, segment in zip(keys, segments, strict=True)
    )


def _head_width(card: ModelCard, block: str, z: Spot, heads: int | None) -> int | None:
    """The width of a head; key and value heads, of which there may be fewer, have it too."""
    path, _, port = z.site.partition(":")
    place = _place(card, f"{block}.{path}", port)
    size = None if place is None else place.leaf.axes[-1]
    return size // heads if isinstance(size, int) and heads and not size % heads else None


def _target(card: ModelCard, blocks: list[str], spot: Spot, width: int | None) -> Target | None:
    """What the name means; None where a block lacks the place, or where places differ."""
    path, _, port = spot.site.partition(":")
    found: set[Target] = set()
    for block in blocks:
        native = ".".join(part for part in (block, path) if part)
        own = _last(card, native, port)
        place = None if own is None or not _as_expected(card, native, own, spot) else _place(card, native, own)
        view = None if place is None else _view(place.leaf.axes, spot, width)
        if own is None or view is None:
            return None
        found.add(Target(path=path, port=own, view=view if view != View() else None))
    return found.pop() if len(found) == 1 else None


def _as_expected(card: ModelCard, path: str, port: str, spot: Spot) -> bool:
    """Whether an operation that shall add something does."""
    module = card.by_path.get(path)
    source = card.sources.get("" if module is None else module.source)
    found = None if source is None else source.by_name.get(port.removeprefix("source.").rpartition(".")[0])
    return not spot.sums or (found is not None and "+" in found.text)


def _place(card: ModelCard, path: str, port: str) -> Found | None:
    name, _, leaf = port.partition(".")
    try:
        return find(card, Site(path, name, leaf or None))[0]
    except UnknownSite:
        return None


def _last(card: ModelCard, path: str, port: str) -> str | None:
    """The port, with the number of the last operation of that name where there is a star."""
    if "*" not in port:
        return port
    module = card.by_path.get(path)
    head, tail = port.removeprefix("source.").split("*")
    source = card.sources.get("" if module is None else module.source)
    numbers = [int(rest) for rest in _rests(source.by_name if source else (), head) if rest.isdigit()]
    return f"source.{head}{max(numbers)}{tail}" if numbers else None


def _rests(names: Mapping[str, object] | tuple[str, ...], head: str) -> Iterator[str]:
    return (name.removeprefix(head) for name in names if name.startswith(head))


def _view(axes: tuple[Axis, ...], spot: Spot, width: int | None) -> View | None:
    """The view of a tensor with such axes; None where heads of that width do not fit into it."""
    if spot.tokens:
        return View(tokens=True) if axes[:1] == ("row*pos",) else None
    if not spot.heads:
        return View()
    size, parts = axes[-1], 1 if spot.heads == "split" else 3
    if not isinstance(size, int) or width is None or size % (parts * width):
        return None
    heads = size // (parts * width)
    if spot.heads == "split":
        return View(split=(heads, width))
    if spot.heads == "thirds":
        return View(split=(3, heads, width), pick=(0, spot.third))
    return View(split=(heads, 3, width), pick=(1, spot.third))
