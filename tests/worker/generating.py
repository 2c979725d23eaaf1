"""Generations as tests write them: an owner that does what it is told and keeps what it hears, and tiny models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from telepatch_protocol.errors import ExecutionError
from telepatch_protocol.sites import Place
from telepatch_worker.cards import CardFile
from telepatch_worker.decode import Decoder
from telepatch_worker.engine import Engine
from telepatch_worker.generation import Generated, Generation
from telepatch_worker.load import load
from telepatch_worker.moments import Moment
from telepatch_worker.sampling import Sampling
from telepatch_worker.stopping import Ending

SMALL = {
    "vocab_size": 257,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "bos_token_id": 256,
    "eos_token_id": 256,
    "pad_token_id": 256,
}
CONFIGS = {
    "mistral": {**SMALL, "num_key_value_heads": 2, "sliding_window": 12},
    "gemma2": {**SMALL, "num_key_value_heads": 2, "head_dim": 16, "sliding_window": 12},
    "qwen3": {**SMALL, "num_key_value_heads": 2, "head_dim": 16},
    "gpt_neox": SMALL,
    "llama": {**SMALL, "num_key_value_heads": 2},
    "bloom": {"vocab_size": 257, "hidden_size": 32, "n_layer": 3, "n_head": 4, "eos_token_id": 256},
    "mamba": {"vocab_size": 257, "hidden_size": 32, "num_hidden_layers": 3, "state_size": 8, "eos_token_id": 256},
}
"""Architectures that differ in how they hold what they have read."""
_EAGER = ("gemma2", "mamba", "llama", "bloom")

Write = Callable[[torch.Tensor], torch.Tensor]


def tiny(family: str, cache: Path) -> Engine:
    """A model of random weights of some architecture."""
    attention: Any = "eager" if family in _EAGER else "sdpa"
    card = CardFile(
        id=family.replace("_", "-"),
        source=f"config:{family}",
        config=CONFIGS[family],
        tokenizer="bytes",
        seed=5,
        attention=attention,
    )
    return Engine(load(card, cache=cache))


class Person:
    """An owner: reads and writes the same places at every step of all its generations."""

    def __init__(self, engine: Engine, reads: Sequence[str] = (), writes: Mapping[str, Write] | None = None) -> None:
        self.engine = engine
        self.reads = reads
        self.writes = writes or {}
        self.read_values: dict[tuple[str, str], list[torch.Tensor]] = {}
        self.logits: dict[str, list[torch.Tensor]] = {}
        self.steps: list[dict[str, int]] = []
        self.results: dict[str, Generated] = {}
        self.error: Exception | None = None
        self.choose: Callable[[str, int, torch.Tensor], torch.Tensor] = lambda name, step, tokens: tokens
        self.stops: Callable[[str, int], bool] = lambda name, step: False

    def moments(self, steps: Mapping[str, int]) -> Sequence[Moment]:
        self.steps.append(dict(steps))
        sites = [(site, True) for site in self.writes] + [(site, False) for site in self.reads]
        found = [self._moment(site, name, writes) for site, writes in sites for name in steps]
        return sorted(found, key=lambda moment: self._order(moment))

    def _moment(self, site: str, name: str, writes: bool) -> Moment:
        path, _, port = site.partition(":")
        module = self.engine.card.by_path[path]
        card = module.input if port == "input" else module.output
        assert card is not None
        leaf = card.leaves[card.primary]
        return Moment(site, name, writes, Place(path, port, leaf.path), leaf.axes)

    def _order(self, moment: Moment) -> tuple[int, bool]:
        module = self.engine.card.by_path[moment.place.path]
        card = module.input if moment.place.port == "input" else module.output
        assert card is not None
        return card.order[0], not moment.writes

    def read(self, moment: Moment, value: torch.Tensor) -> None:
        self.read_values.setdefault((moment.invoke, moment.node), []).append(value.clone())

    def write(self, moment: Moment, region: torch.Tensor) -> None:
        region[...] = self.writes[moment.node](region)

    def sampled(self, name: str, step: int, tokens: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        self.logits.setdefault(name, []).append(logits.clone())
        return self.choose(name, step, tokens)

    def ends(self, name: str, step: int) -> bool:
        return self.stops(name, step)

    def ended(self, name: str, result: Generated) -> None:
        self.results[name] = result

    def fail(self, error: Exception) -> None:
        self.error = error

    def tokens(self, name: str) -> list[list[int]]:
        if self.error is not None:
            raise self.error
        found = self.results[name]
        return [row[:length] for row, length in zip(found.tokens.tolist(), found.lengths, strict=True)]


def generation(name: str, prompt: Any, new: int = 8, **more: Any) -> Generation:
    """Of these token ids; `texts`, `tokens`, `eos` are of its ending, all else of its sampling. No eos by default."""
    ending = {key: more.pop(key) for key in ("texts", "tokens", "eos") if key in more}
    ids = torch.tensor(prompt)
    return Generation(name, ids if ids.ndim == 2 else ids[None], Sampling(**more), Ending(new, **{"eos": (), **ending}))


def finish(decoder: Decoder, most: int = 2000) -> None:
    """Turn until nothing is left."""
    for _ in range(most):
        if not decoder.busy:
            return
        decoder.turn()
    raise ExecutionError("the loop does not end")


def ids(length: int, seed: int = 0, rows: int = 1, vocabulary: int = 250) -> list[list[int]]:
    """A prompt that looks like no other."""
    return [[(7919 * (place + 1) * (seed + row + 3)) % vocabulary for place in range(length)] for row in range(rows)]


def plain(engine: Engine, prompt: list[list[int]], new: int) -> tuple[list[list[int]], list[torch.Tensor]]:
    """What transformers' `generate` makes of it: new tokens, and the logits of each step."""
    given = torch.tensor(prompt)
    made: Any = engine.loaded.module.generate(
        given,
        attention_mask=torch.ones_like(given),
        max_new_tokens=new,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
    )
    return made.sequences[:, given.shape[1] :].tolist(), list(made.logits)
