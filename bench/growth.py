"""``python -m bench.growth``: what grows with the jobs in the queue, with the nodes of a graph, and with time.

Rows a second as so many jobs wait in the queue: the worker is stopped (by a signal) while they are submitted, and timed
from when it goes on. Latency of one trace with a graph of so many nodes. Memory of each process over ten thousand jobs,
with the worker's memory for recent results small enough to be full soon. Exponents are those of a line through the
logarithms of the points from the middle of the range on: 1 is in proportion, 0 is no growth.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import telepatch
from bench.measure import Times, in_turns
from bench.report import Figure, Points, curves, given, keep, parser
from bench.stack import Service, prompt, service, small_trace

JOBS = (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000)
NODES = (10, 30, 100, 300, 1000, 3000, 10_000)
RECENT_BYTES = 2**20
CHUNK = 100
"""Jobs between two looks at the memory."""


def exponent(points: Points) -> float:
    """The slope through logarithms, over the upper half of the points."""
    across, up = (np.log(np.array(one, dtype=float)) for one in points)
    half = len(across) // 2
    return float(np.polyfit(across[half:], up[half:], 1)[0])


def drained(served: Service, lab: Any, model: Any, jobs: int, first: int) -> tuple[float, float]:
    """Seconds to submit so many jobs, and seconds that a worker takes for them once they all wait."""
    worker = served.parts["worker"]
    worker.suspend()
    try:
        begun = time.perf_counter()
        kept = [small_trace(model, prompt(model.card.vocabulary, first + number)) for number in range(jobs)]
        lab.flush()
        submitted = time.perf_counter() - begun
    finally:
        worker.resume()
    begun = time.perf_counter()
    lab.wait()
    taken = time.perf_counter() - begun
    telepatch.gather(kept[-1])
    return submitted, taken


def queue(served: Service, lab: Any, model: Any, sizes: Sequence[int], rounds: int) -> dict[str, Any]:
    """All numbers of jobs, in turns."""
    submitted: dict[int, list[float]] = {size: [] for size in sizes}
    taken: dict[int, list[float]] = {size: [] for size in sizes}
    first = 0
    for _ in range(rounds):
        for size in sizes:
            found = drained(served, lab, model, size, first)
            submitted[size].append(found[0])
            taken[size].append(found[1])
            first += size
            print(f"{size} jobs: {found[0]:.2f} s to submit, {size / found[1]:.1f} jobs/s from the queue", flush=True)
    return {
        "jobs": list(sizes),
        "submit_seconds": [statistics.median(submitted[size]) for size in sizes],
        "seconds": [statistics.median(taken[size]) for size in sizes],
    }


def long_graph(model: Any, nodes: int) -> Callable[[], None]:
    """A trace whose graph has so many nodes, one after the other."""
    ids = prompt(model.card.vocabulary)

    def run() -> None:
        with model.trace() as t, t.invoke(ids=ids):
            value = model.blocks[2].resid_post[:, -1]
            for _ in range(nodes - 2):
                value = value + 1
            found = value.amax().save()
        found.item()

    return run


def graphs(model: Any, sizes: Sequence[int], rounds: int) -> dict[str, Any]:
    """Latency of all sizes, in turns."""
    times = in_turns({str(size): long_graph(model, size) for size in sizes}, rounds, warm_up=1)
    return {"nodes": list(sizes), "seconds": [one.median for one in times.values()], "times": summary(times)}


def summary(times: dict[str, Times]) -> dict[str, dict[str, float]]:
    """As they are kept."""
    return {name: one.summary() for name, one in times.items()}


def memory(served: Service, model: Any, jobs: int) -> dict[str, list[int]]:
    """Bytes that each process holds, after each hundred jobs."""
    found: dict[str, list[int]] = {name: [] for name in served.parts}
    for first in range(0, jobs, CHUNK):
        telepatch.gather([small_trace(model, prompt(model.card.vocabulary, first + one)) for one in range(CHUNK)])
        for name, held in served.rss().items():
            found[name].append(held)
    return found


def figures(found: dict[str, Any]) -> list[Figure]:
    """The lines of what was measured."""
    lines = []
    if "queue" in found:
        waiting = found["queue"]
        rates = [jobs / taken for jobs, taken in zip(waiting["jobs"], waiting["seconds"], strict=True)]
        power = exponent((waiting["jobs"], rates))
        value = f"{rates[-1]:.1f} jobs/s"
        beside = f"best {max(rates):.1f} jobs/s; exponent of the rate {power:+.2f}"
        lines.append(Figure(f"{waiting['jobs'][-1]:,} jobs in the queue", value, rates[-1] / max(rates), beside))
    if "graph" in found:
        grown = found["graph"]
        seconds = grown["seconds"]
        power = exponent((grown["nodes"], seconds))
        beside = f"{grown['nodes'][0]} nodes {1e3 * seconds[0]:.0f} ms; exponent {power:.2f}"
        value = f"{1e3 * seconds[-1]:.0f} ms"
        lines.append(Figure(f"a graph of {grown['nodes'][-1]:,} nodes", value, seconds[-1] / seconds[0], beside))
    for name, held in found.get("memory", {}).items():
        tenth = max(1, len(held) // 10)
        before, after = (statistics.mean(part) / 2**20 for part in (held[:tenth], held[-tenth:]))
        what = f"memory of the {name}, last tenth of {CHUNK * len(held):,} jobs"
        first = f"first tenth {before:.0f} MiB"
        aim = None if name == "queue" else 1.05  # the queue keeps results and records for as long as it is told
        lines.append(Figure(what, f"{after:.0f} MiB", after / before, first, at_most=aim))
    return lines


def plots(asked: argparse.Namespace, found: dict[str, Any]) -> None:
    """One for each that was measured."""
    if "queue" in found:
        waiting = found["queue"]
        lines = {
            "from the queue": waiting["seconds"],
            "submitting": waiting["submit_seconds"],
        }
        rates = {
            name: (waiting["jobs"], [n / one for n, one in zip(waiting["jobs"], seconds, strict=True)])
            for name, seconds in lines.items()
        }
        curves(asked.out / "growth-queue.png", "Jobs that wait in the queue", "jobs", "jobs a second", rates)
    if "graph" in found:
        points = {"one trace": (found["graph"]["nodes"], found["graph"]["seconds"])}
        curves(asked.out / "growth-graph.png", "Graphs of many nodes", "nodes", "seconds", points)
    if "memory" in found:
        held = {
            name: ([CHUNK * (place + 1) for place in range(len(one))], [bytes / 2**20 for bytes in one])
            for name, one in found["memory"].items()
        }
        curves(asked.out / "growth-memory.png", "Memory of each process", "jobs", "MiB", held)


def measured(asked: argparse.Namespace) -> dict[str, Any]:
    """What was asked for, on one service each."""
    most = 300 if asked.quick else asked.most
    found: dict[str, Any] = {}
    small = {"TELEPATCH_WORKER_RECENT_BYTES": str(RECENT_BYTES)}
    for case in asked.cases:
        with (
            service([asked.model], asked.threads, settings=small) as served,
            telepatch.connect(served.url, progress=False) as lab,
        ):
            model = lab.model(asked.model)
            small_trace(model, prompt(model.card.vocabulary)).item()
            if case == "queue":
                found[case] = queue(served, lab, model, [one for one in JOBS if one <= most], asked.rounds)
            elif case == "graph":
                found[case] = graphs(model, [one for one in NODES if one <= most], asked.rounds)
            else:
                found[case] = memory(served, model, most)
    return found


def main() -> None:
    """Measure, print, keep."""
    warnings.simplefilter("ignore", telepatch.SlowLoop)  # looking at each value is what is measured
    made = parser("growth", __doc__, rounds=3, model="small-random")
    made.add_argument("--cases", nargs="+", default=["queue", "graph", "memory"], choices=["queue", "graph", "memory"])
    made.add_argument("--most", type=int, default=10_000, help="jobs and nodes")
    asked = given(made)
    found = measured(asked)
    plots(asked, found)
    keep(asked, figures(found), found)


if __name__ == "__main__":
    main()
