"""Adapters by name: which is in force in a job, and which version its document says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from telepatch_protocol import wire
from telepatch_protocol.adapters import adapter_of
from telepatch_protocol.card import ModelCard
from telepatch_protocol.check import check
from telepatch_protocol.errors import UnknownName, VersionError

GOLDEN = (Path(__file__).parents[1] / "wire" / "1.1" / "adapter.json").read_bytes()


def test_the_golden_file_survives_the_wire_and_passes_the_check_of_a_model_that_has_the_adapter(card: ModelCard):
    graph = wire.decode(GOLDEN)
    assert json.loads(graph.to_json()) == json.loads(GOLDEN)
    card = card.model_copy(update={"adapters": ("german", "french")})
    assert set(check(graph, card).saves) == {"h"}
    assert adapter_of(graph, card) == "french"


def test_a_job_that_names_none_has_that_of_the_card_and_else_the_base_model(card: ModelCard):
    plain = wire.from_dict({**json.loads(GOLDEN), "options": {}})
    assert adapter_of(plain, card) is None
    assert adapter_of(plain, card.model_copy(update={"adapters": ("french",), "adapter": "french"})) == "french"


def test_an_adapter_that_the_model_does_not_have_is_refused_with_those_that_it_has(card: ModelCard):
    with pytest.raises(UnknownName, match="model 'tiny' has no adapter 'french'; it has none; leave 'adapter' out"):
        check(wire.decode(GOLDEN), card)
    with pytest.raises(UnknownName, match="no adapter 'french'; it has 'german', 'legal'"):
        check(wire.decode(GOLDEN), card.model_copy(update={"adapters": ("german", "legal")}))


def test_a_document_that_names_an_adapter_says_that_it_needs_1_1():
    with pytest.raises(VersionError, match=r"says protocol \[1, 0\], and adapters are there since \[1, 1\]"):
        wire.from_dict({**json.loads(GOLDEN), "protocol": [1, 0]})
