"""Logit lens: what a model would say if it stopped after each block.

The lens (nostalgebraist, 2020) takes the residual stream after every block, applies the model's own final norm and
unembedding to it, and looks at which tokens come out: the depth at which the answer appears is the depth at which the
model has it. Here the whole study is one trace: the activations stay on the server, only the top guesses travel.

    telepatch up --model smollm2-135m        # in one shell
    python studies/logit_lens.py             # in another
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from drawing import heat_map

import telepatch

PROMPT = "When Mary and John went to the store, John gave a drink to"


def main(url: str | None = None, out: Path = Path("out"), name: str = "smollm2-135m") -> Path:
    """Run the study.

    Args:
        url: address of the gateway; None for the ``TELEPATCH_URL`` of the environment.
        out: folder for the picture.
        name: id of the model to study.

    Returns:
        The picture's file.
    """
    with telepatch.connect(url) as lab:
        model = lab.model(name)
        answer = model.token(" Mary")

        with model.trace(PROMPT):
            stream = model.blocks[:].resid_post  # (blocks, 1, positions, width), not sent anywhere
            logits = model.unembed(model.final_norm(stream))  # the model's own modules, applied to all blocks
            log_chances = logits.log_softmax(-1)
            chance = log_chances[:, 0, :, answer].save()  # (blocks, positions)
            best = log_chances[:, 0, -1].topk(3).save()  # (blocks, 3): .values and .indices

        tokens = model.tokenize(PROMPT).pieces
        table(model, np.exp(best.values), best.indices.numpy(), np.exp(chance)[:, -1])
        return heat_map(
            chance.numpy() / np.log(10),
            title="Logit lens: log10 of the probability of ' Mary' after each block",
            columns=tokens,
            file=Path(out) / "logit_lens.png",
        )


def table(model: telepatch.Model, chances: np.ndarray, ids: np.ndarray, answer: np.ndarray) -> None:
    """Print the three likeliest next tokens after each block."""
    print(f"\n{PROMPT!r}: the next token, read after each block\n")
    print("block   likeliest next tokens                                          ' Mary'")
    for block, (row, tokens) in enumerate(zip(chances, ids, strict=True)):
        guesses = "  ".join(
            f"{model.decode([int(token)])!r:>14} {chance:4.0%}" for token, chance in zip(tokens, row, strict=True)
        )
        print(f"{block:5d}   {guesses}   {answer[block]:6.1%}")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description="Logit lens over every block, in one trace.")
    arguments.add_argument("--url", help="address of the gateway (default: TELEPATCH_URL)")
    arguments.add_argument("--out", type=Path, default=Path("out"), help="folder for the picture")
    arguments.add_argument("--model", default="smollm2-135m", help="id of the model")
    given = arguments.parse_args()
    print(f"\nheat map: {main(given.url, given.out, given.model)}")
