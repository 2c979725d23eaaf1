"""Attention knockout: along which paths does information reach the last token?

Attention from the last token to another one is cut at a window of blocks, and the chance of the answer is compared
(Geva et al. 2023, "Dissecting Recall of Factual Associations in Auto-Regressive Language Models"). There are two ways
to cut. Before the softmax: a score of minus infinity leaves the weight to the other positions. After it: a weight of
zero takes it away. A job that names scores or patterns runs under eager attention, where they exist.

    python docs/examples/attention_knockout.py [URL]
"""

import sys

import numpy as np

import telepatch

PROMPT = "The Eiffel Tower is in the city of"


def attention_knockout(model, prompt, first, width, edges, answer):
    """Log chance of the answer untouched, and with edges cut by scores and by pattern, both (windows, edges).

    Args:
        first, width: the blocks at which the windows begin, and how many blocks a window has.
        edges: positions that the last token is kept from attending to.
    """

    def log_chance():
        return model.unembed.output[0, -1].log_softmax(-1)[answer]

    # What is written in a sweep may depend on its names: here a mask for each window, with one entry per block.
    blocks = np.arange(len(model.blocks))
    windows = np.stack([(blocks >= at) & (blocks < at + width) for at in first]).astype(np.float32)
    with model.session():
        with model.trace(prompt):
            whole = log_chance().save()
        with model.sweep(window=windows, edge=edges) as v, model.trace(prompt):
            # One block after the other: the scores of a block depend on what was cut before it.
            for at, block in enumerate(model.blocks):
                scores = block.scores[:, :, -1, v.edge]  # (row, head, to, from)
                block.scores[:, :, -1, v.edge] = telepatch.where(v.window[at] > 0, -float("inf"), scores)
            by_scores = log_chance().save()
        with model.sweep(window=windows, edge=edges) as v, model.trace(prompt):
            for at, block in enumerate(model.blocks):
                block.pattern[:, :, -1, v.edge] *= 1 - v.window[at]
            by_pattern = log_chance().save()
    return whole, by_scores, by_pattern


if __name__ == "__main__":
    with telepatch.connect(*sys.argv[1:2]) as lab:
        model = lab.model("smollm2-135m")
        tokens = model.tokenize(PROMPT)
        first, edges = range(0, 24, 6), range(len(tokens) - 1)
        whole, by_scores, by_pattern = attention_knockout(model, PROMPT, first, 9, edges, model.token(" Paris"))
        print(f"log chance of ' Paris' untouched: {float(whole):.2f}; without attention from the last token to ...")
        for at in edges:
            least = int(by_scores.numpy()[:, at].argmin())
            shown = f"{by_scores[least, at]:7.2f} (scores) {by_pattern[least, at]:7.2f} (pattern)"
            print(f"{tokens.pieces[at]!r:10} at blocks {first[least]} to {first[least] + 8}: {shown}")
