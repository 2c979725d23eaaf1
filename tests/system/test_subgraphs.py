"""Sessions, sweeps, rows, repeats, choices and gradients through the whole service, against plain PyTorch hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import telepatch
from telepatch.lab import Lab
from telepatch_worker.cards import read_card
from telepatch_worker.load import load

MODELS = Path(__file__).parents[2] / "models"
CLEAN, BAD = [5, 9, 12, 7, 30], [5, 9, 13, 7, 31]


@pytest.fixture(scope="module")
def lab(service_url: str) -> Iterator[Lab]:
    with telepatch.connect(service_url, progress=False) as lab:
        yield lab


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same weights without the service."""
    torch.set_num_threads(1)
    return load(read_card(MODELS / "llama-random.toml"), cache=tmp_path_factory.mktemp("models")).module


@contextmanager
def hooked(module: torch.nn.Module, change: Callable[[torch.Tensor], torch.Tensor | None]) -> Iterator[None]:
    """A hook on what a module returns."""

    def hook(module: torch.nn.Module, args: Any, output: Any) -> Any:
        if isinstance(output, torch.Tensor):
            return change(output)
        found = change(output[0])
        return None if found is None else (found, *output[1:])

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def logits(plain: Any, ids: list[int]) -> torch.Tensor:
    found: torch.Tensor = plain(input_ids=torch.tensor([ids]), use_cache=False).logits
    return found


def streams(plain: Any, ids: list[int]) -> list[torch.Tensor]:
    """What every block returns."""
    found: list[torch.Tensor] = []
    handles = [block.register_forward_hook(lambda m, a, out: found.append(_first(out))) for block in plain.model.layers]
    logits(plain, ids)
    for handle in handles:
        handle.remove()
    return found


def _first(output: Any) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output[0]


def close(found: Any, wanted: torch.Tensor) -> None:
    array = wanted.detach().numpy()
    np.testing.assert_allclose(found.numpy(), array, rtol=1e-4, atol=1e-5 * max(1.0, float(np.abs(array).max())))


