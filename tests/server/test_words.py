"""Text as tokens, and back."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from telepatch_server.words import Words


def whole_words() -> bytes:
    """A tokenizer file as encoders have it: special tokens around a text, cutting and padding switched on."""
    vocabulary = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "the": 3, "cat": 4, "[UNK]": 5}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.add_special_tokens(["[PAD]", "[CLS]", "[SEP]"])
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    inner.enable_truncation(4)
    inner.enable_padding(length=9)
    return inner.to_str().encode()


def test_text_is_told_as_tokens_with_their_places(http: httpx.Client) -> None:
    [row] = http.post("/v1/tokenize", json={"model": "tiny", "text": "Aé"}).json()["rows"]
    assert row["ids"] == [65, 195, 169]
    assert row["offsets"] == [[0, 1], [1, 2], [1, 2]]
    assert row["pieces"][0] == "A"


def test_several_texts_give_several_rows(http: httpx.Client) -> None:
    rows = http.post("/v1/tokenize", json={"model": "tiny", "text": ["a", "bc"]}).json()["rows"]
    assert [row["ids"] for row in rows] == [[97], [98, 99]]
    assert http.post("/v1/tokenize", json={"model": "tiny", "text": []}).json()["rows"] == []


@pytest.mark.parametrize("ids", [[72, 105], [[72, 105]]])
def test_ids_are_told_as_text(http: httpx.Client, ids: Any) -> None:
    answer = http.post("/v1/detokenize", json={"model": "tiny", "ids": ids})
    assert answer.json() == {"rows": [{"text": "Hi", "tokens": ["H", "i"], "pieces": ["H", "i"]}]}


def test_special_tokens_are_spelled_out_or_left_out(http: httpx.Client) -> None:
    body = {"model": "tiny", "ids": [72, 256]}
    assert http.post("/v1/detokenize", json=body).json()["rows"][0]["text"] == "H<|endoftext|>"
    assert http.post("/v1/detokenize", json=body | {"special": False}).json()["rows"][0]["text"] == "H"


@pytest.mark.parametrize("ids", [[257], [-1], [2**40], [[1], [300]]])
def test_ids_that_are_no_tokens_are_refused(http: httpx.Client, ids: Any) -> None:
    answer = http.post("/v1/detokenize", json={"model": "tiny", "ids": ids})
    assert (answer.status_code, answer.json()["code"]) == (422, "bad_argument")
    assert "257" in answer.json()["detail"]


@pytest.mark.parametrize(
    "body", [{}, {"model": "tiny"}, {"model": "tiny", "text": 5}, {"model": "tiny", "text": "a", "x": 1}]
)
def test_what_is_no_text_is_refused_by_field(http: httpx.Client, body: Any) -> None:
    answer = http.post("/v1/tokenize", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "bad_argument")


def test_a_long_text_is_read_all_the_same(http: httpx.Client) -> None:
    [row] = http.post("/v1/tokenize", json={"model": "tiny", "text": "ab" * 20_000}).json()["rows"]
    assert len(row["ids"]) == 40_000


def test_special_tokens_are_added_and_nothing_is_cut_or_padded() -> None:
    words = Words(whole_words())
    assert words.ids("the cat the cat") == [1, 3, 4, 3, 4, 2]
    assert words.encode("the cat", special=False).ids == [3, 4]
