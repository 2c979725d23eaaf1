"""``python -m bench.clients``: many people at once beside the bare batched forward, in turns.

Each person has a key and a connection, and sends one trace after the other: read a layer, zero an MLP position, save
the last logits, look at both. Beside it the same model's forward in this process, at the best batch size, number of
threads, and all logits or only the last ones: whichever is fastest, tried in the same run.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch

from bench.crowd import Crowd, Seen, crowd
from bench.local import Local
from bench.measure import Times
from bench.report import Figure, bars, curves, given, keep, parser
from bench.stack import Service, prompt, service

PEOPLE = (1, 4, 16, 32, 64)
SIZES = (1, 4, 16, 32, 64)
FLAT = 22.0
"""Jobs a second that NDIF's service levels off at, however many ask, for a model of next to no cost."""


class Bare:
    """The forward of a batch in this process."""

    def __init__(self, model: str, threads: int, seconds: float) -> None:
        self.local = Local(model, threads)
        self.threads = threads
        self.seconds = seconds
        self.rates: dict[str, list[float]] = {}

    def turn(self, sizes: tuple[int, ...]) -> None:
        """Rows a second at each size, with all logits and with the last ones, on one thread and on all."""
        for threads in sorted({1, self.threads}):
            torch.set_num_threads(threads)
            for size in sizes:
                for name, more in (("all logits", {}), ("last logits", {"logits_to_keep": 1})):
                    way = f"{size} rows, {name}, {threads} threads"
                    self.rates.setdefault(way, []).append(self.rate(size, more))

    def best(self) -> tuple[str, float]:
        """The way with the highest median, and that."""
        medians = {name: statistics.median(found) for name, found in self.rates.items()}
        name = max(medians, key=medians.__getitem__)
        return name, medians[name]

    def rate(self, size: int, more: dict[str, int]) -> float:
        """Rows a second of one way, once."""
        vocabulary = self.local.card.vocabulary
        ids = torch.tensor([prompt(vocabulary, row) for row in range(size)])
        begun, done = time.perf_counter(), 0
        with torch.no_grad():
            while (passed := time.perf_counter() - begun) < self.seconds or not done:
                self.local.bare_model.module(input_ids=ids, use_cache=False, **more)
                done += size
        return done / passed


class Window:
    """What one number of people came to, over all rounds."""

    def __init__(self, people: int) -> None:
        self.people = people
        self.rates: list[float] = []
        self.waits: list[list[float]] = [[] for _ in range(people)]
        self.jobs = 0
        self.cpu: dict[str, float] = {}

    def add(self, found: Seen, seconds: float, cpu: dict[str, float]) -> None:
        """One more round."""
        self.rates.append(found.ended / seconds)
        for mine, new in zip(self.waits, found.waits, strict=True):
            mine += new
        self.jobs += found.jobs
        for name, used in {**cpu, "clients": found.cpu}.items():
            self.cpu[name] = self.cpu.get(name, 0.0) + used

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)

    def summary(self, bare: float) -> dict[str, Any]:
        """As it is kept."""
        whole = Times(tuple(wait for mine in self.waits for wait in mine))
        each = [Times(tuple(mine)).p95 for mine in self.waits]
        return {
            "jobs_per_second": self.rate,
            "rates": self.rates,
            "of_bare": self.rate / bare,
            "p50_ms": 1e3 * whole.median,
            "p95_ms": 1e3 * whole.p95,
            "fairness": max(each) / min(each),
            "each_p95_ms": [1e3 * one for one in each],
            "jobs": self.jobs,
            "cpu_ms_per_job": {name: 1e3 * used / self.jobs for name, used in self.cpu.items()},
        }


def one_window(served: Service, people: Crowd, window: Window, lead: float, seconds: float) -> None:
    """Have so many people ask, and add what they saw and what each process used."""
    before = served.cpu()
    found = people.ask(window.people, lead, seconds)
    after = served.cpu()
    window.add(found, seconds, {name: after[name] - before[name] for name in after})


