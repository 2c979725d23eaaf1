"""Names of one's own: where they lead, what is sent, and which are refused."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

from telepatch.lab import Lab
from telepatch.model import Model
from telepatch_protocol.card import ModelCard
from telepatch_protocol.check import check
from telepatch_protocol.errors import BadArgument, UnknownSite


@pytest.fixture
def mine(card: ModelCard) -> Model:
    """A model with names of one's own."""
    names = {
        "layers": "model.layers",
        "layers.*.attention": "blocks.*.attn",
        "layers.*.twin": "layers.*.attention",
        "head": "lm_head",
        "first": "model.layers.0",
        "layers.*": {"resid": "output", "before": "resid_pre"},
        "blocks.*.attn": {"chances": "outputs.1"},
    }
    return Model(card, rename=names)


def test_names_lead_to_the_same_modules(mine: Model) -> None:
    assert mine.layers[2] == mine.model.layers[2] == mine["layers.2"] == mine.blocks[2]
    assert mine.layers[1].attention == mine.layers[1].twin == mine.blocks[1].attention == mine.blocks[1].attn
    assert mine.head == mine.lm_head
    assert mine.first.attention == mine.blocks[0].attn
    assert len(mine.layers) == 4
    assert mine.layers[-1] == mine.blocks[3]
    assert mine["layers.*.attention"] == mine.blocks[:].attn == mine.layers[:].attention


def test_what_is_sent_has_the_models_own_names_or_standard_ones(mine: Model, card: ModelCard) -> None:
    with mine.trace("x") as t:
        mine.layers[1].resid[:, -1] += 1
        mine.layers[0].before = 0
        mine.layers[2].attention.chances.save()
        mine.layers[:].resid.save()
        mine.head(mine.layers[3].before).save()
    sent = t.graph.to_json()
    sites = [re.sub(r"\{c\d+\}", "N", node.site) for node in t.graph.nodes if hasattr(node, "site")]
    assert sites == [
        "model.layers.N:output",
        "model.layers.N:output",
        "model.layers.N:resid_pre",
        "model.layers.N.attn_impl:outputs.1",
        "model.layers.*:output",
        "model.layers.N:resid_pre",
    ]
    assert not any(name in sent for name in (':resid"', "before", "attention:", "chances", "head("))
    check(t.graph, card)


def test_the_drawing_and_completion_show_them(mine: Model) -> None:
    drawn = str(mine)
    assert "= unembed, head" in drawn
    assert "= blocks.*.attn, layers.*.attention, layers.*.twin" in drawn
    assert "resid_post, resid, before" in drawn
    assert "   = blocks, layers" in drawn
    assert {"layers", "head", "first"} <= set(dir(mine))
    assert {"attention", "twin", "resid", "before"} <= set(dir(mine.blocks[0]))


def test_a_mistyped_name_is_told_with_ones_own_names(mine: Model) -> None:
    with pytest.raises(UnknownSite, match="did you mean 'attention'"):
        mine.layers[0].attentoin  # noqa: B018


def line() -> int:
    """The line that calls this."""
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return frame.f_back.f_lineno


@pytest.mark.parametrize(
    ("rename", "kind", "says"),
    [
        ({"layers": "transformer.h"}, UnknownSite, "rename of 'layers': model 'tiny' has no 'transformer'"),
        ({"layers": "model.layer"}, UnknownSite, "'model' has no 'layer'; it has: layers"),
        ({"layers": "model.layers", "layers.9.x": "lm_head"}, UnknownSite, "0 to 3"),
        ({"stack.*.a": "blocks.*.attn"}, UnknownSite, "has no 'stack'"),
        ({"blocks.*.a": "lm_head"}, BadArgument, "has 1 stars .* has 0"),
        ({"lm_head": "model.layers"}, BadArgument, "means something there already"),
        ({"unembed": "lm_head"}, BadArgument, "means something there already"),
        ({"trace": "lm_head"}, BadArgument, "means something there already"),
        ({"output": "lm_head"}, BadArgument, "means something there already"),
        ({"blocks.*.resid_post": "blocks.*.attn"}, BadArgument, "means something there already"),
        ({"a b": "lm_head"}, BadArgument, "is no name"),
        ({"_x": "lm_head"}, BadArgument, "is no name"),
        ({"blocks.*": {"resid": "outptu"}}, UnknownSite, "did you mean 'output'"),
        ({"blocks.*": {"resid": 3}}, BadArgument, "means a port"),
        ({"blocks.*": {"resid_post": "output"}}, BadArgument, "already"),
        ({"layers": 3}, BadArgument, "found 'layers': 3"),
    ],
)
def test_names_are_held_against_the_card_when_they_are_given(
    lab: Lab, rename: dict[str, Any], kind: type[Exception], says: str
) -> None:
    with pytest.raises(kind, match=says) as caught:
        lab.model("tiny", rename=rename)
    assert caught.value.line == line() - 1  # type: ignore[attr-defined]
