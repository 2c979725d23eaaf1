"""Models that read text and an image, or two texts: what they take, their axes, and their numbers in company."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.worker.named_graphs import task

from telepatch_protocol.card import Holds
from telepatch_protocol.check import check
from telepatch_protocol.errors import BadArgument
from telepatch_protocol.meta import Meta
from telepatch_protocol.price import price
from telepatch_worker.cards import CardFile, LoadError
from telepatch_worker.engine import Engine
from telepatch_worker.load import Loaded, load

CARDS = Path(__file__).parents[1] / "conformance" / "cards"
LLAVA, T5 = "llava-random", "t5-random"
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Iterator[Engine]:
    engine = Engine(load(CARDS / f"{LLAVA}.toml", cache=tmp_path_factory.mktemp("models")))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Iterator[Engine]:
    engine = Engine(load(CARDS / f"{T5}.toml", cache=tmp_path_factory.mktemp("models")))
    yield engine
    engine.close()


def mixed(rows: int, words: int) -> dict[str, torch.Tensor]:
    ids = torch.arange(rows * words).reshape(rows, words) % 60
    ids = torch.cat([ids[:, :1], torch.full((rows, 4), 66), ids[:, 1:]], dim=1)
    return {"input_ids": ids, "pixel_values": torch.linspace(-1, 1, rows * 192).reshape(rows, 3, 8, 8)}


def texts(rows: int, read: int, given: int) -> dict[str, torch.Tensor]:
    source = torch.arange(rows * read).reshape(rows, read) * 7 % 61
    return {"input_ids": source, "decoder_input_ids": torch.arange(rows * given).reshape(rows, given) * 5 % 61}


def test_an_image_has_its_places_among_the_tokens_and_every_axis_is_known(llava: Engine):
    card = llava.card
    assert card.inputs["input_ids"].holds == Holds(number=66, times=4)
    assert card.inputs["pixel_values"].axes == ("row", 3, 8, 8)
    assert all(leaf.solved for module in card.modules if module.output for leaf in module.output.leaves)
    assert card.by_path["model.vision_tower.encoder.layers.1"].output.leaves[0].axes == ("row", 5, 24)
    assert card.by_path["lm_head"].output.leaves[0].axes == ("row", "pos", 67)
    assert card.aliases.modules["blocks.*"] == "model.language_model.layers.*"
    assert card.shares


def test_encoder_and_decoder_have_lengths_of_their_own(t5: Engine):
    card = t5.card
    assert all(leaf.solved for module in card.modules if module.output for leaf in module.output.leaves)
    across = card.by_path["decoder.block.1.layer.1.EncDecAttention"].output.leaves
    assert across[0].axes == ("row", "target", 32)
    assert card.by_path["encoder.block.1"].output.leaves[0].axes == ("row", "pos", 32)


def test_jobs_of_text_and_image_share_a_forward_and_get_the_numbers_of_their_own(llava: Engine, build, saved):
    inputs = [mixed(1, 4), mixed(2, 4), mixed(1, 6)]
    read = [build.get("z", "lm_head:output"), build.get("v", "model.multi_modal_projector:output")]
    for one, found in zip(inputs, saved(llava, *(task(LLAVA, {"a": one}, *read) for one in inputs)), strict=True):
        torch.testing.assert_close(found["z"], llava.loaded.module(**one).logits, **CLOSE)
        assert found["v"].shape == (len(one["input_ids"]), 4, 32)


def test_jobs_of_two_texts_of_any_lengths_get_the_numbers_of_their_own(t5: Engine, build, saved, monkeypatch):
    called: list[int] = []
    plain = t5.model.forward
    monkeypatch.setattr(
        t5.model,
        "forward",
        lambda inputs, *more, **kw: (called.append(len(inputs["input_ids"])), plain(inputs, *more, **kw)),
    )
    inputs = [texts(1, 5, 3), texts(2, 5, 3), texts(1, 5, 4), texts(1, 6, 3)]
    read = build.get("z", "lm_head:output")
    found = saved(t5, *(task(T5, {"a": one}, read) for one in inputs))
    assert sorted(called) == [1, 1, 3]
    for one, own in zip(inputs, found, strict=True):
        torch.testing.assert_close(own["z"], t5.loaded.module(**one).logits, **CLOSE)


def test_two_inputs_of_one_job_may_differ_in_what_the_decoder_is_given(t5: Engine, build, saved):
    short, long = texts(1, 5, 3), texts(1, 5, 6)
    nodes = [
        build.get("h", "encoder.final_layer_norm:output", invoke="a"),
        build.set("encoder.final_layer_norm:output", "$h", invoke="b"),
        build.get("z", "lm_head:output", invoke="b"),
    ]
    found = saved(
        t5, task(T5, {"a": short, "b": {**long, "input_ids": long["input_ids"] + 1}}, *nodes, saves={"z": "$z"})
    )
    torch.testing.assert_close(found["z"], t5.loaded.module(**long).logits, **CLOSE)


def test_rows_without_the_places_of_their_image_are_refused_with_the_numbers(llava: Engine, build):
    wrong = mixed(2, 4)
    wrong["input_ids"][1, 2] = 5
    [outcome] = llava.run([task(LLAVA, {"a": wrong}, build.get("z", "lm_head:output"))])
    assert isinstance(outcome.error, BadArgument)
    assert "row 1 has 66 3 times; each row has it 4 times" in str(outcome.error)


@pytest.mark.parametrize(("rows", "tokens"), [(1, 12), (3, 36)])
def test_an_image_is_priced_by_its_patches_beside_the_text(llava: Engine, build, rows: int, tokens: int):
    one = task(LLAVA, {"a": mixed(rows, 4)}, build.get("z", "lm_head:output"))
    checked = check(one.graph, llava.card, attachment={name: meta(tensor) for name, tensor in one.attachment.items()})
    assert price(checked, llava.card).tokens == tokens


def meta(tensor: torch.Tensor) -> Meta:
    return Meta(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


def test_weights_of_a_folder_are_those_that_were_saved(llava: Engine, t5: Engine, tmp_path: Path):
    for engine in (llava, t5):
        engine.loaded.module.save_pretrained(tmp_path / engine.card.id)
        again = loaded(source=f"path:{tmp_path / engine.card.id}", cache=tmp_path)
        assert again.card.inputs == engine.card.inputs
        assert torch.equal(again.module.lm_head.weight, engine.loaded.module.lm_head.weight)


def test_a_configuration_without_a_type_or_without_an_image_is_refused(tmp_path: Path):
    with pytest.raises(LoadError, match="says a 'model_type'"):
        loaded(source="config:none", cache=tmp_path)


def loaded(*, source: str, cache: Path) -> Loaded:
    about = {"id": "again", "kind": "module", "loader": "telepatch_worker.conditional:load", "device": "cpu"}
    return load(CardFile.model_validate({**about, "source": source}), cache=cache)
