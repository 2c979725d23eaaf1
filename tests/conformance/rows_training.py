"""Training beside the model."""

from __future__ import annotations

import nnsight as nn
import numpy as np
import torch
from table import Group

import telepatch

GROUP = Group("Training")

TEXTS = ["Paris is in France", "Rome is in Italy, they say", "Two and two are four", "Seven is a prime number"]
LABELS = [0, 0, 1, 1]


@GROUP.row(
    "training in a session",
    "optimiser.step()",
    "with model.fit(",
    note="A step is written once, as data, and the service makes it as often as asked: activations never travel. "
    "Checkpoints, schedules, constraints, held-out evaluation and early stop are part of it.",
)
class Probe:
    @staticmethod
    def nnsight(model):
        with model.session():
            w = torch.zeros(48, 2, requires_grad=True)
            optimiser = torch.optim.SGD([w], lr=0.5)
            losses = nn.save([])
            for step in range(6):
                with model.trace(TEXTS):
                    h = model.transformer.h[2].output[:, -1]
                loss = torch.nn.functional.cross_entropy(h @ w, torch.tensor(LABELS))
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                losses.append(loss.detach())
            w = nn.save(w)
        return torch.stack(losses), w

    @staticmethod
    def telepatch(model):
        data = {"text": TEXTS, "label": LABELS}
        with model.fit(data, batch_size=4, steps=6, optimiser=telepatch.SGD(lr=0.5), shuffle=None) as f:
            w = f.param("w", telepatch.zeros(48, 2))
            with f.invoke(f.row.text):
                h = model.transformer.h[2].output[:, -1]
            f.loss(telepatch.cross_entropy(h @ w, f.row.label[None]))
        return f.losses, f.w


@GROUP.row(
    "LoRA",
    "model.transformer.h[1].mlp.output = model.transformer.h[1].mlp.output + x @ a @ b",
    "model.transformer.h[1].mlp.output += x @ a @ b",
    note="Weights of the model never change: an adapter is a write whose value holds parameters. What was trained is "
    "used in later traces by reference, or kept as an edit.",
)
class Lora:
    @staticmethod
    def nnsight(model):
        a = torch.tensor(START, requires_grad=True)
        b = torch.zeros(2, 48, requires_grad=True)
        optimiser = torch.optim.Adam([a, b], lr=0.01)
        losses = []
        for step in range(4):
            with model.trace(TEXTS):
                x = model.transformer.h[1].mlp.input
                model.transformer.h[1].mlp.output = model.transformer.h[1].mlp.output + x @ a @ b
                logits = nn.save(model.output.logits[:, -1])
            loss = torch.nn.functional.cross_entropy(logits, torch.tensor(LABELS))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.detach())
        return torch.stack(losses), a, b

    @staticmethod
    def telepatch(model):
        data = {"text": TEXTS, "label": LABELS}
        with model.fit(data, batch_size=4, steps=4, optimiser=telepatch.Adam(lr=0.01), shuffle=None) as f:
            a = f.param("a", START)
            b = f.param("b", telepatch.zeros(2, 48))
            with f.invoke(f.row.text):
                x = model.transformer.h[1].mlp.input
                model.transformer.h[1].mlp.output += x @ a @ b
                logits = model.output[:, -1]
            f.loss(telepatch.cross_entropy(logits, f.row.label[None]))
        return f.losses, f.a, f.b


START = np.linspace(-0.3, 0.3, 48 * 2, dtype=np.float32).reshape(48, 2)


GROUP.without(
    "training loops of one's own",
    "loss.backward() ... optimiser.step()",
    "A loop whose body decides anew at every turn is code.",
    "`fit` takes what such loops do in practice: the loss is any graph, `f.after()` what follows a step, `f.stop(...)` "
    "when to end, `f.evaluate(...)` what to measure. Or fetch activations and train on them at home.",
)
