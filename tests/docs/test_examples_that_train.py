"""The examples that train give the losses and the parameters of the same loops in plain PyTorch."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parent))

from experiments import BAD, CLEAN, OTHERS, by_hand, close, example
from written_out import Plain, at

from telepatch.lab import Lab
from telepatch.model import Model


def divergence(plain: Plain, ids: Sequence[int], blocks: Sequence[int], matrices: Tensor, b: Tensor) -> Tensor:
    """Of what affine probes of some blocks say, from the model's own prediction: (blocks, positions)."""
    h = torch.stack([plain.seen(ids, "resid_post")[layer][0] for layer in blocks])
    p = plain.unembedded(h + h @ matrices + b[:, None]).log_softmax(-1)
    final = plain.logits(ids).log_softmax(-1).expand_as(p)
    return functional.kl_div(p, final, reduction="none", log_target=True).sum(-1)


def test_the_tuned_lens_is_trained_and_read(pair: tuple[Model, Plain]) -> None:
    model, plain = pair
    blocks, width = [0, plain.layers - 2], plain.width
    rows = [CLEAN, BAD[:4]]
    probes, losses = example("tuned_lens").train(model, rows, blocks, width, 8, 0.01)
    a, b = torch.zeros(2, width, width, requires_grad=True), torch.zeros(2, width, requires_grad=True)

    def loss() -> Tensor:
        return torch.stack([divergence(plain, ids, blocks, a, b).mean() for ids in rows]).mean()

    close(losses, trained([a, b], loss, 8, torch.optim.Adam([a, b], 0.01)), 1e-3)
    assert losses[-1] < losses[0] / 2
    for given, weight, offset in ((None, a * 0, b * 0), (probes, a, b)):
        with model.trace(CLEAN):
            found = example("tuned_lens").lens(model, blocks, given)[1].save()
        np.testing.assert_allclose(
            found, divergence(plain, CLEAN, blocks, weight, offset).detach(), rtol=1e-2, atol=1e-4
        )


def trained(
    params: list[Tensor], loss: Any, steps: int, made: torch.optim.Optimizer, bend: Any = None, after: Any = None
) -> Tensor:
    """The losses of the plain loop; `bend` changes gradients before an update, `after` parameters after it."""
    losses = []
    for step in range(steps):
        made.zero_grad()
        now = loss()
        now.backward()
        with torch.no_grad():
            if bend is not None:
                bend()
            made.step()
            if after is not None:
                after(step)
        losses.append(now.detach())
    return torch.stack(losses)


def test_directions_of_das(pair: tuple[Model, Plain]) -> None:
    model, plain = pair
    start = np.linalg.qr(np.random.default_rng(0).normal(size=(plain.width, 4)))[0].astype(np.float32)
    base, source, label = [CLEAN, BAD, OTHERS[2]], [BAD, CLEAN, OTHERS[3]], [3, 5, 7]
    data = {"base": base, "source": source, "label": label}
    found, losses, hits = example("das").das(model, data, 1, -2, start, 6, 0.05)
    turn = torch.from_numpy(start.copy()).requires_grad_()
    best: list[Tensor] = []

    def loss() -> Tensor:
        rows = []
        for one, other in zip(base, source, strict=True):
            there = plain.seen(other, "resid_post")[1][0, -2]

            def exchanged(layer: int, x: Tensor, there: Tensor = there) -> Tensor:
                x[0, -2] = x[0, -2] + turn @ (turn.T @ (there - x[0, -2]))
                return x

            rows.append(plain.logits(one, at("resid_post", [1], exchanged))[-1])
        best.append((torch.stack(rows).argmax(-1) == torch.tensor(label)).float().mean())
        return functional.cross_entropy(torch.stack(rows), torch.tensor(label))

    def tangent() -> None:
        assert turn.grad is not None
        turn.grad -= turn @ (turn.T @ turn.grad + turn.grad.T @ turn) / 2

    def orthonormal(step: int) -> None:
        q, r = torch.linalg.qr(turn)
        turn.copy_(q * r.diagonal().sign())

    close(losses, trained([turn], loss, 6, torch.optim.Adam([turn], 0.05), tangent, orthonormal), 1e-3)
    np.testing.assert_allclose(hits, torch.stack(best), atol=1e-6)
    np.testing.assert_allclose(found, turn.detach(), atol=2e-3)
    np.testing.assert_allclose(found.numpy().T @ found.numpy(), np.eye(4), atol=1e-5)


