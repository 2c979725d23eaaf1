"""Images, a module of one's own and an encoder through the same client: the numbers of plain PyTorch, in company."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from tests.worker.named_graphs import hooked

import telepatch
from telepatch.lab import Lab
from telepatch_protocol.errors import ShapeError
from telepatch_worker.load import Loaded, load

MODELS = Path(__file__).parents[2] / "models"
DIGITS = load_file(MODELS / "digits.safetensors")
Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def lab(service_url: str) -> Iterator[Lab]:
    with telepatch.connect(service_url, progress=False) as lab:
        yield lab


@cache
def local(name: str) -> Loaded:
    """The same weights here, without any service."""
    return load(MODELS / f"{name}.toml", cache=Path("unused"))


def seen(name: str, inputs: dict[str, Any], *reads: str, **writes: Any) -> list[Array]:
    """What hooks see here at modules' outputs."""
    given = {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in inputs.items()}
    found = hooked(local(name).module, given, list(reads), writes.get("writes", {}))
    return [found[path].numpy() for path in reads]


def normal(images: Array) -> Array:
    return (images.astype(np.float32) / 255 - 0.5) / 0.5


def images(start: int, count: int) -> Array:
    return DIGITS["images"][start : start + count]


def test_a_vit_reads_digits_and_its_stream_is_that_of_hooks_while_strangers_ask_too(lab: Lab) -> None:
    vit = lab.model("vit-digits")
    asked = []
    for start, count in ((0, 9), (9, 1), (10, 30)):
        with vit.trace(images=images(start, count)):
            stream = vit.blocks[:].resid_post.save()
            scores = vit.head.output.save()
            best = scores.argmax(-1).save()
        asked.append((start, count, stream, scores, best))
    for start, count, stream, scores, best in asked:
        *layers, logits = seen(
            "vit-digits",
            {"pixel_values": normal(images(start, count))},
            *(f"vit.layers.{at}" for at in range(4)),
            "classifier",
        )
        assert np.allclose(stream, np.stack(layers), atol=2e-5)
        assert np.allclose(scores, logits, atol=2e-5)
        assert (np.asarray(best) == DIGITS["labels"][start : start + count]).mean() > 0.9


def test_knocking_out_one_patch_of_an_image_is_what_hooks_do(lab: Lab) -> None:
    vit = lab.model("vit-digits")
    with vit.trace(images=images(3, 2)):
        vit.blocks[1].attn.output[:, 5] = 0
        vit.blocks[2].mlp.output[0, 1:4] += 0.5
        scores = vit.head.output.save()

    def attention(out: torch.Tensor) -> torch.Tensor:
        out[:, 5] = 0
        return out

    def mlp(out: torch.Tensor) -> torch.Tensor:
        out[0, 1:4] += 0.5
        return out

    writes = {"vit.layers.1.attention": attention, "vit.layers.2.mlp": mlp}
    (wanted,) = seen("vit-digits", {"pixel_values": normal(images(3, 2))}, "classifier", writes=writes)
    assert np.allclose(scores, wanted, atol=2e-5)


def test_one_image_is_patched_with_the_stream_of_another(lab: Lab) -> None:
    vit = lab.model("vit-digits")
    with vit.trace() as t:
        with t.invoke(images=images(0, 1)):
            clean = vit.blocks[2].resid_post
            wanted = vit.head.output.save()
        with t.invoke(images=images(1, 1)):
            vit.blocks[2].resid_post = clean
            patched = vit.head.output.save()
    assert np.allclose(patched, wanted, atol=1e-5)


