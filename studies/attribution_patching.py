"""Attribution patching: what every patch would do, estimated from two forwards and one backward.

Activation patching asks of every block and position what happens if the stream there is replaced by that of another
run, at one forward for each. Attribution patching (Nanda 2023, "Attribution Patching: Activation Patching At
Industrial Scale"; Syed et al. 2023, "Attribution Patching Outperforms Automated Circuit Discovery") estimates all of
them together: the difference of the two activations times the gradient of the answer there, which is the first term
of the patch's Taylor series. This study makes the grid of activation_patching.py both ways and asks how far the
estimate can be trusted. Within a block it finds the right place; in early blocks it says a quarter of the truth,
since all the blocks behind them are taken for linear.

Both are part of one job: a session hands values from one trace to the next, and a sweep runs its block for every
combination of block and position.

    telepatch up --model smollm2-135m         # in one shell
    python studies/attribution_patching.py    # in another
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
        every: look at every so many blocks; 1 patches all of them.

    Returns:
        The picture's file.
    """
    with telepatch.connect(url) as lab:
        model = lab.model(name)
        mary, john = model.token(" Mary"), model.token(" John")
        tokens = model.tokenize(CORRUPTED).pieces
        blocks = range(0, len(model.blocks), every)

        with model.session():
            with model.trace(CLEAN):
                clean = model.blocks[:].resid_post  # (blocks, 1, positions, width)
            with model.trace(CORRUPTED):
                stream = model.blocks[:].resid_post
                before = difference(model, mary, john)
                slope = telepatch.grad(before, stream)
                estimated = ((clean - stream) * slope).sum((1, 3)).save()  # (blocks, positions)
            with model.sweep(block=blocks, position=range(len(tokens))) as v, model.trace(CORRUPTED):
                model.blocks[v.block].resid_post[:, v.position] = clean[v.block][:, v.position]
                after = difference(model, mary, john)
            patched = (after - before).save()  # (blocks of the sweep, positions)

        estimate, exact = estimated.numpy()[list(blocks)], patched.numpy()
        table(tokens, list(blocks), estimate, exact)
        between = np.full((len(exact), 1), np.nan)
        return heat_map(
            np.concatenate([exact, between, estimate], axis=1),
            title="Logit difference moved by a patch: measured (left), estimated by attribution (right)",
            columns=[*tokens, "", *tokens],
            rows=list(blocks),
            file=Path(out) / "attribution_patching.png",
        )


def difference(model: telepatch.Model, mary: int, john: int) -> telepatch.Value:
    """How much the model prefers Mary to John as the next token, in logits."""
    last = model.unembed.output[0, -1]
    return last[mary] - last[john]


def table(tokens: list[str], blocks: list[int], estimate: np.ndarray, exact: np.ndarray) -> None:
    """Print how well the estimate follows the patches, over all of them and block by block."""
    print(f"\ncorrelation over {exact.size} patches: {correlation(estimate, exact):.2f}")
    print("\nblock   correlation   strongest patch: token, measured, estimated")
    for block, row, guess in zip(blocks, exact, estimate, strict=True):
        at = int(np.abs(row).argmax())
        moved = f"{tokens[at]!r:10} {row[at]:+7.2f} {guess[at]:+7.2f}"
        print(f"{block:5d}   {correlation(guess, row):11.2f}   {moved}")


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's correlation of two tables of numbers."""
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description="Estimate patches by gradients, and compare with patching itself.")
    arguments.add_argument("--url", help="address of the gateway (default: TELEPATCH_URL)")
    arguments.add_argument("--out", type=Path, default=Path("out"), help="folder for the picture")
    arguments.add_argument("--model", default="smollm2-135m", help="id of the model")
    arguments.add_argument("--every", type=int, default=3, help="look at every so many blocks")
    given = arguments.parse_args()
    print(f"\nheat map: {main(given.url, given.out, given.model, given.every)}")