def test_an_adapter_is_a_change_of_weights(lab: Lab) -> None:
    model, plain = lab.model("llama-random"), by_hand("llama-random")
    modules = [model.blocks[1].attn.q_proj, model.blocks[2].mlp.down_proj]
    names = ["model.layers.1.self_attn.q_proj.weight", "model.layers.2.mlp.down_proj.weight"]
    draw = np.random.default_rng(0)
    start = [draw.normal(size=(2, size)).astype(np.float32) for size in (plain.width, plain.config.intermediate_size)]
    rows = [CLEAN, BAD[:4]]
    adapter, losses = example("lora").lora(model, rows, modules, start, 6, 0.01)
    params = []
    for a, name in zip(start, names, strict=True):
        params += [torch.from_numpy(a.copy()), torch.zeros(plain.weights[name].shape[0], 2)]
    for one in params:
        one.requires_grad_()
    changed = copy(plain)

    def loss() -> Tensor:
        changed.weights = plain.weights | {
            name: plain.weights[name] + b @ a for name, a, b in zip(names, params[::2], params[1::2], strict=True)
        }
        sums = [
            functional.cross_entropy(changed.logits(ids)[:-1], torch.tensor(ids[1:]), reduction="sum") for ids in rows
        ]
        return torch.stack(sums).sum() / sum(len(ids) - 1 for ids in rows)

    def clipped() -> None:
        torch.nn.utils.clip_grad_norm_(params, 1.0)

    made = torch.optim.AdamW(params, 0.01, weight_decay=0.0)
    close(losses, trained(params, loss, 6, made, clipped), 1e-3)
    with model.trace(BAD):
        example("lora").adapted(modules, adapter)
        found = model.unembed.output[0].save()
    loss()
    np.testing.assert_allclose(found, changed.logits(BAD).detach(), rtol=1e-2, atol=1e-2)


def test_a_sparse_autoencoder_with_annealing_and_features_that_begin_anew(pair: tuple[Model, Plain]) -> None:
    model, plain = pair
    rows, n, steps, patience = [CLEAN, BAD, OTHERS[3]], 8, 24, 3
    start = np.random.default_rng(1).normal(size=(n, plain.width)).astype(np.float32) / 8
    x = torch.cat([plain.seen(ids, "resid_post")[1][0] for ids in rows])
    start[0] = -(torch.linalg.pinv(x) @ torch.ones(len(x))).numpy()  # fires nowhere
    with model.each(rows) as row:
        acts = row.cat(model.blocks[1].resid_post[0]).save()
    f = example("sae_training").sae_training(model, acts, start, 20, steps, 0.1, patience)
    up, be = torch.from_numpy(start.T.copy()), torch.zeros(n)
    down, bd = functional.normalize(torch.from_numpy(start)), torch.zeros(plain.width)
    params = [up, be, down, bd]
    for one in params:
        one.requires_grad_()
    made = torch.optim.Adam(params, 0.003)
    idle, kept, reborn, active, step_now = torch.zeros(n), {}, 0, [], [0]

    def loss() -> Tensor:
        made.param_groups[0]["lr"] = 0.003 * min(1.0, (step_now[0] + 1) / 10)
        features = ((x - bd) @ up + be).relu()
        kept["features"], kept["error"] = features.detach(), ((features @ down + bd - x) ** 2).sum(-1)
        active.append((features > 0).float().sum(-1).mean())
        p = 1 - 0.5 * step_now[0] / steps
        return kept["error"].mean() + 0.1 * (features.clamp(min=1e-6) ** p).sum(-1).mean()

    def tangent() -> None:
        assert down.grad is not None
        down.grad -= (down.grad * down).sum(-1, keepdim=True) * down

    def after(step: int) -> None:
        nonlocal idle, reborn
        step_now[0] = step + 1
        down.copy_(functional.normalize(down))
        idle = torch.where((kept["features"] > 0).any(0), 0, idle + 1)
        dead = idle > patience
        worst = functional.normalize(x[kept["error"].topk(n).indices] - bd)
        down[dead] = worst[dead]
        up[:, dead] = 0.05 * worst[dead].T
        idle[dead] = 0
        reborn += int(dead.sum())
        be[dead] = 0
        for name in ("exp_avg", "exp_avg_sq"):
            made.state[up][name][:, dead] = 0
            made.state[down][name][dead] = 0

    close(f.losses, trained(params, loss, steps, made, tangent, after), 2e-3)
    np.testing.assert_allclose(f.logs.active, torch.stack(active), atol=0.11)
    assert reborn > 0
    np.testing.assert_allclose(f.Wd, down.detach(), atol=5e-3)
