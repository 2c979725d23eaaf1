"""The client against the whole service: what a user writes, and that the numbers mean what they should."""

from __future__ import annotations

import asyncio
import inspect
import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import telepatch
from telepatch.lab import Lab
from telepatch_protocol.errors import BadArgument, DependencyFailed, IndexOutOfRange, NotFound

PROMPT = "When Mary and John went to the store"


@pytest.fixture(scope="module")
def lab(service_url: str) -> Iterator[Lab]:
    """One connection for all of them."""
    with telepatch.connect(service_url, progress=False) as lab:
        yield lab


def line() -> int:
    """The line that calls this."""
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return frame.f_back.f_lineno


def test_reads_of_two_spellings_of_one_place_are_equal_and_stacks_agree(lab: Lab) -> None:
    model = lab.model("llama-random")
    with model.trace(PROMPT):
        h = model.model.layers[3].output.save()
        r = model.blocks[3].resid_post.save()
        every = model.blocks[:].resid_post[:, :, -1].save()
        lens = model.lm_head(model.model.norm(h[:, -1])).softmax(-1).topk(5).save()
        logits = model.lm_head.output[:, -1].save()
        tokens = len(model.tokenize(PROMPT))
    assert np.array_equal(h, r)
    assert h.shape == (1, tokens, 64)
    assert np.array_equal(every[3], h[:, -1])
    assert lens.values.shape == lens.indices.shape == (1, 5)
    assert (np.diff(lens.values) <= 0).all()
    assert logits.shape == (1, model.card.vocabulary)


def test_zeroing_a_sublayer_is_what_the_residual_stream_shows(lab: Lab) -> None:
    model = lab.model("llama-random")
    with model.trace(PROMPT):
        model.model.layers[2].mlp.output[:, -1] = 0
        before = model.model.layers[2].post_attention_layernorm.input.save()
        after = model.blocks[2].resid_post.save()
    assert np.allclose(after[:, -1], before[:, -1], atol=1e-6)
    assert not np.allclose(after[:, 0], before[:, 0], atol=1e-6)


def test_a_whole_patch_makes_one_prompt_end_like_the_other(lab: Lab) -> None:
    model = lab.model("gpt2-random")
    with model.trace() as t:
        with t.invoke("Paris is nice"):
            clean = model.blocks[2].resid_post
            wanted = model.lm_head.output.save()
        with t.invoke("Tokyo is nice"):
            model.blocks[2].resid_post = clean
            patched = model.lm_head.output.save()
        with t.invoke("Tokyo is nice"):
            other = model.lm_head.output.save()
    assert np.allclose(patched, wanted, atol=1e-5)
    assert not np.allclose(other, wanted, atol=1e-3)


def test_a_value_travels_to_another_trace_before_its_own_job_has_run(lab: Lab) -> None:
    model = lab.model("gpt2-random")
    with model.trace(PROMPT):
        r = model.blocks[1].resid_post.save()
        wanted = model.lm_head.output[:, -1].save()
    with model.trace(PROMPT):
        model.blocks[1].resid_post[:, -1] += 1.0 * r[:, -1]
        moved = model.lm_head.output[:, -1].save()
    with model.trace(PROMPT):
        model.blocks[1].resid_post[:] = r
        same = model.lm_head.output[:, -1].save()
    assert np.allclose(same, wanted, atol=1e-5)
    assert not np.allclose(moved, wanted, atol=1e-4)


def test_a_naive_loop_of_traces_gives_what_each_alone_gives(lab: Lab) -> None:
    model = lab.model("gpt2-random")
    kept = []
    for layer in range(4):
        for position in (0, 3, -1):
            with model.trace(PROMPT):
                model.blocks[layer].resid_post[:, position] = 0
                kept.append(model.lm_head.output[:, -1].save())
    together = telepatch.gather(kept)
    with model.trace(PROMPT, exact=True):
        model.blocks[3].resid_post[:, -1] = 0
        alone = model.lm_head.output[:, -1].save()
    assert len(together) == 12
    assert np.allclose(together[-1], alone, atol=1e-5)
    assert not np.allclose(together[0], together[1], atol=1e-5)


def test_arrays_are_sent_along(lab: Lab) -> None:
    model = lab.model("gpt2-random")
    direction = np.linspace(-1, 1, 48)
    with model.trace(PROMPT):
        before = model.blocks[1].resid_post[:, -1].save()
        model.blocks[1].resid_post[:, -1] += direction
        after = model.blocks[1].resid_post[:, -1].save()
        score = (after @ direction).save()
    assert np.allclose(after - before.numpy(), direction.astype(np.float32), atol=1e-5)
    assert np.allclose(score, after @ direction, atol=1e-4)


def test_rows_ids_and_text_are_the_same_input(lab: Lab) -> None:
    model = lab.model("gpt2-random")
    ids = list(model.tokenize("abcd").ids)
    with model.trace("abcd"):
        text = model.lm_head.output.save()
    with model.trace(np.array(ids)):
        array = model.lm_head.output.save()
    with model.trace(["abcd", "wxyz"]):
        rows = model.lm_head.output.save()
    assert np.allclose(text, array, atol=1e-5)
    assert rows.numpy().shape[0] == 2
    assert np.allclose(rows[:1], text, atol=1e-5)
    assert model.decode(ids) == "abcd"


