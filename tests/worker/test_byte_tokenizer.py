"""The tokenizer with one token per byte."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer

from telepatch_worker.byte_tokenizer import END, END_ID, VOCABULARY, byte_tokenizer

TEXTS = ["When Mary and John", "", " two  spaces\n\ttab", "naïve façade – 日本 🙂", "\x00\x7f"]


@pytest.mark.parametrize("text", TEXTS)
def test_each_token_is_one_byte_and_text_comes_back(text):
    tokenizer = byte_tokenizer(64)
    ids = tokenizer(text).input_ids
    assert ids == list(text.encode())
    assert tokenizer.decode(ids) == text


def test_the_end_of_text_is_one_token_and_the_padding():
    tokenizer = byte_tokenizer(64)
    assert tokenizer(f"a{END}b").input_ids == [97, END_ID, 98]
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, len(tokenizer)) == (END_ID, END_ID, VOCABULARY)


def test_its_file_alone_gives_the_same_tokens_and_offsets():
    encoding = Tokenizer.from_str(byte_tokenizer(64).backend_tokenizer.to_str()).encode("to the store")
    assert encoding.ids == list(b"to the store")
    assert encoding.offsets[3] == (3, 4)
