"""Tuned lens: what the model would say after each block, read through an affine probe of that block.

The logit lens applies the model's own final norm and unembedding to the stream after every block. The tuned lens
first translates the stream with an affine map, which is trained until the prediction is as near to the model's own as
it can be (Belrose et al. 2023, "Eliciting Latent Predictions from Transformers with the Tuned Lens"). How near is a
divergence, in nats.

    python docs/examples/tuned_lens.py [URL]
"""

import sys

import telepatch

TEXTS = [
    "Paris is the capital of France, and Rome is the capital of Italy.",
    "Tom and Anna went to the shop, and Tom gave a book to Anna.",
    "When it rains, people open their umbrellas and walk a little faster.",
]
PROMPT = "When Mary and John went to the store, John gave a drink to"


def lens(model, blocks, probes=None):
    """Log chances that each block's stream gives, (blocks, positions, vocabulary), and the divergence from the last."""
    h = telepatch.stack([model.blocks[at].resid_post[0] for at in blocks])
    if probes is not None:
        h = h + h @ probes[0] + probes[1][:, None]
    p = model.unembed(model.final_norm(h)).log_softmax(-1)  # the model's own modules, applied to all blocks at once
    final = model.unembed.output[0].log_softmax(-1)
    return p, (final.exp() * (final - p)).sum(-1)


def train(model, rows, blocks, width, steps, rate):
    """Probes: matrices (blocks, width, width) and offsets (blocks, width); and the loss of every step."""
    optimiser = telepatch.Adam(lr=rate)
    with model.fit({"prompt": rows}, batch_size=len(rows), steps=steps, optimiser=optimiser) as f:
        A = f.param("A", telepatch.zeros(len(blocks), width, width))
        b = f.param("b", telepatch.zeros(len(blocks), width))
        with f.invoke(f.row.prompt):
            f.loss(lens(model, blocks, (A, b))[1].mean())
    return (f.A, f.b), f.losses


if __name__ == "__main__":
    with telepatch.connect(*sys.argv[1:2]) as lab:
        model = lab.model("smollm2-135m")
        blocks = range(4, 29, 5)
        probes, losses = train(model, TEXTS, blocks, 576, 15, 1e-3)
        print(f"mean divergence {losses[0]:.2f} -> {losses[-1]:.2f}")
        for name, given in (("logit lens", None), ("tuned lens", probes)):
            with model.trace(PROMPT):
                p, divergence = lens(model, blocks, given)
                far, guess = divergence.mean(-1).save(), p[:, -1].argmax(-1).save()
            for at, nats, token in zip(blocks, far.numpy(), guess.tolist(), strict=True):
                print(f"{name}, block {at:2d}: {nats:6.2f} nats from the end; says {model.decode([token])!r}")
