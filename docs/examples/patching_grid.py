"""Activation patching: at which block and position is the answer decided?

Two prompts differ in one name. The clean one ends in " Mary", the corrupted one in " John". We run the corrupted
prompt once for every block and position, each time with the residual stream there replaced by the clean run's, and
look how far the answer moves back (Meng et al. 2022, "Locating and Editing Factual Associations in GPT"; the task is
that of Wang et al. 2022, "Interpretability in the Wild").

    python docs/examples/patching_grid.py [URL]
"""

import sys

import numpy as np

import telepatch

CLEAN = "When Mary and John went to the store, John gave a drink to"
BAD = "When Mary and John went to the store, Mary gave a drink to"


def patching_grid(model, clean, bad, blocks, positions, right, wrong):
    """The logit difference after each patch, (blocks, positions), and those of the two prompts untouched."""

    def difference():
        last = model.unembed.output[0, -1]  # -1 is the prompt's own last token
        return last[right] - last[wrong]

    # A session is one job. Its traces hand values to one another, and nothing travels but what is saved.
    with model.session():
        with model.trace(clean):
            stream = model.blocks[:].resid_post  # all blocks at once: (blocks, 1, positions, width)
            high = difference().save()
        with model.trace(bad):
            low = difference().save()
        # Written once, run for every combination of block and position. v.layer stands in a path as in an index.
        with model.sweep(layer=blocks, pos=range(positions)) as v, model.trace(bad):
            model.blocks[v.layer].resid_post[:, v.pos] = stream[v.layer][:, v.pos]
            grid = difference().save()
    return grid, low, high


if __name__ == "__main__":
    with telepatch.connect(*sys.argv[1:2]) as lab:
        model = lab.model("smollm2-135m")
        tokens = model.tokenize(BAD).pieces
        assert len(model.tokenize(CLEAN)) == len(tokens), "a position must mean the same in both prompts"
        blocks = range(0, len(model.blocks), 5)
        mary, john = model.token(" Mary"), model.token(" John")
        grid, low, high = patching_grid(model, CLEAN, BAD, blocks, len(tokens), mary, john)
        restored = (np.asarray(grid) - float(low)) / (float(high) - float(low))
        for at, token in enumerate(tokens):
            best = int(restored[:, at].argmax())
            print(f"{at:3d} {token!r:10} restores up to {restored[best, at]:5.0%}, at block {blocks[best]}")
