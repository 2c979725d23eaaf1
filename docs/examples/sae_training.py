"""Sparse autoencoder with p-annealing: dictionaries of activations, trained where the activations are.

An L1 penalty makes features sparse, but shrinks them too. With p-annealing it turns into an Lp penalty, p falling
from 1 while training goes on, which is nearer to counting features (Karvonen et al. 2024, "Measuring Progress in
Dictionary Learning for Language Model Interpretability with Board Game Models"). Features that have not fired for a
while begin anew at what is reconstructed worst, and the optimiser forgets them (Bricken et al. 2023, "Towards
Monosemanticity").

    python docs/examples/sae_training.py [URL]
"""

import random
import sys

import numpy as np

import telepatch

WORDS = ["the", "old", "young", "cat", "dog", "king", "tree", "sings", "sleeps", "runs", "grows", "and", "but", "while"]


def sae_training(model, acts, start, batch, steps, sparsity, patience):
    """The trained fit: its We, Wd, be, bd, losses, and in its logs the error and the features per row.

    Args:
        acts: activations (rows, width), a value that an earlier trace saved.
        start: directions of the features to begin with, (features, width).
        patience: steps after which a feature that never fired begins anew.
    """
    n, width = start.shape
    optimiser = telepatch.Adam(lr=3e-3, warmup=10)
    with model.fit(telepatch.Buffer(acts), batch_size=batch, steps=steps, optimiser=optimiser) as f:
        We, be = f.param("We", start.T.copy()), f.param("be", np.zeros(n, np.float32))
        Wd, bd = f.param("Wd", start, constraint="unit_norm"), f.param("bd", np.zeros(width, np.float32))
        idle = f.state("idle", np.zeros(n, np.int64))
        p = f.schedule(lambda step: 1 - 0.5 * step / steps)
        x = f.batch
        features = ((x - bd) @ We + be).relu()
        error = ((features @ Wd + bd - x) ** 2).sum(-1)
        f.loss(error.mean() + sparsity * (features.clamp(min=1e-6) ** p).sum(-1).mean())
        f.log(error=error.mean(), active=(features > 0).to("float32").sum(-1).mean())
        with f.after():  # after each step, with the parameters as they are then
            waited = telepatch.where((features > 0).any(0), 0, idle + 1)
            dead = waited > patience
            worst = telepatch.normalize(x[error.topk(n).indices] - bd, dim=-1)
            Wd.set(telepatch.where(dead[:, None], worst, Wd))
            We.set(telepatch.where(dead, 0.05 * worst.T, We))
            idle.set(telepatch.where(dead, 0, waited))
            be.set(telepatch.where(dead, 0.0, be))
            f.reset_moments(We, where=dead)
            f.reset_moments(Wd, where=dead[:, None])
    return f


if __name__ == "__main__":
    with telepatch.connect(*sys.argv[1:2]) as lab:
        model = lab.model("smollm2-135m")
        draw = random.Random(0)
        with model.each([" ".join(draw.choices(WORDS, k=20)) for _ in range(60)]) as row:
            acts = row.cat(model.blocks[8].resid_post[0, 1:] / 10).save()  # not looked at: they stay where they are
        start = np.random.default_rng(0).normal(size=(256, 576)).astype(np.float32) / 24
        f = sae_training(model, acts, start, 600, 200, 0.2, 50)
        for step in range(0, 200, 20):
            print(f"step {step:3d}: error {f.logs.error[step]:7.2f}, {f.logs.active[step]:6.1f} features a token")
