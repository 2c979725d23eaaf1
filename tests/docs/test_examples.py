"""The examples under docs/examples give the numbers of the same experiments written out in plain PyTorch."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parent))

from experiments import BAD, CLEAN, OTHERS, RIGHT, WRONG, as_heads, by_hand, close, difference, example, put, table
from written_out import Plain, Tap, at, untouched

from telepatch.lab import Lab
from telepatch.model import Model


@torch.no_grad()
def test_the_patching_grid(pair: tuple[Model, Plain]) -> None:
    model, plain = pair
    blocks, positions = range(plain.layers), len(BAD)
    grid, low, high = example("patching_grid").patching_grid(model, CLEAN, BAD, blocks, positions, RIGHT, WRONG)
    clean = plain.seen(CLEAN, "resid_post")

    def cell(layer: int, pos: int) -> Tensor:
        return difference(plain, BAD, at("resid_post", [layer], put((0, pos), clean[layer][0, pos])))

    close(grid, table(blocks, range(positions), cell))
    close(low, difference(plain, BAD))
    close(high, difference(plain, CLEAN))


@torch.no_grad()
def test_path_patching(pair: tuple[Model, Plain]) -> None:
    model, plain = pair
    layer, head = plain.layers - 1, 2
    found = example("path_patching").path_patching(
        model, CLEAN, BAD, range(layer), range(plain.heads), layer, head, RIGHT, WRONG
    )
    z, mlp, other = plain.seen(CLEAN, "z"), plain.seen(CLEAN, "mlp_out"), plain.seen(BAD, "z")

    def cell(sender: int, h: int) -> Tensor:
        def frozen(at: int, name: str, value: Tensor) -> Tensor:
            value = {"z": z, "mlp_out": mlp}[name][at].clone() if name in ("z", "mlp_out") else value
            if name == "z" and at == sender:
                value[0, :, h] = as_heads(other[at], plain)[0, :, h]
            return value

        queries = plain.seen(CLEAN, "q", frozen)[layer][:, :, head]
        changed = difference(plain, CLEAN, at("q", [layer], put((slice(None), slice(None), head), queries)))
        return changed - difference(plain, CLEAN)

    close(found, table(range(layer), range(plain.heads), cell), 1e-3)


def gradients(plain: Plain, ids: Sequence[int], port: str) -> tuple[list[Tensor], list[Tensor]]:
    """Values of a port in every block, and the gradients of the difference there."""
    leaves: list[Tensor] = []

    def tap(layer: int, name: str, value: Tensor) -> Tensor:
        if name != port:
            return value
        leaves.append(value if value.requires_grad else value.requires_grad_())
        return leaves[-1]

    found = difference(plain, ids, tap)
    return leaves, list(torch.autograd.grad(found, leaves))


def test_attribution_patching(pair: tuple[Model, Plain]) -> None:
    model, plain = pair
    found = example("attribution").attribution_patching(model, CLEAN, BAD, RIGHT, WRONG)
    there, slopes = gradients(plain, BAD, "z")
    clean = plain.seen(CLEAN, "z")
    parts = [(c - t) * g for c, t, g in zip(clean, there, slopes, strict=True)]
    close(found, torch.stack([as_heads(part, plain).sum((0, 1, 3)) for part in parts]))


def test_integrated_gradients_are_those_of_autograd_and_add_up(pair: tuple[Model, Plain]) -> None:
    model, plain = pair
    found, whole = example("attribution").integrated_gradients(model, CLEAN, BAD, 40, RIGHT, WRONG)
    start, end = plain.embedded(BAD), plain.embedded(CLEAN)
    total = torch.zeros_like(start)
    for step in range(40):
        x = (start + (step + 0.5) / 40 * (end - start)).requires_grad_()
        total += torch.autograd.grad(difference(plain, CLEAN, embedded=x), x)[0] / 40
    close(found, ((end - start) * total).sum(-1)[0])
    assert float(whole) == pytest.approx(found.numpy().sum(), rel=0.02, abs=0.01)


@torch.no_grad()
@pytest.mark.parametrize("threshold", [-100.0, 0.15, 1e9], ids=["at once", "some day", "never"])
def test_steering_that_begins_when_a_probe_fires(pair: tuple[Model, Plain], threshold: float) -> None:
    model, plain = pair
    early, late, most, after = 1, 2, 12, 4
    draw = torch.Generator().manual_seed(3)
    probe, vector = torch.randn(plain.width, generator=draw), 2 * torch.randn(plain.width, generator=draw)
    probe /= probe.norm()
    ids, steered, scores = list(CLEAN), list[int](), list[Tensor]()
    fired, since = False, 0
    for _ in range(most):
        if fired:
            steered.append(len(ids) - 1)  # earlier positions keep what was written when they were made

        def change(layer: int, x: Tensor) -> Tensor:
            if layer == early:
                x[0, steered] += vector
            else:
                scores.append(x[0, -1] @ probe / x[0, -1].norm())
            return x

        ids.append(int(plain.logits(ids, at("resid_post", [early, late], change))[-1].argmax()))
        fired = fired or bool(scores[-1] > threshold)
        since += fired
        if since > after:
            break
    t, found = example("conditional_steering").conditional_steering(
        model, CLEAN, early, late, probe.numpy(), threshold, vector.numpy(), most, after
    )
    assert [event.token for event in t.stream()] == ids[len(CLEAN) :]
    close(found, torch.stack(scores)[:, None], 1e-3)
    assert len(steered) == {-100.0: after, 1e9: 0}.get(threshold, len(steered))


@torch.no_grad()
def test_the_lens_with_probes_and_without(pair: tuple[Model, Plain]) -> None:
    model, plain = pair
    blocks, draw = [0, 2], torch.Generator().manual_seed(0)
    probes = torch.randn(2, plain.width, plain.width, generator=draw) / 50, torch.randn(2, plain.width, generator=draw)
    stream = torch.stack([plain.seen(CLEAN, "resid_post")[layer][0] for layer in blocks])
    final = plain.logits(CLEAN).log_softmax(-1)
    for given, h in ((None, stream), (probes, stream + stream @ probes[0] + probes[1][:, None])):
        with model.trace(CLEAN):
            p, far = example("tuned_lens").lens(model, blocks, given and [one.numpy() for one in given])
            p.save()
            far.save()
        wanted = plain.unembedded(h).log_softmax(-1)
        close(p, wanted)
        close(far, functional.kl_div(wanted, final.expand_as(p), reduction="none", log_target=True).sum(-1))


@torch.no_grad()
@pytest.mark.slow
def test_the_class_means_of_a_thousand_prompts(lab: Lab) -> None:
    model, plain = lab.model("llama-random"), by_hand("llama-random")
    texts, labels = example("class_means").prompts(1000)
    assert len({len(text) for text in texts}) > 40
    means, count = example("class_means").class_means(model, texts, labels, 4)
    wanted = torch.zeros(4, plain.layers, plain.width)
    for text, label in zip(texts, labels, strict=True):
        wanted[label] += torch.stack([one[0, -1] for one in plain.seen(list(text.encode()), "resid_post")])
    assert count.tolist() == [250] * 4
    close(means, wanted / 250)


@torch.no_grad()
def test_the_spliced_autoencoder(pair: tuple[Model, Plain]) -> None:
    model, plain = pair
    draw = torch.Generator().manual_seed(0)
    sae = {
        "We": torch.randn(plain.width, 96, generator=draw) / 8,
        "Wd": torch.randn(96, plain.width, generator=draw) / 8,
        "be": torch.randn(96, generator=draw) / 8,
        "bd": torch.randn(plain.width, generator=draw) / 8,
    }
    found = example("sae_splice").sae_splice(model, [CLEAN, *OTHERS[2:]], {k: v.numpy() for k, v in sae.items()}, 1)

    def features(x: Tensor) -> Tensor:
        return ((x - sae["bd"]) @ sae["We"] + sae["be"]).relu()

    def spliced(layer: int, x: Tensor) -> Tensor:
        return features(x) @ sae["Wd"] + sae["bd"]

    taps = untouched, at("resid_post", [1], spliced), untouched, at("resid_post", [1], lambda layer, x: x * 0)
    rows = [CLEAN, *OTHERS[2:]]
    for mean, tap in zip(found, taps, strict=False):
        losses = [functional.cross_entropy(plain.logits(ids, tap)[:-1], torch.tensor(ids[1:])) for ids in rows]
        close(mean, torch.stack(losses).mean())
    active = [(features(plain.seen(ids, "resid_post")[1]) > 0).sum(-1).float().mean() for ids in rows]
    close(found[4], torch.stack(active).mean())


@torch.no_grad()
def test_resampling_ablation(pair: tuple[Model, Plain]) -> None:
    model, plain = pair
    blocks = [0, 2]
    found, whole = example("resampling_ablation").resampling_ablation(model, CLEAN, OTHERS, blocks, RIGHT, WRONG)
    donated = [[one[0, -1] for one in plain.seen(ids, "mlp_out")] for ids in OTHERS]

    def cell(layer: int, donor: int) -> Tensor:
        return difference(plain, CLEAN, at("mlp_out", [layer], put((0, -1), donated[donor][layer])))

    close(found, table(blocks, range(len(OTHERS)), cell))
    close(whole, difference(plain, CLEAN))


@torch.no_grad()
def test_attention_knockout(pair: tuple[Model, Plain]) -> None:
    model, plain = pair
    first, edges = range(plain.layers), range(len(CLEAN) - 1)
    whole, scores, pattern = example("attention_knockout").attention_knockout(model, CLEAN, first, 2, edges, RIGHT)

    def log_chance(tap: Tap) -> Tensor:
        return plain.logits(CLEAN, tap)[-1].log_softmax(-1)[RIGHT]

    for found, port, value in ((scores, "scores", -float("inf")), (pattern, "pattern", 0.0)):

        def cell(start: int, edge: int, port: str = port, value: float = value) -> Tensor:
            place = (slice(None), slice(None), -1, edge)
            return log_chance(at(port, range(start, start + 2), put(place, torch.tensor(value))))

        close(found, table(first, edges, cell))
    close(whole, log_chance(untouched))


@torch.no_grad()
def test_head_ablation(pair: tuple[Model, Plain]) -> None:
    model, plain = pair
    blocks, heads = [1, 3], range(plain.heads)
    worth = example("head_ablation").head_ablation(model, CLEAN, OTHERS, blocks, heads, RIGHT, WRONG)
    means = torch.stack(
        [torch.stack([as_heads(z, plain)[0, -1] for z in plain.seen(ids, "z")]) for ids in OTHERS]
    ).mean(0)

    def cell(layer: int, head: int) -> Tensor:
        return difference(plain, CLEAN) - difference(
            plain, CLEAN, at("z", [layer], put((0, -1, head), means[layer, head]))
        )

    close(worth, table(blocks, heads, cell), 1e-3)
