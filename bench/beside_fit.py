"""``python -m bench.beside_fit``: traces while somebody trains on the same worker, and how fast the training is.

One person sends a trace each second, whether or not the one before has come back; another trains a steering vector
through the model. Idle, training alone and both are measured in turns. The batch size of the training is the one at
which it is fastest alone, tried in the same run.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import telepatch
from bench.measure import Times
from bench.report import Figure, bars, given, keep, milliseconds, parser, summaries
from bench.stack import one_trace, prompt, service

BATCHES = (1, 4, 8, 16, 32)
ROWS = 256
LAYER = 2


class Trainer:
    """Somebody who trains a vector that is added to the residual stream."""

    def __init__(self, model: Any) -> None:
        self.model = model
        vocabulary = model.card.vocabulary
        ids = [prompt(vocabulary, 17 * row) for row in range(ROWS)]
        self.data = {"ids": ids, "label": [(row * 7) % vocabulary for row in range(ROWS)]}

    def fit(self, batch: int, steps: int) -> Any:
        """Submit the training."""
        with self.model.fit(self.data, batch_size=batch, steps=steps, optimiser=telepatch.Adam(lr=0.001)) as f:
            with f.invoke(ids=f.row.ids):
                stream = self.model.blocks[LAYER].resid_post
                vector = f.param("vector", telepatch.zeros(stream.shape[-1]))
                self.model.blocks[LAYER].resid_post = stream + vector
                logits = self.model.unembed.output[:, -1]
            f.loss(telepatch.cross_entropy(logits, f.row.label[None]))
        return f

    def rate(self, batch: int, steps: int) -> float:
        """Examples a second, from submitting to the losses."""
        begun = time.perf_counter()
        losses = self.fit(batch, steps).losses.numpy()
        assert len(losses) == steps
        return batch * steps / (time.perf_counter() - begun)

    def best(self, examples: int) -> tuple[int, dict[int, float]]:
        """The batch size at which most examples a second are trained on, and what each size came to."""
        self.rate(BATCHES[-1], 1)
        rates = {batch: self.rate(batch, max(1, examples // batch)) for batch in BATCHES}
        return max(rates, key=rates.__getitem__), rates


class Visitor:
    """Somebody who sends a trace each second."""

    def __init__(self, model: Any, period: float) -> None:
        self.model = model
        self.period = period
        self.sent = 0
        self.waiting = ThreadPoolExecutor(16)

    def visit(self, over: threading.Event) -> list[float]:
        """Seconds that each trace took, those sent until it is over."""
        waits: list[Future[float]] = []
        due = time.perf_counter()
        while not over.wait(max(0.0, due - time.perf_counter())):
            self.sent += 1
            waits.append(self.waiting.submit(self._ask, due, self.sent))
            due += self.period
        return [one.result() for one in waits]

    def _ask(self, due: float, number: int) -> float:
        telepatch.gather(one_trace(self.model, prompt(self.model.card.vocabulary, number)))
        return time.perf_counter() - due


def idle(visitor: Visitor, seconds: float) -> list[float]:
    """Visits for so long, with nobody else there."""
    over = threading.Event()
    timer = threading.Timer(seconds, over.set)
    timer.start()
    return visitor.visit(over)


def both(trainer: Trainer, visitor: Visitor, batch: int, steps: int) -> tuple[float, list[float]]:
    """Visits for as long as a training takes, and its examples a second."""
    over = threading.Event()

    def train() -> float:
        try:
            return trainer.rate(batch, steps)
        finally:
            over.set()

    with ThreadPoolExecutor(1) as pool:
        trained = pool.submit(train)
        waits = visitor.visit(over)
        return trained.result(), waits


def measured(asked: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Times]]:
    """All three, in turns."""
    seconds = 4.0 if asked.quick else asked.seconds
    alone: list[float] = []
    beside: list[float] = []
    waits: dict[str, list[float]] = {"idle": [], "beside the fit": []}
    with (
        service([asked.model], asked.threads, people=2) as served,
        telepatch.connect(served.url, served.keys[0], progress=False) as one,
        telepatch.connect(served.url, served.keys[1], progress=False) as other,
    ):
        trainer, visitor = Trainer(one.model(asked.model)), Visitor(other.model(asked.model), asked.period)
        telepatch.gather(one_trace(visitor.model, prompt(visitor.model.card.vocabulary)))
        batch, rates = trainer.best(32 if asked.quick else 128)
        steps = max(1, round(seconds * rates[batch] / batch))
        for _ in range(asked.rounds):
            waits["idle"] += idle(visitor, seconds)
            alone.append(trainer.rate(batch, steps))
            rate, found = both(trainer, visitor, batch, steps)
            beside.append(rate)
            waits["beside the fit"] += found
    found_times = {name: Times(tuple(one)) for name, one in waits.items()}
    return {"batch_size": batch, "tried": rates, "alone": alone, "beside": beside, "steps": steps}, found_times


def main() -> None:
    """Measure, print, keep."""
    warnings.simplefilter("ignore", telepatch.SlowLoop)  # people wait for what they sent
    made = parser("beside_fit", __doc__, rounds=3)
    made.add_argument("--seconds", type=float, default=30.0, help="of each of the three")
    made.add_argument("--period", type=float, default=1.0, help="seconds between two traces")
    asked = given(made)
    found, times = measured(asked)
    quiet, busy = times["idle"], times["beside the fit"]
    value, beside = f"p95 {1e3 * busy.p95:.0f} ms", f"idle p95 {1e3 * quiet.p95:.0f} ms"
    alone, both_rate = statistics.median(found["alone"]), statistics.median(found["beside"])
    fit = f"{both_rate:.1f} examples/s"
    best = f"alone {alone:.1f} examples/s, {found['batch_size']} a step"
    lines = [
        Figure("a trace a second beside a fit", value, busy.p95 / quiet.p95, beside, at_most=2),
        Figure("the fit beside them", fit, both_rate / alone, best, at_least=0.5),
    ]
    drawn = {"a trace a second": times}
    bars(asked.out / "beside_fit.png", "A trace while somebody trains on the same worker", "ms", milliseconds(drawn))
    keep(asked, lines, {**summaries(drawn), "fit": found})


if __name__ == "__main__":
    main()
