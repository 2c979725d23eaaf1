"""``python -m bench.fairness``: a visitor's traces beside somebody's ten thousand, and people who train in turns.

A visitor sends one trace after the other, with nobody else there, and then beside the queue of somebody else, which is
kept filled. Last, several people train on the same worker: how many steps the first of them has made beside the last,
once everybody has had some slices of its time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httpx
import numpy as np

import telepatch
from bench.measure import Times
from bench.report import Figure, bars, given, keep, milliseconds, parser, summaries
from bench.stack import Service, one_trace, prompt, service
from telepatch_protocol.jobs import ENDED, new_job_id

AT_ONCE = 1000
SLICE_SECONDS = 2.0
STEPS = 200_000


class Hog:
    """Somebody who always has so many jobs queued: the trace that all benches send, saved as one number."""

    def __init__(self, served: Service, key: str, model: Any, jobs: int) -> None:
        self.http = httpx.Client(base_url=served.url, headers={"authorization": f"Bearer {key}"}, timeout=300)
        self.jobs, self.sent, self.vocabulary = jobs, 0, model.card.vocabulary
        last = {"invoke": "x", "index": [":", -1]}
        self.document = {
            "protocol": [1, 0],
            "model": {"id": model.card.id},
            "constants": {"p": prompt(self.vocabulary)},
            "runs": [{"id": "r", "invokes": [{"id": "x", "ids": "$p"}]}],
            "nodes": [
                {"kind": "set", "id": "w", "site": "blocks.3.mlp:output", "value": 0, **last},
                {"kind": "get", "id": "z", "site": "unembed:output", **last},
                {"kind": "call", "id": "m", "op": "amax", "args": ["$z"]},
            ],
            "saves": {"m": "$m"},
        }

    def fill(self, count: int) -> None:
        """Queue more of them, each with a prompt of its own."""
        for _ in range(0, count, AT_ONCE):
            numbers = range(self.sent, self.sent + AT_ONCE)
            self.sent += AT_ONCE
            jobs = [
                {"id": new_job_id(), "document": 0, "constants": {"p": prompt(self.vocabulary, number)}}
                for number in numbers
            ]
            self.http.post("/v1/jobs", json={"documents": [self.document], "jobs": jobs}).raise_for_status()

    def queued(self) -> int:
        """How many there are."""
        return int(self.http.get("/v1/models").raise_for_status().json()["models"][0]["queued"])

    def keep_filled(self, over: threading.Event) -> None:
        """Until it is over."""
        while not over.wait(1.0):
            if (missing := self.jobs - self.queued()) >= AT_ONCE:
                self.fill(missing)

    def leave(self) -> None:
        """Nothing of theirs is left."""
        self.http.post("/v1/jobs/cancel", json={"jobs": "all"}).raise_for_status()


def visits(model: Any, count: int, first: int) -> list[float]:
    """Seconds that each of so many traces took, one after the other."""
    found = []
    for number in range(first, first + count):
        begun = time.perf_counter()
        telepatch.gather(one_trace(model, prompt(model.card.vocabulary, number)))
        found.append(time.perf_counter() - begun)
    return found


def beside(hog: Hog, model: Any, count: int, first: int) -> tuple[list[float], int]:
    """The same beside a queue that is kept filled; and the shortest that it was."""
    over = threading.Event()
    hog.fill(hog.jobs)
    with ThreadPoolExecutor(1) as pool:
        filling = pool.submit(hog.keep_filled, over)
        time.sleep(2.0)
        found = visits(model, count, first)
        left = hog.queued()
        over.set()
        filling.result()
    hog.leave()
    return found, left


def training(served: Service, keys: list[str], model: str, slices: int) -> list[int]:
    """Steps that each of several people's fits has made after so many slices of each."""
    xs = np.random.default_rng(0).standard_normal((256, 64)).astype(np.float32)
    with ExitStack() as stack:
        fits = []
        for key in keys:
            lab = stack.enter_context(telepatch.connect(served.url, key, progress=False))
            with lab.model(model).fit({"x": xs}, batch_size=8, steps=STEPS) as f:
                weight = f.param("w", telepatch.zeros(64))
                f.loss((f.row.x @ weight - 1).square().mean())
            lab.flush()
            fits.append((f, key))
        time.sleep(SLICE_SECONDS * slices * len(keys))
        for f, _ in fits:
            f.cancel()
        return [_steps(served, key, f.job) for f, key in fits]


