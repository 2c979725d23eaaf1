"""Path patching: which heads act on the answer through the queries of one later head?

For each head before the receiver: run the clean prompt with every head and MLP frozen to its clean value but that one
head, which is given what it had on the corrupted prompt; note what the receiver's queries become; then run the clean
prompt once more and change nothing but these queries (Wang et al. 2022, "Interpretability in the Wild", figure 2;
Goldowsky-Dill et al. 2023, "Localizing Model Behavior with Path Patching").

    python docs/examples/path_patching.py [URL]
"""

import sys

import numpy as np

import telepatch

CLEAN = "When Mary and John went to the store, John gave a drink to"
BAD = "When Mary and John went to the store, Mary gave a drink to"


def path_patching(model, clean, bad, senders, heads, layer, head, right, wrong):
    """The change of the logit difference for each sending head, (blocks, heads)."""

    def difference():
        last = model.unembed.output[0, -1]
        return last[right] - last[wrong]

    with model.session():
        with model.trace(clean):
            z, mlp = model.blocks[:].z, model.blocks[:].mlp_out
            before = difference()
        with model.trace(bad):
            other = model.blocks[:].z
        with model.sweep(sender=senders, h=heads) as v:
            # Everything is frozen, then one head is written over: within one place the last write holds.
            with model.trace(clean):
                model.blocks[:].z = z
                model.blocks[:].mlp_out = mlp
                model.blocks[v.sender].z[:, :, v.h] = other[v.sender][:, :, v.h]
                queries = model.blocks[layer].q[:, :, head]
            # A second run of the same prompt, in which all else follows from the changed queries.
            with model.trace(clean):
                model.blocks[layer].q[:, :, head] = queries
                after = difference()
        return (after - before).save()


if __name__ == "__main__":
    with telepatch.connect(*sys.argv[1:2]) as lab:
        model = lab.model("smollm2-135m")
        mary, john = model.token(" Mary"), model.token(" John")
        senders = range(19, 23)
        effect = path_patching(model, CLEAN, BAD, senders, range(9), 23, 3, mary, john).numpy()
        print("through the queries of head 3 of block 23, in logits:")
        for flat in np.argsort(-np.abs(effect), axis=None)[:8]:
            sender, h = np.unravel_index(flat, effect.shape)
            print(f"head {h} of block {senders[sender]}: {effect[sender, h]:+.3f}")
