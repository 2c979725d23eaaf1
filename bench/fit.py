"""``python -m bench.fit``: a linear probe on 10,000 activations, through the engine and in plain PyTorch, in turns."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench.measure import Times, in_turns
from bench.report import Figure, bars, given, keep, milliseconds, parser, summaries
from telepatch_protocol.jobs import new_job_id
from telepatch_protocol.wire import from_dict
from telepatch_worker.engine import Engine, Task
from telepatch_worker.examples import shuffled
from telepatch_worker.load import load

MODELS = Path(__file__).parents[1] / "models"
ROWS, CLASSES, EPOCHS = 10_000, 2, 3


def call(id: str, op: str, *args: object) -> dict[str, object]:
    """A node."""
    return {"kind": "call", "id": id, "op": op, "args": list(args)}


class Probe:
    """The same training both ways.

    Args:
        width: of an activation.
        batch: rows of a step.
    """

    def __init__(self, width: int, batch: int) -> None:
        self.batch = batch
        generator = torch.Generator().manual_seed(0)
        self.rows = torch.randn(ROWS, width, generator=generator)
        self.labels = (self.rows[:, 0] > 0).long()
        self.engine = Engine(load(MODELS / "gpt2-random.toml", cache=Path(tempfile.gettempdir()) / "telepatch-bench"))

    def plain(self) -> torch.Tensor:
        """The loop as a person writes it."""
        weight = torch.zeros(self.rows.shape[1], CLASSES, requires_grad=True)
        bias = torch.zeros(CLASSES, requires_grad=True)
        made = torch.optim.Adam([weight, bias], 0.01)
        losses = []
        for epoch in range(EPOCHS):
            order = shuffled(ROWS, [0], epoch)
            assert order is not None
            for at in range(0, ROWS - self.batch + 1, self.batch):
                chosen = order[at : at + self.batch]
                made.zero_grad()
                scores = self.rows[chosen] @ weight + bias
                loss = torch.nn.functional.cross_entropy(scores, self.labels[chosen])
                loss.backward()
                made.step()
                losses.append(loss.item())
        return weight.detach()

    def served(self) -> torch.Tensor:
        """The same as a job, checked, planned and run by the engine."""
        body = [call("m", "matmul", "$x", "$W"), call("z", "add", "$m", "$b"), call("ce", "cross_entropy", "$z", "$y")]
        fit = {
            "kind": "fit",
            "id": "f",
            "over": {"x": "$rows", "y": "$labels"},
            "buffer": {},
            "batch_size": self.batch,
            "epochs": EPOCHS,
            "shuffle": [0],
            "params": {"W": {"init": "$W0"}, "b": {"init": "$b0"}},
            "optimiser": {"name": "adam", "lr": 0.01},
            "body": {"nodes": body, "out": {"loss": "$ce"}},
        }
        start = [call("W0", "zeros", [self.rows.shape[1], CLASSES]), call("b0", "zeros", [CLASSES])]
        document: dict[str, Any] = {
            "protocol": [1, 0],
            "model": {"id": "gpt2-random"},
            "nodes": [*start, fit],
            "saves": {"W": "$f.W"},
            "constants": {"rows": {"tensor": "rows"}, "labels": {"tensor": "labels"}},
        }
        task = Task(new_job_id(), from_dict(document), attachment={"rows": self.rows, "labels": self.labels})
        [outcome] = self.engine.run([task])
        if outcome.saved is None:
            raise RuntimeError(str(outcome.error))
        return outcome.saved["W"]


def main() -> None:
    """Measure, print, keep."""
    made = parser("fit", __doc__, rounds=9, model=None, threads=1)
    asked = given(made)
    torch.set_num_threads(asked.threads)
    lines: list[Figure] = []
    found: dict[str, dict[str, Times]] = {}
    for width, batch in ((576, 128), (768, 512), (4096, 512)):
        probe = Probe(width, batch)
        if not torch.equal(probe.plain(), probe.served()):
            raise RuntimeError("the two loops do not give the same weights")
        ways: dict[str, Callable[[], object]] = {"PyTorch": probe.plain, "engine": probe.served}
        times = in_turns(ways, asked.rounds, warm_up=1)
        probe.engine.close()
        plain, ours = times["PyTorch"].median, times["engine"].median
        found[f"{width} wide, {batch} a step"] = times
        what = f"probe, {ROWS:,} rows {width} wide, {batch} a step"
        lines.append(Figure(what, f"{1e3 * ours:.0f} ms", ours / plain, f"PyTorch {1e3 * plain:.0f} ms"))
    bars(asked.out / "fit.png", f"A linear probe, {EPOCHS} epochs", "ms", milliseconds(found))
    keep(asked, lines, {"probes": summaries(found)})


if __name__ == "__main__":
    main()
