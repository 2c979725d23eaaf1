"""``python -m bench.sweeps``: naive loops of single traces over the service, beside hand-written hooks, in turns.

Each case is written twice: as a person writes it who thinks of nothing but the experiment, one trace after the other,
and as an expert writes it in PyTorch, all variants as rows of one forward under hooks. Of the patches there is a third
way, the practical limit: rows that join at the block at which they are patched, and two columns of the last logits.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import telepatch
from bench.local import Local
from bench.measure import in_turns, machine
from bench.stack import service

MARY, JOHN, PLACES = 11, 12, 8
Ways = dict[str, Callable[[], Any]]


class Bare:
    """A GPT-2 and hooks on it.

    Args:
        model: id of a card under models/.
        threads: that PyTorch may use.
    """

    def __init__(self, model: str, threads: int) -> None:
        self.local = Local(model, threads)
        self.model: Any = self.local.bare_model.module
        self.blocks = self.model.transformer.h
        self.heads = self.model.config.n_head
        self.clean = self.local.ids
        self.corrupted = [*self.clean[:4], 17, *self.clean[5:]]

    def forward(self, ids: list[list[int]], **more: Any) -> torch.Tensor:
        """Logits."""
        with torch.no_grad():
            found: torch.Tensor = self.model(input_ids=torch.tensor(ids), use_cache=False, **more).logits
        return found

    def reading(
        self, modules: list[Any], take: Callable[[Any, Any], torch.Tensor], ids: list[list[int]], **more: Any
    ) -> Any:
        """What passes some modules, and the logits."""
        seen: list[torch.Tensor] = []
        handles = [one.register_forward_hook(lambda m, a, out: seen.append(take(a, out))) for one in modules]
        try:
            logits = self.forward(ids, **more)
        finally:
            for handle in handles:
                handle.remove()
        return seen, logits

    def streams(self, ids: list[list[int]]) -> list[torch.Tensor]:
        """The residual stream after every block."""
        found, _ = self.reading(list(self.blocks), lambda a, out: out, ids, logits_to_keep=1)
        return list(found)


def difference(logits: torch.Tensor) -> torch.Tensor:
    """Of two columns of the last logits."""
    return logits[:, -1, MARY] - logits[:, -1, JOHN]


def patches(bare: Bare, model: Any) -> Ways:
    """Residual patches: every block, eight positions, one trace each."""
    layers = range(len(bare.blocks))
    variants = [(layer, at) for layer in layers for at in range(PLACES)]

    def hooks() -> torch.Tensor:
        clean = bare.streams([bare.clean])

        def patch(layer: int) -> Callable[..., Any]:
            rows = [row for row, (own, _) in enumerate(variants) if own == layer]

            def hook(module: Any, given: Any, out: torch.Tensor) -> torch.Tensor:
                for row in rows:
                    out[row, variants[row][1]] = clean[layer][0, variants[row][1]]
                return out

            return hook

        handles = [block.register_forward_hook(patch(layer)) for layer, block in enumerate(bare.blocks)]
        try:
            return difference(bare.forward([bare.corrupted] * len(variants)))
        finally:
            for handle in handles:
                handle.remove()

    def joining() -> torch.Tensor:
        clean = bare.streams([bare.clean])

        def hook(layer: int) -> Callable[..., Any]:
            def joined(module: Any, given: Any, out: torch.Tensor) -> torch.Tensor:
                copies = out[:1].repeat(PLACES, 1, 1)
                for at in range(PLACES):
                    copies[at, at] = clean[layer][0, at]
                return torch.cat([out, copies])

            return joined

        handles = [block.register_forward_hook(hook(layer)) for layer, block in enumerate(bare.blocks)]
        try:
            with torch.no_grad():
                last = bare.model.transformer(input_ids=torch.tensor([bare.corrupted]), use_cache=False)[0][1:, -1]
                two = last @ bare.model.lm_head.weight[[MARY, JOHN]].T
            return two[:, 0] - two[:, 1]
        finally:
            for handle in handles:
                handle.remove()

    def naive() -> torch.Tensor:
        with model.trace() as t, t.invoke(ids=bare.clean):
            clean = [block.resid_post.save() for block in model.blocks]
        found = []
        for layer, at in variants:
            with model.trace() as t, t.invoke(ids=bare.corrupted):
                model.blocks[layer].resid_post[:, at] = clean[layer][:, at]
                last = model.unembed.output[:, -1]
                found.append((last[:, MARY] - last[:, JOHN]).save())
        return torch.tensor([float(one.item()) for one in telepatch.gather(*found)])

    return {"hooks, all rows": hooks, "limit: rows that join": joining, "naive loop": naive}


def heads(bare: Bare, model: Any) -> Ways:
    """Head patches: every head of every block gets the clean run's output."""
    count, width = bare.heads, bare.model.config.n_embd // bare.heads
    variants = [(layer, head) for layer in range(len(bare.blocks)) for head in range(count)]
    projections = [block.attn.c_proj for block in bare.blocks]

    def hooks() -> torch.Tensor:
        clean, _ = bare.reading(projections, lambda a, out: a[0], [bare.clean], logits_to_keep=1)

        def patch(layer: int) -> Callable[..., Any]:
            def hook(module: Any, given: Any) -> Any:
                value = given[0]
                for head in range(count):
                    part = slice(head * width, (head + 1) * width)
                    value[layer * count + head, :, part] = clean[layer][0, :, part]
                return (value, *given[1:])

            return hook

        handles = [one.register_forward_pre_hook(patch(layer)) for layer, one in enumerate(projections)]
        try:
            return difference(bare.forward([bare.corrupted] * len(variants)))
        finally:
            for handle in handles:
                handle.remove()

    def naive() -> torch.Tensor:
        with model.trace() as t, t.invoke(ids=bare.clean):
            clean = [block.z.save() for block in model.blocks]
        found = []
        for layer, head in variants:
            with model.trace() as t, t.invoke(ids=bare.corrupted):
                model.blocks[layer].z[:, :, head] = clean[layer][:, :, head]
                last = model.unembed.output[:, -1]
                found.append((last[:, MARY] - last[:, JOHN]).save())
        return torch.tensor([float(one.item()) for one in telepatch.gather(*found)])

    return {"hooks, all rows": hooks, "naive loop": naive}


