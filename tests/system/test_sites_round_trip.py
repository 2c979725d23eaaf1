"""Standard ports, operations and eager attention through the whole service, as docs/sites.md shows them."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator

import numpy as np
import pytest

import telepatch
from telepatch.lab import Lab
from telepatch.model import Model
from telepatch_protocol.errors import UnknownSite

PROMPT = "When Mary and John went to the store"


@pytest.fixture(scope="module")
def lab(service_url: str) -> Iterator[Lab]:
    """One connection for all of them."""
    with telepatch.connect(service_url, progress=False) as lab:
        yield lab


@pytest.fixture(scope="module")
def model(lab: Lab) -> Model:
    return lab.model("llama-random")


def test_heads_are_read_and_written_by_their_number(model: Model) -> None:
    with model.trace(PROMPT):
        z = model.blocks[3].z.save()
        model.blocks[3].z[:, :, 5] = 0
        without = model.blocks[3].attn_out.save()
        native = model.model.layers[3].self_attn.o_proj.input.save()
        o = model.model.layers[3].self_attn.o_proj.weight.save()
    assert np.asarray(z).shape == (1, len(model.tokenize(PROMPT)), 8, 8)
    assert not native[..., 40:48].any()
    each = np.einsum("rphd,mhd->rphm", z, np.asarray(o).reshape(64, 8, 8))
    assert np.allclose(without, each.sum(2) - each[:, :, 5], atol=1e-5)


def test_what_a_head_adds_is_computed_as_the_page_says(model: Model) -> None:
    with model.trace(PROMPT):
        o = model.model.layers[3].self_attn.o_proj.weight
        out = telepatch.einsum("rphd,mhd->rphm", model.blocks[3].z, o.reshape(64, 8, 8)).save()
        whole = model.blocks[3].attn_out.save()
    assert np.allclose(np.asarray(out).sum(2), whole, atol=1e-5)


def test_a_pattern_sums_to_one_and_a_masked_score_gets_no_weight(model: Model) -> None:
    with model.trace(PROMPT):
        model.blocks[2].scores[:, 1, -1, 3] = -float("inf")
        pattern = model.blocks[2].pattern.save()
        every = model.blocks[:].pattern[:, :, :, -1].save()
    assert np.allclose(np.asarray(pattern).sum(-1), 1, atol=1e-6)
    assert pattern[0, 1, -1, 3] == 0
    assert (np.asarray(pattern)[0, 2:, -1, 3] > 0).all()
    assert every.shape[0] == 5


def test_the_job_says_that_it_ran_under_eager_attention(model: Model, lab: Lab, service_url: str) -> None:
    with model.trace(PROMPT) as t:
        model.blocks[2].pattern.save()
    lab.wait()
    with urllib.request.urlopen(f"{service_url}/v1/jobs/{t.job}", timeout=40) as answer:
        (warning,) = json.load(answer)["warnings"]
    assert "eager attention" in warning
    assert "model.layers.2.self_attn" in warning


def test_operations_are_found_by_printing_and_used_by_name(model: Model) -> None:
    shown = str(model.blocks[3].source)
    assert "hidden_states_1" in shown
    assert "hidden_states = residual + hidden_states" in shown
    with model.trace(PROMPT):
        middle = model.blocks[3].source.hidden_states_1.output.save()
        same = model.blocks[3].resid_mid.save()
        model.blocks[3].resid_mid[:, -1] = 0
        after = model.blocks[3].resid_post.save()
        mlp = model.blocks[3].mlp_out.save()
        q = model.model.layers[3].self_attn.source.apply_rotary_pos_emb_0.outputs[0].save()
        inside = model.blocks[3].attn.source.attention_interface_1.source.torch_matmul_0.output.save()
    assert np.array_equal(middle, same)
    assert np.array_equal(np.asarray(after)[:, -1], np.asarray(mlp)[:, -1])
    assert np.asarray(q).shape == (1, 8, len(model.tokenize(PROMPT)), 8)
    assert inside.shape[1] == 8


def test_an_operation_that_is_not_there_is_refused_on_the_authors_line(model: Model) -> None:
    with model.trace(PROMPT):
        with pytest.raises(UnknownSite, match="did you mean 'hidden_states_1'"):
            model.blocks[3].source.hidden_state_1  # noqa: B018
        model.blocks[3].resid_mid.save()
