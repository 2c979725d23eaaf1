"""Attribution patching and integrated gradients: what patching would do, from a few backward passes.

Attribution patching estimates the effect of every patch at once, to first order: the change of an activation times
the gradient of the answer there (Nanda 2023, "Attribution Patching"; Syed et al. 2023, "Attribution Patching
Outperforms Automated Circuit Discovery"). Integrated gradients average the gradient along the straight line from one
input to another, so that the parts add up to the whole difference (Sundararajan et al. 2017, "Axiomatic
Attribution").

    python docs/examples/attribution.py [URL]
"""

import sys

import numpy as np

import telepatch

CLEAN = "When Mary and John went to the store, John gave a drink to"
BAD = "When Mary and John went to the store, Mary gave a drink to"
OTHER = "When Anna and Paul went to the shop, Paul gave a drink to"


def difference(model, right, wrong):
    last = model.unembed.output[0, -1]
    return last[right] - last[wrong]


def attribution_patching(model, clean, bad, right, wrong):
    """What patching each head from the clean into the corrupted run would change: (blocks, heads)."""
    with model.session():
        with model.trace(clean):
            z = model.blocks[:].z  # (blocks, 1, positions, heads, width of a head)
        with model.trace(bad):
            there = model.blocks[:].z
            slope = telepatch.grad(difference(model, right, wrong), there)
        return ((z - there) * slope).sum((1, 2, 4)).save()


def integrated_gradients(model, clean, other, steps, right, wrong):
    """What each position's embedding contributes, (positions,), and the difference that they should add up to."""
    with model.session():
        with model.trace(other):
            start, low = model.embed.output, difference(model, right, wrong)
        with model.trace(clean):
            end, high = model.embed.output, difference(model, right, wrong)
        # The middle of each of the steps; every step is a row of the same few forwards.
        with model.sweep(part=(np.arange(steps) + 0.5) / steps) as v, model.trace(clean):
            x = start + v.part * (end - start)
            model.embed.output = x
            slope = telepatch.grad(difference(model, right, wrong), x)  # with respect to what was written
        return ((end - start) * v.mean(slope)).sum(-1)[0].save(), (high - low).save()


if __name__ == "__main__":
    with telepatch.connect(*sys.argv[1:2]) as lab:
        model = lab.model("smollm2-135m")
        mary, john = model.token(" Mary"), model.token(" John")
        heads = attribution_patching(model, CLEAN, BAD, mary, john).numpy()
        for layer, head in np.argwhere(np.abs(heads) > 1.5):
            print(f"head {head} of block {layer:2d}: {heads[layer, head]:+.2f} logits")
        parts, whole = integrated_gradients(model, CLEAN, OTHER, 20, mary, john)
        print(f"integrated gradients add up to {parts.numpy().sum():+.2f}; the difference is {float(whole):+.2f}")
        print([f"{token} {part:+.2f}" for token, part in zip(model.tokenize(CLEAN).pieces, parts.numpy(), strict=True)])