def measured(asked: argparse.Namespace, model: str) -> dict[str, Any]:
    """One model: bare and served, in turns."""
    seconds, lead = (2.0, 0.5) if asked.quick else (asked.seconds, asked.lead)
    bare = Bare(model, asked.threads, seconds / 16)
    windows = [Window(number) for number in asked.people]
    with (
        service([model], asked.threads, people=max(asked.people)) as served,
        crowd(served.url, model, served.keys, asked.processes) as people,
    ):
        bare.rate(1, {})
        for number in range(asked.rounds):
            bare.turn(SIZES)
            turn = number % len(windows)
            for window in windows[turn:] + windows[:turn]:
                one_window(served, people, window, lead, seconds)
                print(f"{model}, round {number + 1}: {window.people} people, {window.rates[-1]:.1f} jobs/s", flush=True)
    name, best = bare.best()
    found = {str(window.people): window.summary(best) for window in windows}
    return {"bare": bare.rates, "best_bare": {"way": name, "rows_per_second": best}, "people": found}


def figures(model: str, found: dict[str, Any], asked: argparse.Namespace) -> list[Figure]:
    """The lines of one model."""
    best = found["best_bare"]
    lines = []
    for people, one in found["people"].items():
        what = f"{model}, {people} people"
        cpu = ", ".join(f"{name} {used:.1f}" for name, used in one["cpu_ms_per_job"].items())
        beside = f"{best['rows_per_second']:.1f} rows/s bare ({best['way']})"
        lines.append(Figure(what, f"{one['jobs_per_second']:.1f} jobs/s", one["of_bare"], beside))
        waits = f"p50 {one['p50_ms']:.0f}, p95 {one['p95_ms']:.0f} ms"
        lines.append(Figure(f"{what}, waits", waits, one["fairness"], "largest p95 of a person beside the smallest"))
        lines.append(Figure(f"{what}, CPU", "ms per job", beside=cpu))
    if model == asked.small:
        most = max(one["jobs_per_second"] for one in found["people"].values())
        lines.append(Figure(f"{model}, most", f"{most:.1f} jobs/s", most / FLAT, f"NDIF's flat {FLAT:g}", at_least=20))
    return lines


def plots(asked: argparse.Namespace, models: dict[str, dict[str, Any]]) -> None:
    """Jobs a second against people, and where the CPU's time goes."""
    lines = {}
    for model, found in models.items():
        across = [float(people) for people in found["people"]]
        lines[model] = (across, [one["jobs_per_second"] for one in found["people"].values()])
        lines[f"{model}, bare"] = (across, [found["best_bare"]["rows_per_second"]] * len(across))
    curves(asked.out / "clients.png", "Jobs of many people at once", "people", "jobs a second", lines)
    last = {model: list(found["people"].values())[-1]["cpu_ms_per_job"] for model, found in models.items()}
    groups = {model: {name: (used, used) for name, used in cpu.items()} for model, cpu in last.items()}
    bars(asked.out / "clients-cpu.png", "Where the CPU's time goes, most people at once", "ms of CPU a job", groups)


def main() -> None:
    """Measure, print, keep."""
    made = parser("clients", __doc__, rounds=3)
    made.add_argument("--small", default="small-random", help="the model of next to no cost")
    made.add_argument("--only", choices=("model", "small"), help="one of the two models")
    made.add_argument("--people", type=int, nargs="+", default=list(PEOPLE), help="how many ask at once")
    made.add_argument("--processes", type=int, default=1, help="of the people")
    made.add_argument("--seconds", type=float, default=12.0, help="of a window in which jobs are counted")
    made.add_argument("--lead", type=float, default=4.0, help="seconds before it")
    asked = given(made)
    chosen = {"model": [asked.model], "small": [asked.small]}.get(asked.only, [asked.model, asked.small])
    found = {model: measured(asked, model) for model in chosen}
    plots(asked, found)
    keep(asked, [line for model, one in found.items() for line in figures(model, one, asked)], {"models": found})


if __name__ == "__main__":
    main()
