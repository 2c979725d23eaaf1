"""How the next token is chosen."""

from __future__ import annotations

import pytest
import torch

from telepatch_protocol.errors import BadArgument
from telepatch_worker.sampling import Sampler, Sampling

LOGITS = torch.tensor([[0.0, 3.0, 1.0, 2.0]])
PROMPT = torch.tensor([[1]])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"top_k": 0}, "top_k is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"min_p": 1.1}, "min_p is 1.1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0"),
        ({"no_repeat_ngram_size": 0}, "no_repeat_ngram_size is 0"),
        ({"min_new_tokens": -1}, "min_new_tokens is -1"),
    ],
)
def test_settings_that_cannot_work_are_refused_with_what_would(settings, said):
    with pytest.raises(BadArgument, match=rf"{said};.* works"):
        Sampling(**settings)


def drawn(**settings):
    sampler = Sampler(Sampling(**settings), PROMPT)
    return {int(sampler(LOGITS)[0]) for _ in range(200)}


def test_top_k_and_top_p_leave_only_the_likeliest():
    assert drawn(temperature=5.0, seed=1) == {0, 1, 2, 3}
    assert drawn(temperature=5.0, seed=1, top_k=2) == {1, 3}
    assert drawn(temperature=1.0, seed=1, top_p=0.5) == {1}
    assert drawn(temperature=1.0, seed=1, min_p=0.3) == {1, 3}


def test_without_a_seed_one_is_drawn_and_named_and_gives_the_same_again():
    first, second = (Sampler(Sampling(temperature=1.0), PROMPT) for _ in range(2))
    assert first.seed != second.seed
    again = Sampler(Sampling(temperature=1.0, seed=first.seed), PROMPT)
    assert [int(first(LOGITS)) for _ in range(20)] == [int(again(LOGITS)) for _ in range(20)]


def test_the_logits_are_left_as_they_are_and_the_global_generator_too():
    logits, before = LOGITS.clone(), torch.get_rng_state()
    Sampler(Sampling(temperature=0.5, top_k=2, repetition_penalty=2.0), PROMPT)(logits)
    assert torch.equal(logits, LOGITS)
    assert torch.equal(before, torch.get_rng_state())


def test_logits_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        Sampler(Sampling(temperature=1.0), PROMPT)(torch.full((1, 4), float("nan")))


def test_what_a_row_goes_on_with_is_what_it_does_not_repeat():
    sampler = Sampler(Sampling(no_repeat_ngram_size=1), PROMPT)
    assert int(sampler(LOGITS)) == 3
    sampler.saw(torch.tensor([2]))  # its owner took another one
    assert int(sampler(LOGITS)) == 3
    sampler.saw(torch.tensor([3]))
    assert int(sampler(LOGITS)) == 0
