"""``python -m bench.overhead``: a thousand traces of one structure in a naive loop, on a model of next to no cost.

What a trace costs beyond its forward: over the service, with all values looked at together after the loop or each at
once, and with nnsight in this process, trace by trace or as invokes of as few traces as is best (sizes are tried in the
same run). Each trace has a prompt of its own, reads a layer, zeroes an MLP position, and saves the layer and the last
logits.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

import telepatch
from bench.local import Local
from bench.measure import Times, in_turns
from bench.report import Figure, bars, given, keep, milliseconds, parser, summaries
from bench.stack import one_trace, prompt, service
from telepatch_worker.byte_tokenizer import byte_tokenizer

SIZES = (8, 32, 128)
CHECKED = 8
Loop = Callable[[int], list[Any]]
"""The last logits of so many traces."""


class InProcess:
    """Bare, and under nnsight."""

    def __init__(self, model: str, threads: int) -> None:
        import nnsight

        self.local = Local(model, threads)
        self.keep: Callable[[Any], Any] = vars(nnsight)["save"]
        self.module = self.local.bare_model.module
        tokenizer = byte_tokenizer(self.local.card.limits.max_positions)  # it asks for one; ids are given
        under = self.local.another().module
        self.model: Any = nnsight.TransformersModel(under, tokenizer=tokenizer, task="text-generation")

    def ids(self, number: int) -> torch.Tensor:
        """The prompt of one trace."""
        return torch.tensor([prompt(self.local.card.vocabulary, number)])

    def forwards(self, traces: int) -> list[Any]:
        """The forwards alone, one after the other; their last logits without any change."""
        with torch.no_grad():
            return [self.module(input_ids=self.ids(one), use_cache=False).logits[:, -1] for one in range(traces)]

    def naive(self, traces: int) -> list[Any]:
        """One trace after the other."""
        found = []
        blocks, head = self.model.transformer.h, self.model.lm_head
        for number in range(traces):
            with torch.no_grad(), self.model.trace(self.ids(number), use_cache=False):
                hidden = self.keep(blocks[2].output)
                blocks[3].mlp.output[:, -1] = 0
                logits = self.keep(head.output[:, -1])
            found.append((hidden, logits))
        return [logits for _, logits in found]

    def invokes(self, size: int) -> Loop:
        """So many prompts as invokes of one trace."""

        def run(traces: int) -> list[Any]:
            found: list[Any] = []
            blocks, head = self.model.transformer.h, self.model.lm_head
            for first in range(0, traces, size):
                with torch.no_grad(), self.model.trace(use_cache=False) as tracer:
                    streams, kept = self.keep([]), self.keep([])
                    for number in range(first, min(first + size, traces)):
                        with tracer.invoke(self.ids(number)):
                            streams.append(blocks[2].output)
                            blocks[3].mlp.output[:, -1] = 0
                            kept.append(head.output[:, -1])
                found += kept
            return found

        return run


def over_http(model: Any, *, together: bool) -> Loop:
    """One trace after the other through the whole service."""

    def run(traces: int) -> list[Any]:
        found = []
        for number in range(traces):
            kept = one_trace(model, prompt(model.card.vocabulary, number))
            found.append(kept if together else telepatch.gather(kept))
        return [torch.as_tensor(logits) for _, logits in (telepatch.gather(found) if together else found)]

    return run


def figures(times: dict[str, Times], traces: int, nnsight: str) -> list[Figure]:
    """What a trace costs beyond the bare forward."""
    each = {name: 1e3 * one.median / traces for name, one in times.items()}
    lines = []
    for name in list(each)[1:]:
        more = each[name] - each["bare forwards"]
        beside = f"{each[name]:.2f} ms in all, bare {each['bare forwards']:.2f} ms; ratio to {nnsight}"
        lines.append(Figure(f"a trace of {traces:,}, {name}", f"{more:+.2f} ms", each[name] / each[nnsight], beside))
    return lines


def main() -> None:
    """Measure, compare, print, keep."""
    warnings.simplefilter("ignore", telepatch.SlowLoop)  # looking at each value is what is measured
    made = parser("overhead", __doc__, rounds=3, model="small-random")
    made.add_argument("--traces", type=int, help="in a loop, 1,000 if left out")
    asked = given(made)
    traces = asked.traces or (100 if asked.quick else 1000)
    here = InProcess(asked.model, asked.threads)
    with service([asked.model], asked.threads) as served, telepatch.connect(served.url, progress=False) as lab:
        model = lab.model(asked.model)
        loops: dict[str, Loop] = {
            "bare forwards": here.forwards,
            "nnsight, loop": here.naive,
            **{f"nnsight, {size} invokes a trace": here.invokes(size) for size in SIZES},
            "service, looked at together": over_http(model, together=True),
            "service, each looked at": over_http(model, together=False),
        }
        wanted = here.naive(CHECKED)
        for loop in list(loops.values())[1:]:
            torch.testing.assert_close(loop(CHECKED), wanted, rtol=1e-4, atol=1e-4)
        ways = {name: partial(loop, traces) for name, loop in loops.items()}
        times = in_turns(ways, asked.rounds, warm_up=0)
    found = {f"{traces:,} traces": times}
    bars(asked.out / "overhead.png", "Traces of one structure in a loop", "ms", milliseconds(found))
    keep(asked, figures(times, traces, "nnsight, loop"), summaries(found))


if __name__ == "__main__":
    main()
