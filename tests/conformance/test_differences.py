"""Where the two mean different things, each does what docs/nnsight.md says of it."""

from __future__ import annotations

import nnsight as nn
import numpy as np
import pytest
import torch
from nnsight.intervention.interleaver import OutOfOrderError
from table import GPT2

from telepatch_protocol.errors import BadArgument, CausalLoop, TraceError

PROMPT, OTHER = "Paris is the capital of", "Rome is the capital of Italy, and"


@pytest.fixture
def model(twins):
    return twins.telepatch(GPT2)


@pytest.fixture
def there(twins):
    return twins.nnsight(GPT2, bare=False, eager=False)


def test_a_question_to_a_value_has_no_answer_inside_a_block(model):
    with pytest.raises(TraceError, match="where"), model.trace(PROMPT):
        if model.transformer.h[1].output.norm() > 1:
            model.transformer.h[2].output[:] = 0


def test_an_item_of_a_tuple_is_asked_for_as_such(model):
    with pytest.raises(BadArgument, match=r"outputs\[0\]"), model.trace(PROMPT):
        model.transformer.h[1].attn.output[0].save()


def test_a_part_under_a_name_is_not_changed_in_place(model):
    with pytest.raises(TraceError, match="cannot be changed in place"), model.trace(PROMPT):
        part = model.transformer.h[1].output[:, -1]
        part += 1


def test_print_inside_a_block_shows_what_is_known_and_no_numbers(model, capsys):
    with model.trace(PROMPT):
        h = model.transformer.h[1].output[:, -1]
        print(h)
        h.save()
    assert "float32 (1, 48)" in capsys.readouterr().out


def test_lines_may_stand_in_any_order_here_and_not_there(model, there):
    with pytest.raises(OutOfOrderError), there.trace(PROMPT):
        nn.save(there.transformer.h[3].output)
        nn.save(there.transformer.h[0].output)
    with model.trace(PROMPT):
        late = model.transformer.h[3].output.save()
        early = model.transformer.h[0].output.save()
    assert late.numpy().shape == early.numpy().shape


def test_a_late_value_written_early_is_refused_and_a_second_invoke_is_the_remedy(model):
    with pytest.raises(CausalLoop, match="second invoke"), model.trace(PROMPT):
        model.transformer.h[0].output = model.transformer.h[3].output
        model.output.save()
    with model.trace() as t:
        with t.invoke(PROMPT):
            late = model.transformer.h[3].output
        with t.invoke(PROMPT):
            model.transformer.h[0].output = late
            logits = model.output.save()
    assert np.isfinite(logits.numpy()).all()


def test_one_invoke_may_skip_a_module_that_another_needs_here_and_not_there(model, there):
    with pytest.raises(ValueError, match="cover every row"), there.trace() as tracer:
        with tracer.invoke(PROMPT):
            there.transformer.h[1].skip(there.transformer.h[1].input)
        with tracer.invoke(PROMPT):
            nn.save(there.output.logits)
    with model.trace() as t:
        with t.invoke(PROMPT):
            model.transformer.h[1].output = model.transformer.h[1].input
            skipped = model.output.save()
        with t.invoke(PROMPT):
            plain = model.output.save()
    assert not np.allclose(skipped.numpy(), plain.numpy())


def test_values_hold_padding_there_and_never_here(model, there):
    with there.trace() as tracer:
        with tracer.invoke(PROMPT):
            padded = nn.save(there.transformer.h[1].output)
        with tracer.invoke(OTHER):
            nn.save(there.transformer.h[1].output)
    with model.trace() as t:
        with t.invoke(PROMPT):
            own = model.transformer.h[1].output.save()
        with t.invoke(OTHER):
            model.transformer.h[1].output.save()
    assert padded.shape[1] == len(OTHER)
    assert own.numpy().shape[1] == len(PROMPT)


def test_weights_are_read_and_not_written(model):
    with pytest.raises(BadArgument, match="param"), model.trace(PROMPT):
        model.transformer.h[0].mlp.c_fc.weight = torch.zeros(48, 192)
        model.output.save()
