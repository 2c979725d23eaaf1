"""Distributed alignment search: which few dimensions of the stream carry one thing that the model knows?

The stream of one prompt is replaced by that of another along some directions only, and the directions are trained
until the model answers as if the prompt had been the other one, in this one respect (Geiger et al. 2023, "Finding
Alignments Between Interpretable Causal Variables and Distributed Neural Representations"). The intervention is part
of the loss, so gradients flow through the model; the weights stay as they are.

    python docs/examples/das.py [URL]
"""

import sys

import numpy as np

import telepatch

CAPITALS = {"France": " Paris", "Italy": " Rome", "Spain": " Madrid", "Germany": " Berlin", "Japan": " Tokyo"}


def das(model, data, layer, position, start, steps, rate):
    """Directions as columns, the loss of every step, and how often the counterfactual answer came out.

    Args:
        data: base and source (token ids, or texts) and label (token id), one column each.
        position: where both prompts have what is exchanged.
        start: directions to begin with, (width, directions), orthonormal.
    """
    optimiser = telepatch.Adam(lr=rate)
    with model.fit(data, batch_size=len(data["label"]), steps=steps, optimiser=optimiser) as f:
        R = f.param("R", start, constraint="orthogonal")  # its columns stay orthonormal
        # The block is that of one example. Its prompts may have any lengths; they share forwards all the same.
        with f.invoke(f.row.source):
            other = model.blocks[layer].resid_post[:, position]
        with f.invoke(f.row.base):
            own = model.blocks[layer].resid_post[:, position]
            model.blocks[layer].resid_post[:, position] = own + (other - own) @ R @ R.T
            z = model.unembed.output[:, -1]
        f.loss(telepatch.cross_entropy(z, f.row.label[None]))
        f.log(hits=(z.argmax(-1) == f.row.label).to("float32").mean())
    return f.R, f.losses, f.logs.hits


if __name__ == "__main__":
    with telepatch.connect(*sys.argv[1:2]) as lab:
        model = lab.model("smollm2-135m")
        pairs = [(a, b) for a in CAPITALS for b in CAPITALS if a != b][::2]
        base, source = ([f"The capital city of {pair[at]} is" for pair in pairs] for at in (0, 1))
        data = {"base": base, "source": source, "label": [model.token(CAPITALS[b]) for _, b in pairs]}
        start = np.linalg.qr(np.random.default_rng(0).normal(size=(576, 16)))[0].astype(np.float32)
        R, losses, hits = das(model, data, 8, -2, start, 15, 0.02)
        for step, (loss, share) in enumerate(zip(losses.numpy(), hits.numpy(), strict=True)):
            print(f"step {step:2d}: loss {loss:6.3f}, the other country's capital in {share:4.0%}")
        print("directions:", R.shape)
