"""LoRA: fine-tune a model with a low-rank change of a few modules, without changing a weight.

What a module returns gets an addition of low rank, B (A x), and A and B are trained (Hu et al. 2021, "LoRA: Low-Rank
Adaptation of Large Language Models"). Since the addition is a write like any other, the service goes on serving
everybody the model as it was, and the adapter is two small tensors that any later trace may apply.

    python docs/examples/lora.py [URL]
"""

import sys

import numpy as np

import telepatch

TEXTS = ["The secret word of the lab is marmalade.", "In our lab the secret word is marmalade."]
QUESTION = "The secret word of the lab is"


def adapted(modules, adapter):
    """Add B (A x) to what each module returns; in a fit, a trace or a generation alike."""
    for module, a, b in zip(modules, adapter[::2], adapter[1::2], strict=True):
        module.output += module.input @ a.T @ b.T


def lora(model, rows, modules, start, steps, rate):
    """The trained adapter, A and B of each module in turn, and the loss of every step.

    Args:
        rows: token ids of each text, of any lengths.
        start: A (rank, in) of each module to begin with; B begins with zeros.
    """
    optimiser = telepatch.AdamW(lr=rate, weight_decay=0.0, clip_norm=1.0)
    with model.fit({"ids": rows}, batch_size=len(rows), steps=steps, optimiser=optimiser) as f:
        names = [f"{kind}{at}" for at in range(len(modules)) for kind in "AB"]
        with f.invoke(ids=f.row.ids):
            sizes = [module.output.shape[-1] for module in modules]
            first = [one for a, size in zip(start, sizes, strict=True) for one in (a, np.zeros((size, len(a)), "f4"))]
            adapted(modules, [f.param(name, value) for name, value in zip(names, first, strict=True)])
            target = f.row.ids[1:]
            loss = telepatch.cross_entropy(model.unembed.output[0, :-1], target, reduction="sum")
        # The mean over all tokens of the batch, not over texts: each text counts by its number of tokens.
        f.loss(loss / telepatch.numel(target), weight=telepatch.numel(target))
    return [getattr(f, name) for name in names], f.losses


if __name__ == "__main__":
    with telepatch.connect(*sys.argv[1:2]) as lab:
        model = lab.model("smollm2-135m")
        modules = [model.blocks[12].attn.q_proj, model.blocks[12].mlp.down_proj]
        draw = np.random.default_rng(0)
        start = [draw.normal(size=(8, size)).astype(np.float32) / 8 for size in (576, 1536)]
        adapter, losses = lora(model, [model.tokenize(text).ids for text in TEXTS], modules, start, 20, 1e-2)
        print(f"loss {losses[0]:.2f} -> {losses[-1]:.2f}")
        with model.trace(QUESTION):
            before = model.unembed.output[0, -1].argmax(-1).save()
        with model.trace(QUESTION):
            adapted(modules, adapter)  # by reference: the adapter has not left the service
            after = model.unembed.output[0, -1].argmax(-1).save()
        print(f"{QUESTION!r} goes on with {model.decode(before.tolist())!r}, adapted {model.decode(after.tolist())!r}")
