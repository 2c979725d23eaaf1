"""``python -m bench.gradients``: the gradient of a logit difference at all layers, beside PyTorch's own, in turns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from bench.local import Local
from bench.measure import Times, in_turns
from bench.report import Figure, bars, given, keep, milliseconds, parser, summaries
from telepatch_protocol.wire import from_dict
from telepatch_worker.engine import Task

MARY, JOHN = 11, 12


class Race:
    """One model: bare with hooks, and through the engine.

    Args:
        model: id of a card under models/.
        threads: of PyTorch.
    """

    def __init__(self, model: str, threads: int) -> None:
        self.local = Local(model, threads)
        self.model = model
        card = self.local.engine.card
        self.blocks = card.aliases.modules["blocks.*"]
        self.layers = sum(1 for one in card.modules if one.path.rpartition(".")[0] == self.blocks.rpartition(".")[0])

    def plain(self, rows: int) -> Callable[[], torch.Tensor]:
        """Hooks that make each block's output a leaf, one forward over all rows, one backward pass."""
        module, ids = self.local.bare_model.module, torch.tensor([self.local.ids] * rows)

        def run() -> torch.Tensor:
            leaves: list[torch.Tensor] = []

            def keep(module: torch.nn.Module, taken: Any, given: Any) -> Any:
                tensor = given[0] if isinstance(given, tuple) else given
                tensor = tensor if tensor.requires_grad else tensor.detach().requires_grad_()
                leaves.append(tensor)
                return (tensor, *given[1:]) if isinstance(given, tuple) else tensor

            places = [self.blocks.replace("*", str(layer)) for layer in range(self.layers)]
            handles = [module.get_submodule(place).register_forward_hook(keep) for place in places]
            try:
                logits = module(input_ids=ids, use_cache=False).logits[:, -1]
            finally:
                for handle in handles:
                    handle.remove()
            total = (logits[:, MARY] - logits[:, JOHN]).sum()
            return torch.stack(torch.autograd.grad(total, leaves))

        return run

    def ours(self, jobs: int) -> Callable[[], torch.Tensor]:
        """As many jobs of one row each."""
        nodes: list[dict[str, Any]] = [
            {"kind": "get", "id": "h", "site": "blocks.*:resid_post", "invoke": "x"},
            {"kind": "get", "id": "a", "site": "lm_head:output", "invoke": "x", "index": [0, -1, MARY]},
            {"kind": "get", "id": "b", "site": "lm_head:output", "invoke": "x", "index": [0, -1, JOHN]},
            {"kind": "call", "id": "d", "op": "sub", "args": ["$a", "$b"]},
            {"kind": "grad", "id": "g", "of": "$d", "wrt": ["$h"]},
        ]
        document: dict[str, Any] = {
            "protocol": [1, 0],
            "model": {"id": self.model},
            "runs": [{"id": "r", "invokes": [{"id": "x", "ids": list(self.local.ids)}]}],
            "nodes": nodes,
            "saves": {"g": "$g.0"},
        }
        graph = from_dict(document)
        tasks = [Task(f"job-{number}", graph) for number in range(jobs)]

        def run() -> torch.Tensor:
            outcomes = self.local.engine.run(tasks)
            found = [one.saved["g"] for one in outcomes if one.saved is not None]
            assert len(found) == jobs, [one.error for one in outcomes]
            return torch.cat(found, 1)

        return run


def main() -> None:
    """Measure, print, keep."""
    made = parser("gradients", __doc__, rounds=9)
    made.add_argument("--jobs", type=int, default=8, help="how many people ask at once in the second comparison")
    asked = given(made)
    race = Race(asked.model, asked.threads)
    lines: list[Figure] = []
    found: dict[str, dict[str, Times]] = {}
    for jobs in (1, asked.jobs):
        ways = {"autograd": race.plain(jobs), "engine": race.ours(jobs)}
        torch.testing.assert_close(ways["engine"](), ways["autograd"](), rtol=1e-4, atol=1e-6)
        times = in_turns(ways, asked.rounds, warm_up=1)
        found[f"{jobs} at once"] = times
        ours, plain = times["engine"].median, times["autograd"].median
        what = f"gradient at {race.layers} layers, {jobs} at once"
        lines.append(Figure(what, f"{1e3 * ours:.0f} ms", ours / plain, f"autograd {1e3 * plain:.0f} ms"))
    bars(asked.out / "gradients.png", "A logit difference's gradient at all layers", "ms", milliseconds(found))
    keep(asked, lines, {"jobs": summaries(found)})


if __name__ == "__main__":
    main()
