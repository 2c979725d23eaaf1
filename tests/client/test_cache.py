"""Many sites at once: which patterns mean which, and what is sent for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from telepatch.lab import Lab
from telepatch.model import Model
from telepatch.patterns import Sites
from telepatch_protocol.card import ModelCard
from telepatch_protocol.check import check
from telepatch_protocol.errors import BadArgument, TooLarge, TraceError, UnknownSite
from telepatch_protocol.graph import Get
from telepatch_protocol.price import price

STREAM = [f"blocks.{at}:resid_post" for at in range(4)]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("blocks.*:resid_post", STREAM),
        ("blocks.2:resid_post", STREAM[2:3]),
        ("*.attn", [f"blocks.{at}.attn:output" for at in range(4)]),
        ("**.attn_impl:outputs.1", [f"blocks.{at}.attn_impl:outputs.1" for at in range(4)]),
        ("model.layers.*:input", [f"model.layers.{at}:input" for at in range(4)]),
        ("blocks.1.*:input@", None),
        ("blocks.1.norm", ["blocks.1.norm:output@0", "blocks.1.norm:output@1"]),
        ("blocks.0.**", ["blocks.0:output", "blocks.0.attn:output", "blocks.0.output:output", *(
            f"blocks.0.norm:output@{at}" for at in (0, 1))]),
        ("unembed", ["unembed:output"]),
        ("lm_*", ["lm_head:output"]),
    ],
)  # fmt: skip
def test_a_pattern_means_these_sites(card: ModelCard, pattern: str, found: list[str] | None) -> None:
    if found is None:
        with pytest.raises(UnknownSite):
            Sites(card).choose(pattern)
        return
    assert [hit.spelling for hit in Sites(card).choose(pattern)] == found


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("bloks.*", r"fits no module of 'tiny'; there are: blocks\.\*"),
        ("blocks.*:resid_pots", r"fits 4 modules, such as .* none has 'resid_pots'; it has: resid_pre, resid_post"),
        ("model.layers", "nothing that fires"),
        (3, "found int 3"),
    ],
)
def test_a_pattern_that_means_nothing_says_what_is_near(model: Model, pattern: Any, says: str) -> None:
    with pytest.raises((UnknownSite, BadArgument), match=says), model.trace("x") as t:
        t.cache(pattern)


def test_everything_is_kept_where_nothing_is_chosen(model: Model) -> None:
    with model.trace("x") as t:
        kept = t.cache()
    assert len(kept) == 4 * 5 + 2
    assert next(iter(kept)) == "blocks.0.attn:output"
    assert list(kept)[-1] == ":output"
    with model.trace("x") as t:
        both = t.cache(include_inputs=True)
        assert not any("attention_mask" in name for name in both)
    assert len(both) == 2 * len(kept)
    with pytest.raises(BadArgument, match="include_output"), model.trace("x") as t:
        t.cache(include_output=False)


def test_modules_sites_and_lists_may_be_given_too(model: Model) -> None:
    with model.trace("x") as t:
        kept = t.cache([model.blocks[0].attn, model.blocks[:].resid_pre], model.unembed.output, ["blocks.0.attn"])
    assert len(kept) == 6
    assert kept[model.blocks[0].attn] is kept["model.layers.0.attn_impl"] is kept["blocks.0.attn:output"]
    assert kept[model.blocks[2].resid_pre] is kept["blocks.2:input"]
    assert "lm_head" in kept
    assert model.blocks[1].attn not in kept
    with pytest.raises(KeyError, match=r"'blocks.1' was not kept; there are 6: blocks\.0:resid_pre"):
        kept["blocks.1"]


def test_what_is_kept_comes_after_every_write_wherever_it_is_asked_for(model: Model) -> None:
    with model.trace("x") as t:
        kept = t.cache("blocks.*:resid_post", index=np.s_[:, -1], dtype="float16")
        model.blocks[1].resid_post[:, -1] = 0
    kinds = [node.kind for node in t.graph.nodes]
    assert kinds.index("set") < kinds.index("get")
    reads = [node for node in t.graph.nodes if isinstance(node, Get)]
    assert [node.index is not None for node in reads] == [True] * 4
    assert len(t.graph.saves) == 4
    assert (kept["blocks.2:resid_post"].shape, kept["blocks.2:resid_post"].dtype) == ((1, 8), "float16")


def test_each_input_has_a_cache_of_its_own(model: Model) -> None:
    with model.trace() as t:
        with pytest.raises(TraceError, match="of one input"):
            t.cache("unembed")
        with t.invoke("a"):
            t.cache("unembed")
        with t.invoke("b"):
            model.cache("unembed")
    assert [node.invoke for node in t.graph.nodes if isinstance(node, Get)] == ["x0", "x1"]
    with pytest.raises(TraceError, match="inside the block"):
        model.cache("unembed")


def test_names_of_ones_own_are_patterns_too(card: ModelCard) -> None:
    model = Model(
        card, rename={"layers": "model.layers", "layers.*.attention": "blocks.*.attn", "layers.*": {"r": "output"}}
    )
    with model.trace("x") as t:
        kept = t.cache("layers.*:r", "layers.*.attention")
    assert kept["layers.1:r"] is kept["blocks.1:resid_post"]
    assert "layers.3.attention:output" in list(kept)
    assert "layers." not in t.graph.to_json().replace("model.layers.", "")
    check(t.graph, card)


def test_more_than_a_job_may_save_is_refused_by_its_price(model: Model, card: ModelCard) -> None:
    with model.trace("x") as t:
        t.cache()
    small = card.model_copy(update={"limits": card.limits.model_copy(update={"max_saved_bytes": 5000})})
    found = check(t.graph, small, lengths={"x": 2})
    assert price(found, small)
    with pytest.raises(TooLarge, match=r"bytes of saved values; the limit .* 5,000"):
        price(check(t.graph, small, lengths={"x": 9}), small)


def test_kept_values_are_lazy_and_come_together(lab: Lab, gateway: Any) -> None:
    model = lab.model("tiny")
    with model.trace("xy") as t:
        kept = t.cache("blocks.*:resid_post")
    assert [value.numpy().shape for value in kept.values()] == [(1, 3)] * 4
    assert len(gateway.posts) == 1