def patched(at: int, value: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        output[:, at] = value
        return output

    return change


@torch.no_grad()
def test_a_patching_grid_is_what_hooks_give_one_by_one(lab: Lab, plain: Any) -> None:
    model = lab.model("llama-random")
    layers = len(model.blocks)
    with model.session():
        with model.trace(CLEAN):
            ref = model.blocks[:].resid_post
        with model.sweep(layer=range(layers), pos=range(len(BAD))) as v, model.trace(BAD):
            model.blocks[v.layer].resid_post[:, v.pos] = ref[v.layer][:, v.pos]
            z = model.lm_head.output[:, -1]
            grid = (z[:, 3] - z[:, 4]).save()
    clean = streams(plain, CLEAN)
    wanted = torch.zeros(layers, len(BAD), 1)
    for layer, block in enumerate(plain.model.layers):
        for pos in range(len(BAD)):
            with hooked(block, patched(pos, clean[layer][:, pos])):
                last = logits(plain, BAD)[:, -1]
            wanted[layer, pos] = last[:, 3] - last[:, 4]
    close(grid, wanted)


@torch.no_grad()
def test_rows_of_different_lengths_are_reduced_as_if_each_ran_alone(lab: Lab, plain: Any) -> None:
    model = lab.model("llama-random")
    rows = [[5], [6, 7, 8], [9, 10]]
    with model.each(rows, weight=[1.0, 2.0, 0.5]) as row:
        last = model.blocks[1].resid_post[0, -1]
        mean, total, weighted = row.mean(last).save(), row.sum(last).save(), row.weighted(last, row.weight).save()
        joined = row.cat(model.blocks[1].resid_post[0])
        joined.save()
        lengths = joined.lengths.save()
        stacked = last.save()
    alone = [streams(plain, ids)[1][0] for ids in rows]
    ends = torch.stack([one[-1] for one in alone])
    weights = torch.tensor([1.0, 2.0, 0.5])
    close(stacked, ends)
    close(mean, ends.mean(0))
    close(total, ends.sum(0))
    close(weighted, (ends * weights[:, None]).sum(0) / weights.sum())
    close(joined, torch.cat(alone))
    assert lengths.tolist() == [1, 3, 2]


@torch.no_grad()
def test_steering_swept_over_strengths_is_what_hooks_give(lab: Lab, plain: Any) -> None:
    model = lab.model("llama-random")
    vector = np.linspace(-1, 1, plain.config.hidden_size, dtype=np.float32)
    with model.sweep(scale=[0.0, 0.5, 2.0]) as v, model.trace(CLEAN):
        model.blocks[0].resid_post += v.scale * vector
        found = model.lm_head.output[0, -1].save()
    wanted = []
    for scale in (0.0, 0.5, 2.0):
        with hooked(plain.model.layers[0], lambda out, scale=scale: out + scale * torch.from_numpy(vector)):  # type: ignore[misc]
            wanted.append(logits(plain, CLEAN)[0, -1])
    close(found, torch.stack(wanted))


@torch.no_grad()
def test_a_repeat_carries_and_a_cond_chooses(lab: Lab, plain: Any) -> None:
    model = lab.model("llama-random")
    with model.trace(CLEAN):
        h = model.blocks[1].resid_post[0, -1]
        with telepatch.repeat(6, y=h) as loop:
            loop.y = loop.y * 0.5 + loop.step
            size = loop.y.norm()
        end, sizes = loop.y.save(), size.save()
        one = telepatch.cond(h.sum() > 1e9, lambda: h * 2, lambda: h - 1).save()
    y = start = streams(plain, CLEAN)[1][0, -1]
    norms = []
    for step in range(6):
        y = y * 0.5 + step
        norms.append(y.norm())
    close(end, y)
    close(sizes, torch.stack(norms))
    close(one, start - 1)


def test_gradients_and_edits_of_the_way_back_are_autograds(lab: Lab, plain: Any) -> None:
    model = lab.model("llama-random")
    with model.trace(CLEAN):
        h = model.blocks[0].resid_post
        logit = model.lm_head.output[0, -1, 3]
        free = telepatch.grad(logit, h).save()
        with logit.backward():
            model.blocks[1].mlp.output.grad *= 0
            edited = h.grad.save()
    block = plain.model.layers[1]
    for found, change in ((free, False), (edited, True)):
        kept: list[torch.Tensor] = []

        def keep(out: torch.Tensor, kept: list[torch.Tensor] = kept) -> torch.Tensor:
            kept.append(out.detach().requires_grad_())
            return kept[0]

        def cut(out: torch.Tensor, change: bool = change) -> torch.Tensor:
            return out.detach() if change else out

        with hooked(plain.model.layers[0], keep), hooked(block.mlp, cut):
            value = logits(plain, CLEAN)[0, -1, 3]
        (wanted,) = torch.autograd.grad(value, kept[0])
        close(found, wanted)


def test_integrated_gradients_add_up_to_the_difference_they_explain(lab: Lab) -> None:
    model = lab.model("llama-random")
    with model.session():
        with model.trace([1, 2, 3]):
            start, low = model.blocks[0].resid_pre, model.lm_head.output[0, -1, 5]
        with model.trace([4, 5, 6]):
            end, high = model.blocks[0].resid_pre, model.lm_head.output[0, -1, 5]
        with model.sweep(alpha=np.linspace(0.005, 0.995, 100)) as v, model.trace([4, 5, 6]):
            x = start + (end - start) * v.alpha
            model.blocks[0].resid_pre = x
            g = telepatch.grad(model.lm_head.output[0, -1, 5], x)
        total, difference = ((end - start) * v.mean(g)).sum().save(), (high - low).save()
    assert abs(float(difference)) > 0.1
    assert float(total) == pytest.approx(float(difference), rel=1e-2)


def test_nested_sweeps_and_repeats_have_their_axes_from_the_outside_in(lab: Lab) -> None:
    model = lab.model("llama-random")
    with model.session():
        with model.sweep(a=[1.0, 2.0]) as v:
            with model.sweep(b=range(3)) as w, model.trace(CLEAN):
                x = model.blocks[w.b].resid_post[0, -1] * v.a
            inner = w.mean(x)
        x.save()
        inner.save()
        with telepatch.repeat(3) as outer, telepatch.repeat(2) as loop:
            count = outer.step * 10 + loop.step
        count.save()
    assert x.shape == (2, 3, 64)
    np.testing.assert_allclose(x[1], 2 * x[0], rtol=1e-5)
    np.testing.assert_allclose(inner, x.numpy().mean(1), atol=1e-5)
    assert count.tolist() == [[0, 1], [10, 11], [20, 21]]


def test_a_repeat_goes_on_while_its_condition_holds(lab: Lab) -> None:
    model = lab.model("llama-random")
    with model.trace(CLEAN):
        with telepatch.repeat(50, y=64.0) as loop:
            loop.y = loop.y * 0.5
            loop.while_(loop.y > 1)
            steps = loop.step * 1
        end = loop.y.save()
        steps.save()
    assert float(end) == 1
    assert steps.tolist() == [0, 1, 2, 3, 4, 5]


def test_an_element_that_goes_wrong_while_it_runs_is_named_with_its_line(lab: Lab) -> None:
    model = lab.model("llama-random")
    with model.trace(CLEAN):
        row = model.blocks[0].resid_post[0, -1]
        with model.sweep(add=[0, 64, 1]) as v:
            found = row[row.argmax() * 0 + v.add].save()
    with pytest.raises(
        telepatch.ExecutionError, match=r"in element 1 of map 'n\d+' at test_subgraphs.py:\d+ \(add=64\)"
    ) as caught:
        found.numpy()
    assert [one.element for one in caught.value.within] == [1]


def test_an_element_that_cannot_run_is_named_when_its_length_is_known(lab: Lab) -> None:
    model = lab.model("llama-random")
    with model.each(["one", "a much longer text than the first"]):
        h = model.blocks[0].resid_post.save()
    with pytest.raises(telepatch.ShapeError, match="cat"):
        h.numpy()
