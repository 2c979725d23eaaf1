"""Resampling ablation: does the answer depend on what one place carries, or only on its being there?

An activation is replaced by that of a donor, another prompt of the same kind, for many donors; the spread of what
happens is the answer. This is the step that causal scrubbing is made of (Chan et al. 2022, "Causal Scrubbing"), and
it keeps the model on activations that it knows, which zeros do not.

    python docs/examples/resampling_ablation.py [URL]
"""

import sys

import numpy as np

import telepatch

PROMPT = "When Mary and John went to the store, John gave a drink to"
NAMES = ["Anna", "Tom", "Kate", "Paul", "Sam"]
DONORS = [f"When {a} and {b} went to the shop, {b} gave a book to" for a in NAMES for b in NAMES if a != b]


def resampling_ablation(model, prompt, donors, blocks, right, wrong):
    """The logit difference with each donor's MLP output in place of the prompt's own, (blocks, donors), and without."""

    def difference():
        last = model.unembed.output[0, -1]
        return last[right] - last[wrong]

    with model.session():
        # Made for every donor, used after the block: a value with the donors in front, (donors, blocks, width).
        with model.each(donors):
            donated = model.blocks[:].mlp_out[:, 0, -1]
        with model.trace(prompt):
            whole = difference().save()
        # A name may go over the first axis of a value, as it may over a range.
        with model.sweep(layer=blocks, donor=donated) as v, model.trace(prompt):
            model.blocks[v.layer].mlp_out[0, -1] = v.donor[v.layer]
            return difference().save(), whole


if __name__ == "__main__":
    with telepatch.connect(*sys.argv[1:2]) as lab:
        model = lab.model("smollm2-135m")
        blocks = range(2, 30, 9)
        mary, john = model.token(" Mary"), model.token(" John")
        found, whole = resampling_ablation(model, PROMPT, DONORS, blocks, mary, john)
        print(f"untouched: {float(whole):+.2f}; with the MLP output at the last token from {len(DONORS)} donors:")
        for layer, row in zip(blocks, found.numpy(), strict=True):
            print(f"block {layer:2d}: {row.mean():+.2f}, 5 % below {np.quantile(row, 0.05):+.2f}")
