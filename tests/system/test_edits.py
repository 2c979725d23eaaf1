"""Edits through the whole service: what they give is what the same lines written out give, and what hooks give."""

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
from telepatch.model import Model
from telepatch_protocol.errors import BadArgument, NotFound, ShapeError, TelepatchError, UnknownName
from telepatch_worker.cards import read_card
from telepatch_worker.load import load

MODELS = Path(__file__).parents[2] / "models"
IDS, OTHER = [5, 9, 12, 7, 30], [5, 9, 13]
WIDTH, FEATURES = 64, 96
RANDOM = np.random.default_rng(0)


def weights(*shape: int) -> Any:
    return (RANDOM.standard_normal(shape) / 8).astype(np.float32)


SAE = {"enc": weights(WIDTH, FEATURES), "b_enc": weights(FEATURES), "dec": weights(FEATURES, WIDTH)}


@pytest.fixture(scope="module")
def lab(service_url: str) -> Iterator[Lab]:
    with telepatch.connect(service_url, progress=False) as lab:
        yield lab


@pytest.fixture
def model(lab: Lab) -> Iterator[Model]:
    """The model, and nobody's edits."""
    yield lab.model("llama-random")
    for one in lab.edits():
        one.delete()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same weights without the service."""
    torch.set_num_threads(1)
    return load(read_card(MODELS / "llama-random.toml"), cache=tmp_path_factory.mktemp("models")).module


@contextmanager
def hooked(module: torch.nn.Module, change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """A hook on what a module returns, which is told what it took as well."""
    handle = module.register_forward_hook(lambda module, given, output: change(given[0], output))
    try:
        yield
    finally:
        handle.remove()


def logits(plain: Any, ids: list[int]) -> Any:
    with torch.no_grad():
        return plain(input_ids=torch.tensor([ids]), use_cache=False).logits.numpy()


def spliced(h: Any, enc: Any, b_enc: Any, dec: Any) -> Any:
    """The reconstruction of a sparse autoencoder."""
    return (h @ enc + b_enc).relu() @ dec


def test_a_spliced_autoencoder_is_bit_for_bit_the_lines_written_out(model: Model) -> None:
    site = model.blocks[1]
    with model.edit("sae", keep_error=0.0, **SAE) as e:
        h = site.resid_post
        back = spliced(h, e.enc, e.b_enc, e.dec)
        site.resid_post = back + (h - back) * e.keep_error
    with model.trace(IDS, exact=True, edits="sae"):
        by_edit = model.unembed.output.save()
    with model.trace(IDS, exact=True):
        h = site.resid_post
        back = spliced(h, **SAE)
        site.resid_post = back + (h - back) * 0.0
        written_out = model.unembed.output.save()
    with model.trace(IDS, exact=True):
        clean = model.unembed.output.save()
    with model.trace(IDS, exact=True, edits=[("sae", {"keep_error": 1.0})]):
        with_error = model.unembed.output.save()
    assert np.array_equal(by_edit, written_out)
    assert np.abs(by_edit - clean).max() > 0.01
    np.testing.assert_allclose(with_error.numpy(), clean.numpy(), atol=1e-5)


def test_an_adapter_as_an_edit_is_what_hooks_give(model: Model, plain: Any) -> None:
    a, b = weights(4, WIDTH), weights(WIDTH, 4)
    target = model.blocks[2].mlp
    with model.edit("lora", A=..., B=..., scale=1.0) as e:
        target.output += (target.input @ e.A.mT @ e.B.mT) * e.scale

    def change(x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        return out + (x @ torch.from_numpy(a).mT @ torch.from_numpy(b).mT) * 2.0

    with model.trace(IDS, exact=True, edits=[e(A=a, B=b, scale=2.0)]):
        found = model.unembed.output.save()
    with hooked(plain.model.layers[2].mlp, change):
        wanted = logits(plain, IDS)
    assert np.array_equal(found, wanted)
    assert not np.array_equal(found, logits(plain, IDS))


def test_an_argument_is_swept_and_given_in_sessions_and_from_other_inputs(model: Model) -> None:
    with model.edit("steer", direction=..., scale=1.0, layer=1) as e:
        model.blocks[e.layer].resid_post += e.direction * e.scale
    direction = weights(WIDTH)
    steered = e(direction=direction)
    one_by_one = []
    for layer, scale in ((0, 0.5), (0, 2.0), (2, 0.5), (2, 2.0)):
        with model.trace(IDS, edits=[("steer", {"direction": direction, "scale": scale, "layer": layer})]):
            one_by_one.append(model.unembed.output[0, -1].save())
    wanted = np.stack(telepatch.gather(one_by_one)).reshape(2, 2, -1)
    with model.sweep(layer=[0, 2], scale=[0.5, 2.0]) as v:
        use = e(direction=direction, scale=v.scale, layer=v.layer)
        with model.trace(IDS, edits=[use]):
            swept = model.unembed.output[0, -1].save()
    np.testing.assert_allclose(swept.numpy(), wanted, atol=1e-5)
    with model.session():
        with model.trace(OTHER):
            other = model.blocks[0].resid_post[0, -1]
        with model.trace(IDS, edits=[("steer", {"direction": other})]):
            flowed = model.unembed.output.save()
        with model.trace(IDS):
            model.blocks[1].resid_post += other
            by_hand = model.unembed.output.save()
    np.testing.assert_allclose(flowed.numpy(), by_hand.numpy(), atol=1e-5)
    with model.edited(steered).each([IDS, OTHER]):
        rows = model.unembed.output[0, -1].save()
    for at, ids in enumerate((IDS, OTHER)):
        with model.trace(ids, edits=steered):
            alone = model.unembed.output[0, -1].save()
        np.testing.assert_allclose(rows[at], alone.numpy(), atol=1e-5)


def test_edits_of_one_site_come_in_their_order_and_before_what_the_trace_writes(model: Model) -> None:
    site = model.blocks[1].mlp
    with model.edit() as double:
        site.output *= 2
    with model.edit("one-more") as more:
        site.output += 1
    with model.trace(IDS, exact=True):
        plain = site.output.save()
    for order, wanted in (([double, more], lambda x: x * 2 + 1), ([more, "one-more", double], lambda x: (x + 2) * 2)):
        with model.trace(IDS, exact=True, edits=order):
            seen = site.output.save()
            site.output -= 3
            after = site.output.save()
        np.testing.assert_allclose(seen.numpy(), wanted(plain.numpy()), rtol=1e-6)
        assert np.array_equal(after, seen.numpy() - np.float32(3))


def test_each_input_of_a_trace_may_have_its_own_edits(model: Model) -> None:
    site = model.blocks[0]
    with model.edit("zero") as zero:
        site.resid_post = 0
    with model.trace() as t:
        with t.invoke(IDS):
            clean = site.resid_post.save()
        with t.invoke(OTHER, edits=zero):
            cut = site.resid_post.save()
    assert np.abs(clean).max() > 0
    assert not cut.numpy().any()


def test_what_earlier_jobs_saved_and_what_was_uploaded_is_used_by_reference(lab: Lab, model: Model) -> None:
    site = model.blocks[2]
    data = lab.upload(weights(3, WIDTH))
    with model.trace(OTHER):
        saved = site.resid_post[0, -1].save()
    with model.edit("mixed", extra=saved) as e:
        site.resid_post += saved + data[1] + e.extra
    assert "result" in e.document.to_json()
    with model.trace(IDS, edits="mixed"):
        found = site.resid_post.save()
    with model.trace(IDS):
        base = site.resid_post.save()
    wanted = base.numpy() + saved.numpy() + data.numpy()[1] + saved.numpy()
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-5)
    data.dataset.delete()
    with model.trace(IDS, edits="mixed"):
        lost = site.resid_post.save()
    with pytest.raises(NotFound, match="edit 'mixed' uses upload"):
        lost.numpy()


def test_edits_are_listed_replaced_and_deleted(lab: Lab, model: Model) -> None:
    with model.edit("cut", at=1) as first:
        model.blocks[first.at].resid_post = 0
    (listed,) = lab.edits()
    assert (listed.name, listed.model, listed.arguments) == ("cut", "llama-random", {"at": 1})
    with model.trace(IDS, edits=[listed(at=0)]):
        zero = model.blocks[0].resid_post.save()
    with model.edit("cut"):
        model.blocks[0].resid_post = 1
    (again,) = lab.edits()
    assert again.version != listed.version
    with model.trace(IDS, edits=["cut"]):
        ones = model.blocks[0].resid_post.save()
    assert not zero.numpy().any()
    assert (ones.numpy() == 1).all()
    first.delete()
    assert lab.edits() == []
    with pytest.raises(NotFound):
        again.delete()


@pytest.mark.parametrize(
    ("edits", "kind", "says"),
    [
        ("none-such", NotFound, "no edit 'none-such' among yours"),
        ("steer", BadArgument, "'steer' needs a value for its argument 'by'"),
        (("steer", {"by": 1, "to": 2}), UnknownName, "has no argument 'to'"),
        (("steer", {"by": [1.0] * 7}), ShapeError, r"edit 'steer', node 'n\d+' \(test_edits.py:\d+\)"),
        ("elsewhere", BadArgument, "is of model 'gpt2-random', and is applied to 'llama-random'"),
    ],
)
def test_what_cannot_be_applied_is_refused_at_the_authors_line(
    lab: Lab, model: Model, edits: Any, kind: type[TelepatchError], says: str
) -> None:
    with model.edit("steer", by=...) as e:
        model.blocks[1].resid_post += e.by
    other = lab.model("gpt2-random")
    with other.edit("elsewhere"):
        other.blocks[1].resid_post = 0
    with model.trace(IDS, edits=edits):
        lost = model.unembed.output.save()
    with pytest.raises(kind, match=says) as caught:
        lost.numpy()
    assert caught.value.file == __file__
    assert "edits=edits" in Path(__file__).read_text().splitlines()[(caught.value.line or 1) - 1]


def test_an_edit_that_the_service_refuses_is_not_stored_and_told_at_its_line(lab: Lab, model: Model) -> None:
    direction = weights(7)
    with model.trace(IDS):
        wrong = model.blocks[0].resid_post[0].save()
    with pytest.raises(TelepatchError) as caught, model.edit("wrong"):
        model.blocks[1].resid_post[:, :, :7] += direction
        model.blocks[1].resid_post[:, 0] += wrong[:, 0].reshape(5)
    assert caught.value.file == __file__
    assert lab.edits() == []


def test_the_price_of_a_scan_has_the_edits_in_it(model: Model) -> None:
    with model.edit("big") as e:
        h = model.blocks[1].resid_post
        model.blocks[1].resid_post = (h.unsqueeze(-1) * weights(1, 64)).sum(-1)
    prices = []
    for edits in (None, e):
        with model.scan(IDS, edits=edits) as s:
            model.unembed.output.save()
        prices.append(s.price.peak_bytes)
    assert prices[1] > prices[0]


def test_the_edits_of_a_generation_are_in_force_at_every_step(model: Model) -> None:
    direction = 3 * weights(WIDTH)
    with model.edit("steer", by=...) as e:
        model.blocks[1].resid_post[:, -1] += e.by
    with model.generate(IDS, max_new_tokens=4, exact=True) as plain_run:
        model.blocks[1].resid_post[:, -1].save("h")
    with model.edited(e(by=direction)).generate(IDS, max_new_tokens=4, exact=True) as by_edit:
        seen = model.blocks[1].resid_post[:, -1].save()
    with model.generate(IDS, max_new_tokens=4, exact=True) as by_hand:
        model.blocks[1].resid_post[:, -1] += direction
        wanted = model.blocks[1].resid_post[:, -1].save()
    with (
        model.generate(max_new_tokens=4, exact=True) as several,
        several.invoke(IDS, edits=("steer", {"by": direction})),
    ):
        own = model.blocks[1].resid_post[:, -1].save()
    assert seen.numpy().shape[0] == 4
    assert np.array_equal(seen, wanted)
    assert np.array_equal(own, wanted)
    assert by_edit.result == by_hand.result
    assert plain_run.result != by_hand.result


async def test_an_edit_is_stored_and_applied_in_an_asynchronous_program(service_url: str, model: Model) -> None:
    async with telepatch.connect(service_url, progress=False) as lab:
        there = lab.model("llama-random")
        async with there.edit("later", by=weights(64)) as e:
            there.blocks[1].resid_post += e.by
        async with there.trace(IDS, edits=e):
            found = there.blocks[1].resid_post.save()
        assert (await found).shape == (1, 5, WIDTH)
    assert [one.name for one in model._service().edits()] == ["later"]
