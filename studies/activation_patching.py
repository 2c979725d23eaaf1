"""Activation patching: where in the model the answer is decided.

Two prompts differ in one word. In the clean one John gives the drink, so the answer is Mary; in the corrupted one Mary
gives it, so the answer is John. We run the corrupted prompt again and again, each time with the residual stream at one
block and one position replaced by the clean run's, and ask how far the answer moves back (Meng et al. 2022, "Locating
and Editing Factual Associations in GPT"; Wang et al. 2022, "Interpretability in the Wild", for the task).

The code is a plain loop of single traces. Leaving a block does not wait; the service batches what is pending.

    telepatch up --model smollm2-135m        # in one shell
    python studies/activation_patching.py    # in another
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from drawing import heat_map

import telepatch

CLEAN = "When Mary and John went to the store, John gave a drink to"
CORRUPTED = "When Mary and John went to the store, Mary gave a drink to"


def main(url: str | None = None, out: Path = Path("out"), name: str = "smollm2-135m", every: int = 3) -> Path:
    """Run the study.

    Args:
        url: address of the gateway; None for the ``TELEPATCH_URL`` of the environment.
        out: folder for the picture.
        name: id of the model to study.
        every: patch every so many blocks; 1 patches all of them.

    Returns:
        The picture's file.
    """
    with telepatch.connect(url) as lab:
        model = lab.model(name)
        mary, john = model.token(" Mary"), model.token(" John")
        tokens = model.tokenize(CORRUPTED).pieces
        blocks = list(range(0, len(model.blocks), every))

        with model.trace(CLEAN):
            stream = model.blocks[:].resid_post.save()  # (blocks, 1, positions, width)
            clean = difference(model, mary, john).save()
        with model.trace(CORRUPTED):
            corrupted = difference(model, mary, john).save()

        patched = {}
        for block in blocks:
            for position in range(len(tokens)):
                with model.trace(CORRUPTED):
                    model.blocks[block].resid_post[:, position] = stream[block, :, position]
                    patched[block, position] = difference(model, mary, john).save()

        telepatch.gather(*patched.values())
        low, high = float(corrupted), float(clean)
        restored = np.array(
            [[(float(patched[block, place]) - low) / (high - low) for place in range(len(tokens))] for block in blocks]
        )
        table(tokens, blocks, restored, low, high)
        return heat_map(
            restored,
            title="Activation patching: share of the clean answer restored",
            columns=tokens,
            rows=blocks,
            file=Path(out) / "activation_patching.png",
        )


def difference(model: telepatch.Model, mary: int, john: int) -> telepatch.Value:
    """How much the model prefers Mary to John as the next token, in logits."""
    last = model.unembed.output[0, -1]
    return last[mary] - last[john]


def table(tokens: list[str], blocks: list[int], restored: np.ndarray, low: float, high: float) -> None:
    """Print what patching each position restores at its best block."""
    print(f"\nlogit difference Mary - John: clean {high:+.2f}, corrupted {low:+.2f}\n")
    print("position  token          restored most  at block")
    for place, token in enumerate(tokens):
        best = int(restored[:, place].argmax())
        print(f"{place:8d}  {token!r:14}{restored[best, place]:13.0%}{blocks[best]:10d}")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(
        description="Patch the residual stream, block by block and position by position."
    )
    arguments.add_argument("--url", help="address of the gateway (default: TELEPATCH_URL)")
    arguments.add_argument("--out", type=Path, default=Path("out"), help="folder for the picture")
    arguments.add_argument("--model", default="smollm2-135m", help="id of the model")
    arguments.add_argument("--every", type=int, default=3, help="patch every so many blocks")
    given = arguments.parse_args()
    print(f"\nheat map: {main(given.url, given.out, given.model, given.every)}")