def test_an_index_past_the_end_of_a_prompt_is_refused_at_its_line(lab: Lab) -> None:
    model = lab.model("gpt2-random")
    with model.trace("short"):
        value = model.lm_head.output[:, 40].save()
        where = line() - 1
    with model.trace("other"):
        child = (model.lm_head.output[:, -1] + value).save()
    with pytest.raises(IndexOutOfRange) as caught:
        value.numpy()
    assert (caught.value.file, caught.value.line) == (__file__, where)
    with pytest.raises(DependencyFailed):
        child.numpy()


def test_an_encoder_with_children_called_output(lab: Lab) -> None:
    model = lab.model("bert-random")
    layer = model.encoder.layer[1]
    with model.trace("hello there"):
        inner = layer["output"].output.save()
        outer = layer.output.save()
        with pytest.raises(BadArgument, match="outputs"):
            layer.attention.output[0]
        layer.attention.outputs[0].save()
    assert np.allclose(inner, outer, atol=1e-6)


def test_the_exported_graph_is_run_by_any_http_client(lab: Lab, service_url: str) -> None:
    model = lab.model("gpt2-random")
    with model.trace("hello") as t:
        logits = model.lm_head.output[:, -1].save("logits")
    request = urllib.request.Request(
        f"{service_url}/v1/jobs?wait=30", t.graph.to_json().encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=40) as answer:
        (job,) = json.load(answer)["jobs"]
    assert np.allclose(job["values"]["logits"]["values"], logits, atol=1e-5)
    assert np.allclose(lab.result(job["id"], "logits"), logits, atol=1e-5)


async def test_asynchronous_programs_work_too(service_url: str) -> None:
    async with telepatch.connect(service_url, progress=False) as lab:
        model = lab.model("gpt2-random")

        async def last(prompt: str) -> np.ndarray[Any, Any]:
            async with model.trace(prompt):
                value = model.lm_head.output[:, -1].save()
            return (await value).numpy()

        found = await asyncio.gather(*(last(f"prompt {at}") for at in range(8)))
    assert len({array.tobytes() for array in found}) == 8


def test_large_results_come_as_they_are(lab: Lab) -> None:
    model = lab.model("gpt2-random")
    ids = np.arange(200) % 256
    with model.trace(ids):
        every = model.blocks[:].resid_post.save()
        logits = model.lm_head.output.save()
    arrays = telepatch.gather([every, logits])
    assert arrays[0].shape == (4, 1, 200, 48)
    assert arrays[1].shape == (1, 200, 257)
    assert np.isfinite(arrays[1]).all()


def test_models_and_unknown_names(lab: Lab) -> None:
    assert {"gpt2-random", "llama-random"} <= {model["id"] for model in lab.models()}
    with pytest.raises(NotFound, match="gpt2-random"):
        lab.model("gpt3")
    model = lab.model("gpt2-random")
    with pytest.raises(BadArgument, match="tokens"):
        model.token(" Mary")
    assert model.token("M") == ord("M")


def test_attention_rebuilt_from_its_projections_is_the_models_own(lab: Lab) -> None:
    model = lab.model("gpt2-random")
    attn = model.transformer.h[1].attn
    heads, width = 4, 12
    with model.trace(PROMPT):
        query, key, value = (
            part.unflatten(-1, (heads, width)).transpose(1, 2) for part in attn.c_attn.output.split(48, dim=-1)
        )
        scores = query @ key.transpose(-1, -2) / width**0.5
        at = telepatch.arange(scores.shape[-1])
        hidden = ~(at[:, None] >= at)
        pattern = scores.masked_fill(hidden, -np.inf).softmax(-1)
        rebuilt = (pattern @ value).transpose(1, 2).flatten(2).save()
        own = attn.c_proj.input.save()
    assert np.allclose(rebuilt, own, atol=1e-5)


def test_a_failure_on_the_worker_is_told_when_nobody_looks(service_url: str, caplog: pytest.LogCaptureFixture) -> None:
    lab = telepatch.connect(service_url, progress=False)
    model = lab.model("gpt2-random")
    with model.trace("abc"):
        square = model.blocks[0].resid_post[0, :2, :2] * 0
        where = line() + 1
        telepatch.solve(square, square).save()
    with caplog.at_level("WARNING", "telepatch"):
        lab.close()
    assert "singular" in caplog.text
    assert f"{__file__}:{where}" in caplog.text


def test_numpys_functions_mean_in_a_block_what_they_mean_outside(lab: Lab) -> None:
    def computed(h: Any) -> dict[str, Any]:
        return {
            "std": np.std(h, axis=-1),
            "var": np.var(h, axis=-1, ddof=1),
            "sort": np.sort(h, axis=-1),
            "repeat": np.repeat(h[0, 0], 2),
            "flip": np.flip(h, axis=1),
            "norm": np.linalg.norm(h, axis=-1),
            "mean": np.mean(h, axis=(0, 1)),
        }

    model = lab.model("gpt2-random")
    with model.trace(PROMPT):
        h = model.blocks[1].resid_post.save()
        inside = {name: value.save() for name, value in computed(h).items()}
    outside = computed(h.numpy())
    for name, value in telepatch.gather(inside).items():
        assert np.allclose(value, outside[name], atol=1e-5), name
