"""When a row ends."""

from __future__ import annotations

import pytest
from transformers import GPT2LMHeadModel

from telepatch_protocol.errors import BadArgument
from telepatch_worker.byte_tokenizer import byte_tokenizer
from telepatch_worker.stopping import Ending, Stopper, eos_of


def stopper(most=10, eos=(9,), positions=10_000, **more):
    return Stopper(Ending(most, **more), eos, byte_tokenizer(1000), positions)


def test_a_row_ends_for_the_first_reason_that_holds():
    assert stopper()([1, 2]) is None
    assert stopper()([1, 9]) == "eos"
    assert stopper(eos=())([1, 9]) is None
    assert stopper(tokens=(9,))([9]) == "stop"
    assert Stopper(Ending(10, eos=(4,)), (9,), None, 100)([9]) is None
    assert stopper(2)([1, 2]) == "length"
    assert stopper(positions=2)([1, 2]) == "positions"


def test_a_text_counts_when_it_is_complete_however_long_the_row_is():
    written = list(b"x" * 500 + "né.".encode())
    stop = stopper(10_000, texts=("né.",))
    assert [length for length in range(1, len(written) + 1) if stop(written[:length])] == [len(written)]


def test_only_the_generated_text_counts():
    assert stopper(texts=("ab",))(list(b"b")) is None


@pytest.mark.parametrize(
    ("settings", "said"), [({"max_new_tokens": 0}, "max_new_tokens is 0"), ({"texts": ("",)}, "empty")]
)
def test_settings_that_cannot_work_are_refused(settings, said):
    with pytest.raises(BadArgument, match=said):
        Ending(**{"max_new_tokens": 1, **settings})


def test_a_stop_text_needs_a_tokenizer():
    with pytest.raises(BadArgument, match="no tokenizer, so it cannot look for 'a'"):
        Stopper(Ending(3, texts=("a",)), (), None, 100)


def test_the_models_last_tokens_come_from_its_generation_config_first(gpt2):
    module = gpt2.loaded.module
    assert eos_of(module) == (256,)
    other = GPT2LMHeadModel(module.config)
    other.generation_config.eos_token_id = [3, 4]
    assert eos_of(other) == (3, 4)
    other.generation_config.eos_token_id = None
    assert eos_of(other) == (256,)
