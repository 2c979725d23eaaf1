"""Where sites lie on a card, and what is said about those that do not exist."""

from __future__ import annotations

import pytest

from telepatch_protocol import sites
from telepatch_protocol.card import ModelCard
from telepatch_protocol.errors import BadArgument, NotYetSupported, UnknownSite


def find(card: ModelCard, text: str, call: int | None = None) -> tuple[sites.Found, ...]:
    return sites.find(card, sites.parse(text), call)


def test_a_site_is_a_path_a_port_and_a_leaf():
    assert sites.parse("layers.3.attn:outputs.1") == sites.Site("layers.3.attn", "outputs", "1")
    assert str(sites.parse("blocks.*:resid_post")) == "blocks.*:resid_post"
    assert sites.parse(":input") == sites.Site("", "input")


@pytest.mark.parametrize(
    "text", ["layers", "layers.1:", "a b:output", "layers.*.x.*:output", "a:b:c", "läyers:output\n"]
)
def test_text_of_another_form_is_refused(text: str):
    with pytest.raises(BadArgument):
        sites.parse(text)


def test_numbers_are_filled_into_braces():
    site = sites.parse("layers.{n}.mlp:output")
    assert site.holes == ("n",)
    assert str(site.fill(lambda name: 7)) == "layers.7.mlp:output"


@pytest.mark.parametrize(
    ("alias", "native"),
    [
        ("blocks.2:resid_post", "layers.2:output"),
        ("blocks.2:resid_pre", "layers.2:input"),
        ("blocks.2.mlp.up:output", "layers.2.mlp.up:output"),
        ("unembed:output", "head:output"),
        ("layers.2:resid_post", "layers.2:output"),
        ("layers.2:outputs", "layers.2:output"),
        ("layers.1.attn:outputs.0", "layers.1.attn:output"),
        ("layers.1.attn:inputs.hidden_states", "layers.1.attn:input"),
    ],
)
def test_two_spellings_of_one_place_are_one_place(card: ModelCard, alias: str, native: str):
    assert find(card, alias) == find(card, native)


def test_a_starred_site_is_every_matching_module_in_firing_order(card: ModelCard):
    found = find(card, "blocks.*:resid_post")
    assert [one.place.path for one in found] == [f"layers.{number}" for number in range(4)]
    assert [one.order for one in found] == sorted(one.order for one in found)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("layers.9:output", "'layers' has no child '9'; it has: 0 to 3"),
        ("layers.1.mpl:output", "did you mean 'mlp'"),
        ("blocks.1:resid_pst", "did you mean 'resid_post'"),
        ("hed:output", "model 'tiny' has no child 'hed' .*it has: embed, layers, norm, head, unused, blocks, unembed"),
        ("layers.1.attn:outputs.7", "there are: outputs.0, outputs.1"),
        ("layers.1.attn:output.1", "'outputs.1' names a leaf"),
        ("unused:output", "does not fire"),
        ("norm:output", "fires 2 times in one forward; say which call"),
        ("layers.1.mlp.up:param.bias", "its own parameters: weight"),
        ("wrong.*:output", "has no child 'wrong'"),
    ],
)
def test_a_site_that_is_not_there_is_named_with_what_is(card: ModelCard, text: str, says: str):
    with pytest.raises(UnknownSite, match=says):
        find(card, text)


def test_calls_of_a_module_that_fires_twice_are_different_places(card: ModelCard):
    first, second = find(card, "norm:output", 0)[0], find(card, "norm:output", 1)[0]
    assert first.place != second.place
    assert (first.order, second.order) == (51, 53)
    with pytest.raises(UnknownSite, match="there is no call 2"):
        find(card, "norm:output", 2)


def test_ports_of_a_later_version_are_refused_by_name(card: ModelCard):
    with pytest.raises(NotYetSupported, match="grad"):
        find(card, "layers.1.attn:grad")


def test_a_starred_site_over_modules_of_different_shapes_is_refused(card: ModelCard):
    modules = tuple(
        module.model_copy(update={"output": card.by_path["head"].output}) if module.path == "layers.2" else module
        for module in card.modules
    )
    with pytest.raises(UnknownSite, match="different shapes"):
        find(ModelCard.model_validate({**card.model_dump(), "modules": modules}), "layers.*:output")


def test_a_card_that_was_changed_remembers_nothing_of_the_one_before(card: ModelCard):
    assert find(card, "layers.2:output") == find(card, "layers.2:output")
    fewer = card.model_copy(update={"modules": tuple(one for one in card.modules if "layers.2" not in one.path)})
    with pytest.raises(UnknownSite):
        find(fewer, "layers.2:output")
    assert "layers.2" not in fewer.by_path
