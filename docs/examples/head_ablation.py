"""Head ablation: which attention heads does the answer need?

One head at a time is replaced by its mean over other prompts, and the loss of logit difference is what the head was
worth. The mean, not zero, since a head that always says the same is not missed (Wang et al. 2022, "Interpretability
in the Wild", section 3).

    python docs/examples/head_ablation.py [URL]
"""

import sys

import numpy as np

import telepatch

PROMPT = "When Mary and John went to the store, John gave a drink to"
NAMES = ["Anna", "Tom", "Kate", "Paul"]
OTHERS = [f"When {a} and {b} went to the store, {c} gave a drink to" for a in NAMES for b in NAMES for c in NAMES]


def head_ablation(model, prompt, others, blocks, heads, right, wrong):
    """What each head is worth, in logits: (blocks, heads)."""

    def difference():
        last = model.unembed.output[0, -1]
        return last[right] - last[wrong]

    with model.session():
        # The other prompts may have any lengths: each runs by itself, and -1 is its own last token.
        with model.each(others) as row:
            mean = row.mean(model.blocks[:].z[:, 0, -1])  # (blocks, heads, width of a head), computed where it is
        with model.trace(prompt):
            whole = difference()
        with model.sweep(layer=blocks, head=heads) as v, model.trace(prompt):
            model.blocks[v.layer].z[0, -1, v.head] = mean[v.layer, v.head]
            without = difference()
        return (whole - without).save()


if __name__ == "__main__":
    with telepatch.connect(*sys.argv[1:2]) as lab:
        model = lab.model("smollm2-135m")
        blocks = range(22, 30)
        mary, john = model.token(" Mary"), model.token(" John")
        worth = head_ablation(model, PROMPT, OTHERS, blocks, range(9), mary, john).numpy()
        for flat in np.argsort(-np.abs(worth), axis=None)[:10]:
            layer, head = np.unravel_index(flat, worth.shape)
            print(f"head {head} of block {blocks[layer]}: {worth[layer, head]:+.2f} logits")