def _steps(served: Service, key: str, job: str) -> int:
    """The last that a fit told of, before it was cancelled."""
    steps = 0
    with httpx.stream(
        "GET", f"{served.url}/v1/events?after=0-0&job={job}", headers={"authorization": f"Bearer {key}"}, timeout=60
    ) as answer:
        for line in answer.iter_lines():
            event = json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else {}
            steps = event["data"]["done"] if event.get("type") == "progress" else steps
            if event.get("type") in ENDED:
                break
    return steps


def measured(asked: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Times]]:
    """All of it, in turns."""
    jobs, count, slices = (2000, 5, 2) if asked.quick else (asked.jobs, asked.visits, asked.slices)
    waits: dict[str, list[float]] = {"idle": [], "beside the queue": []}
    left: list[int] = []
    settings = {"TELEPATCH_WORKER_SLICE_SECONDS": str(SLICE_SECONDS)}
    with (
        service([asked.model], asked.threads, people=2 + asked.people, settings=settings) as served,
        telepatch.connect(served.url, served.keys[0], progress=False) as lab,
    ):
        model = lab.model(asked.model)
        hog = Hog(served, served.keys[1], model, jobs)
        visits(model, 3, 0)
        for turn in range(asked.rounds):
            waits["idle"] += visits(model, count, 100 * turn)
            found, shortest = beside(hog, model, count, 100 * turn + 50)
            waits["beside the queue"] += found
            left.append(shortest)
        steps = training(served, list(served.keys[2:]), asked.model, slices)
    return {"jobs": jobs, "left": left, "steps": steps, "slices": slices}, {
        name: Times(tuple(one)) for name, one in waits.items()
    }


def main() -> None:
    """Measure, print, keep."""
    warnings.simplefilter("ignore", telepatch.SlowLoop)  # the visitor waits for each trace
    made = parser("fairness", __doc__, rounds=2)
    made.add_argument("--jobs", type=int, default=10_000, help="in the queue of somebody else")
    made.add_argument("--visits", type=int, default=20, help="traces of the visitor, each time")
    made.add_argument("--people", type=int, default=3, help="who train at once")
    made.add_argument("--slices", type=int, default=4, help="of time that each of them has")
    asked = given(made)
    found, times = measured(asked)
    idle, busy = times["idle"], times["beside the queue"]
    steps = found["steps"]
    queue = f"{found['jobs']} jobs of somebody else"
    lines = [
        Figure(f"p95 of a trace beside {queue}", f"{1e3 * busy.p95:.0f} ms", busy.p95 / idle.p95, _idle(idle.p95)),
        Figure(
            f"median of a trace beside {queue}", f"{1e3 * busy.median:.0f} ms", busy.median / idle.median,
            _idle(idle.median),
        ),
        Figure(
            f"steps of {len(steps)} people's fits after {found['slices']} slices each",
            f"{statistics.median(steps):.0f} steps", max(steps) / max(1, min(steps)),
            "the most beside the least", at_most=1.5,
        ),
    ]  # fmt: skip
    drawn = {"a visitor's trace": times}
    bars(asked.out / "fairness.png", f"A trace beside {queue}", "ms", milliseconds(drawn))
    keep(asked, lines, {**summaries(drawn), "fairness": found})


def _idle(seconds: float) -> str:
    return f"with nobody else there {1e3 * seconds:.0f} ms"


if __name__ == "__main__":
    main()