def lens(bare: Bare, model: Any) -> Ways:
    """Logit lens: the last token's residual stream after every block, through norm and head."""

    def hooks() -> torch.Tensor:
        last = torch.cat([one[:, -1] for one in bare.streams([bare.clean])])
        with torch.no_grad():
            found: torch.Tensor = bare.model.lm_head(bare.model.transformer.ln_f(last)).argmax(-1)
        return found

    def naive() -> torch.Tensor:
        with model.trace() as t, t.invoke(ids=bare.clean):
            last = [block.resid_post[:, -1] for block in model.blocks]
            found = [model.unembed(model.final_norm(one)).argmax(-1).save() for one in last]
        return torch.tensor([int(one.item()) for one in telepatch.gather(*found)])

    return {"hooks": hooks, "naive": naive}


def prompts(bare: Bare, model: Any) -> Ways:
    """A hundred prompts: every layer's residual stream at the last token."""
    ids = [[(one + 7 * row) % 50_000 for one in bare.clean] for row in range(100)]

    def hooks() -> torch.Tensor:
        return torch.stack([one[:, -1] for one in bare.streams(ids)])

    def naive() -> torch.Tensor:
        found = []
        for row in ids:
            with model.trace() as t, t.invoke(ids=row):
                found.append(model.blocks[:].resid_post[..., -1, :].save())
        return torch.cat([torch.from_numpy(one) for one in telepatch.gather(*found)], 1)

    return {"hooks, all rows": hooks, "naive loop": naive}


CASES: dict[str, Callable[[Bare, Any], Ways]] = {"patches": patches, "heads": heads, "lens": lens, "prompts": prompts}


def main() -> None:
    """Measure, compare, print, keep."""
    arguments = argparse.ArgumentParser(prog="python -m bench.sweeps", description=__doc__)
    arguments.add_argument("--model", default="gpt2-small-random")
    arguments.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--out", type=Path, default=Path("bench/results"))
    given = arguments.parse_args()
    bare = Bare(given.model, given.threads)
    found: dict[str, Any] = {"machine": machine(), "threads": given.threads, "model": given.model, "cases": {}}
    with service([given.model], given.threads) as url, telepatch.connect(url, progress=False) as lab:
        for name in given.cases:
            ways = CASES[name](bare, lab.model(given.model))
            values = [way() for way in ways.values()]
            for value in values[1:]:
                torch.testing.assert_close(value.float(), values[0].float(), rtol=1e-3, atol=1e-3)
            times = in_turns(ways, given.rounds, warm_up=1)
            first = next(iter(times.values())).median
            found["cases"][name] = {way: {**one.summary(), "ratio": one.median / first} for way, one in times.items()}
            print(f"\n{name}: {str(CASES[name].__doc__).strip()}")
            for way, one in times.items():
                print(f"  {way:24} {1e3 * one.median:9.1f} ms   {one.median / first:.2f} times")
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "sweeps.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
