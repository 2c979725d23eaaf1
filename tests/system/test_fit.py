"""Training through the whole service, against the same loops in plain PyTorch on the same weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

import telepatch
from telepatch.lab import Lab
from telepatch_protocol.errors import ExecutionError
from telepatch_worker.cards import read_card
from telepatch_worker.examples import shuffled
from telepatch_worker.load import load

MODELS = Path(__file__).parents[2] / "models"
PROMPTS = [[5, 9, 12, 7, 30], [5, 9], [13, 7, 31], [8, 8, 8, 8], [40, 2, 1], [3, 4]]
LABELS = [0, 1, 1, 0, 1, 0]


@pytest.fixture(scope="module")
def lab(service_url: str) -> Iterator[Lab]:
    with telepatch.connect(service_url, progress=False) as lab:
        yield lab


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same weights without the service."""
    torch.set_num_threads(1)
    return load(read_card(MODELS / "llama-random.toml"), cache=tmp_path_factory.mktemp("models")).module


def residual(plain: Any, layer: int) -> list[torch.Tensor]:
    """What a block gives for each prompt."""
    found: list[torch.Tensor] = []

    def hook(_: Any, __: Any, output: Any) -> None:
        found.append((output if isinstance(output, torch.Tensor) else output[0])[0].detach())

    handle = plain.model.layers[layer].register_forward_hook(hook)
    try:
        with torch.no_grad():
            for ids in PROMPTS:
                plain(input_ids=torch.tensor([ids]), use_cache=False)
    finally:
        handle.remove()
    return found


def test_a_probe_on_uploaded_data_is_the_plain_loop_and_its_weights_are_used_by_reference(lab: Lab, plain: Any) -> None:
    model = lab.model("llama-random")
    width = model.card.by_path["lm_head"].params["weight"].shape[1]
    data = lab.dataset(ids=[np.array(ids) for ids in PROMPTS], label=np.array(LABELS))
    with model.fit(data, batch_size=3, epochs=4, optimiser=telepatch.Adam(lr=0.01), shuffle=9) as f:
        w = f.param("w", telepatch.zeros(width, 2))
        with f.invoke(ids=f.row.ids):
            z = (model.blocks[1].output[0, -1] @ w)[None]
        f.loss(telepatch.cross_entropy(z, f.row.label[None]))
        f.log(hit=(z.argmax(-1) == f.row.label).float().mean())
    weight = torch.zeros(width, 2, requires_grad=True)
    made = torch.optim.Adam([weight], 0.01)
    last = torch.stack([rows[-1] for rows in residual(plain, 1)])
    losses = []
    for epoch in range(4):
        order = shuffled(6, [9], epoch)
        for rows in (order[:3], order[3:]):
            made.zero_grad()
            loss = functional.cross_entropy(last[rows] @ weight, torch.tensor(LABELS)[rows])
            loss.backward()
            made.step()
            losses.append(float(loss.detach()))
    np.testing.assert_allclose(f.losses.numpy(), losses, rtol=1e-4)
    np.testing.assert_allclose(f.w.numpy(), weight.detach().numpy(), rtol=1e-3, atol=1e-4)
    assert int(f.steps.numpy()) == 8
    assert f.logs.hit.numpy().shape == (8,)
    with model.trace(ids=PROMPTS[0]):
        scores = (model.blocks[1].output[0, -1] @ f.w).save()
    np.testing.assert_allclose(scores.numpy(), (last[0] @ weight).detach().numpy(), rtol=1e-3, atol=1e-4)


def test_an_autoencoder_is_trained_on_a_stream_of_activations_that_never_travels(lab: Lab, plain: Any) -> None:
    model = lab.model("llama-random")
    width = model.card.by_path["lm_head"].params["weight"].shape[1]
    with model.session():
        with model.each(PROMPTS) as row:
            acts = row.cat(model.blocks[1].output[0])
        with model.fit(telepatch.Buffer(acts, size=12), batch_size=4, steps=6, shuffle=1) as f:
            enc = f.param("enc", telepatch.eye(width) * 0.5)
            dead = f.state("dead", telepatch.zeros(width))
            hidden = (f.batch @ enc).relu()
            f.loss(((hidden - f.batch) ** 2).mean())
            with f.after():
                dead.set(telepatch.where((hidden > 0).any(0), 0.0, dead + 1.0))
            with f.evaluate(every=3):
                with model.each(PROMPTS[:2]) as held:
                    h = model.blocks[1].output[0]
                    error = held.mean((((h @ enc).relu() - h) ** 2).mean())
                f.log(error=error)
        losses, held_out = f.losses.save(), f.evaluations.error.save()
        gone = f.dead.save()
    assert losses.numpy().shape == (6,)
    assert losses.numpy()[-1] < losses.numpy()[0]
    assert held_out.numpy().shape == (2,)
    assert gone.numpy().max() > 0


def test_what_goes_wrong_in_a_step_names_the_authors_line(lab: Lab) -> None:
    model = lab.model("llama-random")
    with model.fit(telepatch.Buffer(np.ones((8, 2), np.float32)), batch_size=4, steps=6) as f:
        w = f.param("w", [1.0, 1.0])
        f.loss((f.batch * w * float("inf")).mean())
    with pytest.raises(ExecutionError, match=r"loss of fit .* is inf at its first step"):
        f.w.numpy()
