"""A causal model written out by hand, from its weights alone: what the examples are compared with.

The blocks are those by which standard ports are checked (``tests/worker/blocks.py``). Neither hooks nor the service are
in it: `tap` is shown the value at every standard place and gives back what the model goes on with, so a patch is a line
of Python, and PyTorch's own autograd goes through all of it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[1] / "worker"))

from blocks import BLOCKS, Block

from telepatch_worker.cards import read_card
from telepatch_worker.load import load

MODELS = Path(__file__).parents[2] / "models"

Tap = Callable[[int, str, Tensor], Tensor]


def untouched(layer: int, name: str, value: Tensor) -> Tensor:
    """A tap that changes nothing."""
    return value


class Plain:
    """One of the small random models, of the GPT-2 or the Llama family."""

    def __init__(self, name: str) -> None:
        module = load(read_card(MODELS / f"{name}.toml"), cache=Path("unused")).module
        self.config = module.config
        self.weights: dict[str, Tensor] = {key: value.detach() for key, value in module.state_dict().items()}
        self.layers: int = self.config.num_hidden_layers
        self.heads: int = self.config.num_attention_heads
        self.width: int = self.config.hidden_size
        self._learned = self.config.model_type == "gpt2"

    def embedded(self, ids: Sequence[int]) -> Tensor:
        """What the first embedding gives: (1, positions, width)."""
        table = self.weights["transformer.wte.weight" if self._learned else "model.embed_tokens.weight"]
        return table[torch.tensor([list(ids)])]

    def logits(self, ids: Sequence[int], tap: Tap = untouched, embedded: Tensor | None = None) -> Tensor:
        """(positions, vocabulary) of one input."""
        x = self.embedded(ids) if embedded is None else embedded
        if self._learned:
            x = x + self.weights["transformer.wpe.weight"][: x.shape[1]]
        for layer in range(self.layers):
            prefix = f"{'transformer.h' if self._learned else 'model.layers'}.{layer}."
            own = {key.removeprefix(prefix): value for key, value in self.weights.items() if key.startswith(prefix)}
            block = Block(own, self.config, layer)
            x = BLOCKS[self.config.model_type](block, x, lambda name, value, at=layer: tap(at, name, value))
        return self.unembedded(x)[0]

    def unembedded(self, x: Tensor) -> Tensor:
        """The final norm and the unembedding."""
        norm = Block(self.weights, self.config, self.layers)
        x = norm.layer_norm(x, "transformer.ln_f") if self._learned else norm.rms_norm(x, "model.norm")
        return functional.linear(x, self.weights["lm_head.weight"])

    def seen(self, ids: Sequence[int], port: str, tap: Tap = untouched) -> list[Tensor]:
        """The value of a standard port in every block."""
        found: list[Tensor] = []

        def look(layer: int, name: str, value: Tensor) -> Tensor:
            value = tap(layer, name, value)
            if name == port:
                found.append(value)
            return value

        self.logits(ids, look)
        return found


def at(port: str, layers: Sequence[int], change: Callable[[int, Tensor], Tensor]) -> Tap:
    """A tap that changes a copy of one port in some blocks."""

    def tap(layer: int, name: str, value: Tensor) -> Tensor:
        return change(layer, value.clone()) if name == port and layer in layers else value

    return tap
