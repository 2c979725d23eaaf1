"""``python -m bench.sweeps``: naive loops of single traces over the service, beside hand-written hooks, in turns.

Each case is written twice: as a person writes it who thinks of nothing but the experiment, one trace after the other,
and as an expert writes it in PyTorch, all variants as rows of one forward under hooks. Of the patches there is a third
way, the practical limit: rows that join at the block at which they are patched, and two columns of the last logits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch

import telepatch
from bench.hooks import Hook, hooked
from bench.local import Local
from bench.measure import Times, in_turns
from bench.report import Figure, bars, given, keep, milliseconds, parser, summaries
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
        self.model = cast(Any, self.local.bare_model.module)
        self.blocks: list[Any] = list(self.model.transformer.h)
        self.heads: int = self.model.config.n_head
        self.clean = self.local.ids
        self.corrupted = [*self.clean[:4], 17, *self.clean[5:]]

    def forward(self, ids: list[list[int]], **more: Any) -> torch.Tensor:
        """Logits."""
        with torch.no_grad():
            found: torch.Tensor = self.model(input_ids=torch.tensor(ids), use_cache=False, **more).logits
        return found

    def reading(self, modules: Sequence[Any], take: Callable[[Any, Any], torch.Tensor]) -> list[torch.Tensor]:
        """What passes some modules on the clean prompt."""
        return self.passing(modules, take, [self.clean])

    def passing(
        self, modules: Sequence[Any], take: Callable[[Any, Any], torch.Tensor], ids: list[list[int]]
    ) -> list[torch.Tensor]:
        """What passes some modules, taken from their arguments or output."""
        seen: list[torch.Tensor] = []
        with hooked(modules, lambda number: lambda module, given, out: seen.append(take(given, out))):
            self.forward(ids, logits_to_keep=1)
        return seen

    def streams(self, ids: list[list[int]]) -> list[torch.Tensor]:
        """The residual stream after every block."""
        return self.passing(self.blocks, lambda given, out: out, ids)


def difference(logits: Any) -> Any:
    """Of two columns of the last logits."""
    return logits[:, -1, MARY] - logits[:, -1, JOHN]


def patched(bare: Bare, model: Any, port: str, variants: Sequence[tuple[int, Any]]) -> torch.Tensor:
    """The loop of all patches: the clean run's value at a port, one part of one block at a time."""
    with model.trace() as t, t.invoke(ids=bare.clean):
        clean = [getattr(block, port).save() for block in model.blocks]
    found = []
    for layer, part in variants:
        with model.trace() as t, t.invoke(ids=bare.corrupted):
            getattr(model.blocks[layer], port)[part] = clean[layer][part]
            found.append(difference(model.unembed.output).save())
    return torch.tensor([float(one.item()) for one in telepatch.gather(*found)])


def patches(bare: Bare, model: Any) -> Ways:
    """Residual patches: every block, eight positions, one trace each."""
    variants = [(layer, at) for layer in range(len(bare.blocks)) for at in range(PLACES)]

    def hooks() -> torch.Tensor:
        clean = bare.streams([bare.clean])

        def patch(layer: int) -> Hook:
            def hook(module: Any, given: Any, out: torch.Tensor) -> torch.Tensor:
                for at in range(PLACES):
                    out[layer * PLACES + at, at] = clean[layer][0, at]
                return out

            return hook

        with hooked(bare.blocks, patch):
            return torch.as_tensor(difference(bare.forward([bare.corrupted] * len(variants))))

    def joining() -> torch.Tensor:
        clean = bare.streams([bare.clean])

        def join(layer: int) -> Hook:
            def hook(module: Any, given: Any, out: torch.Tensor) -> torch.Tensor:
                copies = out[:1].repeat(PLACES, 1, 1)
                for at in range(PLACES):
                    copies[at, at] = clean[layer][0, at]
                return torch.cat([out, copies])

            return hook

        with hooked(bare.blocks, join), torch.no_grad():
            last = bare.model.transformer(input_ids=torch.tensor([bare.corrupted]), use_cache=False)[0][1:, -1]
            two = last @ bare.model.lm_head.weight[[MARY, JOHN]].T
        return torch.as_tensor(two[:, 0] - two[:, 1])

    def naive() -> torch.Tensor:
        return patched(bare, model, "resid_post", [(layer, (slice(None), at)) for layer, at in variants])

    return {"hooks, all rows": hooks, "limit: rows that join": joining, "naive loop": naive}


def heads(bare: Bare, model: Any) -> Ways:
    """Head patches: every head of every block gets the clean run's output."""
    count, width = bare.heads, bare.model.config.n_embd // bare.heads
    projections = [block.attn.c_proj for block in bare.blocks]
    variants = [(layer, head) for layer in range(len(projections)) for head in range(count)]

    def hooks() -> torch.Tensor:
        clean = bare.reading(projections, lambda given, out: given[0])

        def patch(layer: int) -> Hook:
            def hook(module: Any, given: Any) -> Any:
                value = given[0]
                for head in range(count):
                    part = slice(head * width, (head + 1) * width)
                    value[layer * count + head, :, part] = clean[layer][0, :, part]
                return (value, *given[1:])

            return hook

        with hooked(projections, patch, before=True):
            return torch.as_tensor(difference(bare.forward([bare.corrupted] * len(variants))))

    def naive() -> torch.Tensor:
        return patched(bare, model, "z", [(layer, (slice(None), slice(None), head)) for layer, head in variants])

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
AIMS = {"patches": 0.55, "heads": 0.7, "lens": 1.2, "prompts": 1.2}
"""Of the naive loop, beside the hooks."""
LIMIT_AIM = 1.25


def figures(case: str, times: dict[str, Times]) -> list[Figure]:
    """The naive loop beside every other way."""
    *others, naive = times.items()
    lines = []
    for way, one in others:
        aim = LIMIT_AIM if way.startswith("limit") else AIMS[case]
        value, beside = f"{1e3 * naive[1].median:.0f} ms", f"{way} {1e3 * one.median:.0f} ms"
        lines.append(Figure(f"{case}, {naive[0]}", value, naive[1].median / one.median, beside, at_most=aim))
    return lines


def main() -> None:
    """Measure, compare, print, keep."""
    made = parser("sweeps", __doc__, rounds=5)
    made.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    asked = given(made)
    bare = Bare(asked.model, asked.threads)
    lines: list[Figure] = []
    found: dict[str, dict[str, Times]] = {}
    with service([asked.model], asked.threads) as served, telepatch.connect(served.url, progress=False) as lab:
        for name in asked.cases:
            ways = CASES[name](bare, lab.model(asked.model))
            first, *others = [way() for way in ways.values()]
            for value in others:
                torch.testing.assert_close(value.float(), first.float(), rtol=1e-3, atol=1e-3)
            found[name] = in_turns(ways, asked.rounds, warm_up=1)
            lines += figures(name, found[name])
    bars(asked.out / "sweeps.png", "Naive loops over the service beside hand-written hooks", "ms", milliseconds(found))
    keep(asked, lines, {"cases": summaries(found)})


if __name__ == "__main__":
    main()