def test_a_perceptron_is_ablated_unit_by_unit(lab: Lab) -> None:
    mlp = lab.model("mlp-digits")
    pixels = images(0, 40).reshape(40, 64) / 255.0
    saved = []
    for unit in range(6):
        with mlp.trace(pixels):
            mlp.blocks[0].act.output[:, unit] = 0
            saved.append(mlp.head.output.save())
    for unit, scores in enumerate(saved):

        def zeroed(out: torch.Tensor, unit: int = unit) -> torch.Tensor:
            out[:, unit] = 0
            return out

        given = {"x": pixels.astype(np.float32)}
        (wanted,) = seen("mlp-digits", given, "head", writes={"blocks.0.act": zeroed})
        assert np.allclose(scores, wanted, atol=2e-5)


def test_a_value_that_was_computed_goes_in_by_writing_the_input(lab: Lab) -> None:
    vit = lab.model("vit-digits")
    with vit.trace() as t:
        with t.invoke(images=images(0, 2)):
            first = vit.input
        with t.invoke(images=images(2, 2)):
            vit.input = 0.25 * first + 0.75 * vit.input
            scores = vit.head.output.save()
    mixed = 0.25 * normal(images(0, 2)) + 0.75 * normal(images(2, 2))
    (wanted,) = seen("vit-digits", {"pixel_values": mixed}, "classifier")
    assert np.allclose(scores, wanted, atol=2e-5)


def test_a_saved_value_is_the_input_of_another_trace(lab: Lab) -> None:
    vit, mlp = lab.model("vit-digits"), lab.model("mlp-digits")
    with vit.trace(images=images(0, 3)):
        pixels = ((vit.input + 1) / 2).flatten(1).save()
    with mlp.trace(inputs={"x": pixels}):
        scores = mlp.head.output.save()
    with mlp.trace(inputs={"x": pixels[1:]}):
        rest = mlp.head.output.save()
    (wanted,) = seen("mlp-digits", {"x": images(0, 3).reshape(3, 64).astype(np.float32) / 255}, "head")
    assert np.allclose(scores, wanted, atol=1e-5)
    assert np.allclose(rest, wanted[1:], atol=1e-5)


def test_sentences_of_all_lengths_are_pooled_by_a_plain_mean(lab: Lab) -> None:
    """A read never holds padding, so that no mask is needed, whoever else is in the batch."""
    bert = lab.model("bert-random")
    texts = ["A cat.", "A kitten is resting on a rug, and it is asleep.", "Stocks fell."]
    with bert.trace() as t:
        pooled = []
        for text in texts:
            with t.invoke(text):
                pooled.append(bert.blocks[3].resid_post.mean(1))
        vectors = telepatch.cat(pooled)
        vectors = (vectors / vectors.norm(dim=-1, keepdim=True)).save()
        alike = (vectors @ vectors.mT).save()
    strangers = []
    for text in texts[::-1]:
        with bert.trace(text):
            strangers.append(bert.blocks[3].resid_post.mean(1).save())
    wanted = []
    for text in texts:
        (states,) = seen(
            "bert-random",
            {"input_ids": np.frombuffer(text.encode(), np.uint8)[None].astype(np.int64)},
            "encoder.layer.3",
        )
        wanted.append(states.mean(1))
    stacked = np.concatenate(wanted)
    unit = stacked / np.linalg.norm(stacked, axis=-1, keepdims=True)
    assert np.allclose(vectors, unit, atol=1e-5)
    assert np.allclose(alike, unit @ unit.T, atol=1e-5)
    assert all(np.allclose(found, one, atol=1e-5) for found, one in zip(strangers, wanted[::-1], strict=True))


def test_which_images_are_associated_is_tested_at_all_layers_by_permutation(lab: Lab) -> None:
    """The embedding association test: do images of 0 go with 6, and of 1 with 7, more than the other way round?"""
    vit, n, draws = lab.model("vit-digits"), 8, 999
    x, y, a, b = (DIGITS["images"][DIGITS["labels"] == digit][:n] for digit in (0, 1, 6, 7))
    with vit.trace() as t:
        parts = []
        for group in (x, y, a, b):
            with t.invoke(images=group):
                parts.append(vit.blocks[:].resid_post[:, :, 1:].mean(2))
        e = telepatch.cat(parts, 1)
        e = e / e.norm(dim=-1, keepdim=True)
        s = (e[:, : 2 * n] @ e[:, 2 * n : 3 * n].mT).mean(-1) - (e[:, : 2 * n] @ e[:, 3 * n :].mT).mean(-1)
        effect = ((s[:, :n].mean(1) - s[:, n:].mean(1)) / s.std(1, correction=1)).save()
        perm = telepatch.rand(draws, 2 * n, key=0).argsort(-1)[:, :n].save()
        p = (((s[:, perm].sum(-1) >= s[:, :n].sum(1, keepdim=True)).sum(1) + 1) / (draws + 1)).save()
    streams = [
        np.stack(seen("vit-digits", {"pixel_values": normal(group)}, *(f"vit.layers.{at}" for at in range(4))))
        for group in (x, y, a, b)
    ]
    local_e = np.concatenate([stream[:, :, 1:].mean(2) for stream in streams], 1)
    local_e /= np.linalg.norm(local_e, axis=-1, keepdims=True)
    sims = local_e[:, : 2 * n] @ local_e[:, 2 * n :].transpose(0, 2, 1)
    local_s = sims[:, :, :n].mean(-1) - sims[:, :, n:].mean(-1)
    wanted = (local_s[:, :n].mean(1) - local_s[:, n:].mean(1)) / local_s.std(1, ddof=1)
    assert np.allclose(effect, wanted, atol=1e-4)
    drawn = local_s[:, np.asarray(perm)].sum(-1)
    counts = (drawn >= local_s[:, :n].sum(1, keepdims=True)).sum(1)
    assert np.allclose(p, (counts + 1) / (draws + 1), atol=2 / (draws + 1))
    assert (np.asarray(p) < 0.05).any()


def test_images_by_hand_over_http(service_url: str) -> None:
    document = {
        "protocol": [1, 0],
        "model": {"id": "mlp-digits"},
        "runs": [{"id": "r", "invokes": [{"id": "a", "inputs": {"x": "$pixels"}}]}],
        "nodes": [{"kind": "get", "id": "z", "site": "head:output", "invoke": "a"}],
        "saves": {"z": "$z"},
        "constants": {"pixels": [[0.5] * 64, [0] * 64]},
    }

    def post(document: dict[str, Any]) -> dict[str, Any]:
        url, kind = f"{service_url}/v1/jobs?wait=30", {"content-type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(url, json.dumps(document).encode(), kind)) as answer:
            return dict(json.load(answer))

    (job,) = post(document)["jobs"]
    (wanted,) = seen("mlp-digits", {"x": np.stack([np.full(64, 0.5), np.zeros(64)]).astype(np.float32)}, "head")
    assert np.allclose(job["values"]["z"]["values"], wanted, atol=1e-5)
    with pytest.raises(urllib.error.HTTPError) as refused:
        post({**document, "constants": {"pixels": [[0.5] * 63]}})
    said = json.load(refused.value)
    assert refused.value.code == 422
    assert "has shape (rows, 64), found (1, 63)" in said["detail"]
    with pytest.raises(urllib.error.HTTPError) as refused:
        post({**document, "model": {"id": "vit-digits"}, "runs": [{"id": "r", "invokes": [{"id": "a", "text": "x"}]}]})
    assert "gives text; model 'vit-digits' takes pixel_values" in json.load(refused.value)["detail"]


def test_images_of_another_size_are_refused_at_the_authors_line(lab: Lab) -> None:
    vit = lab.model("vit-digits")
    says = r"test_beyond_language.*\(rows, 1, 8, 8\), found \(2, 1, 9, 8\)"
    with pytest.raises(ShapeError, match=says), vit.trace(images=np.zeros((2, 1, 9, 8), np.uint8)):
        vit.head.output.save()
