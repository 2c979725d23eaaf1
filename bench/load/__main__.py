"""``python -m bench.load``: people with a key each who ask, look and think, for minutes: how long they wait, whether
anything goes wrong, and whether any process grows.

They ask small and large traces, chains of two, and generations (`bench/load/kinds.py` has the shares), and hold each
answer against the first one to the same question. Results and records are kept for a minute, so that what is kept is
soon as much as it will be; after the warm-up memory should be flat. An error, or another answer than the first, ends
this with exit code 1.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from bench.load.kinds import KINDS
from bench.load.people import Asked, Record, all_people, connected
from bench.load.watching import MIB, Held, watched
from bench.measure import Times
from bench.report import Figure, bars, curves, given, keep, parser
from bench.stack import service

KEPT = {
    "TELEPATCH_RESULT_SECONDS": "60",
    "TELEPATCH_RECORD_SECONDS": "60",
    "TELEPATCH_WORKER_RECENT_BYTES": str(64 * MIB),
}
PARTS = (0.5, 0.9, 0.95, 0.99, 1.0)
FLAT = 1.1
"""What the last quarter of the time may hold beside the first."""


def part(seconds: Sequence[float], share: float) -> float:
    """The smallest that so many are not above."""
    ordered = sorted(seconds)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def by_kind(answered: Sequence[Asked]) -> dict[str, list[float]]:
    """Seconds, of each kind and of all."""
    found = {kind: [one.seconds for one in answered if one.kind == kind] for kind in KINDS}
    return {"all": [one.seconds for one in answered]} | {kind: seconds for kind, seconds in found.items() if seconds}


def figures(record: Record, held: Held, cpu: dict[str, float], wall: float) -> list[Figure]:
    """The lines of the table."""
    jobs = len(record.answered)
    lines = [
        Figure("errors", str(len(record.errors)), float(len(record.errors)), "none", at_most=0),
        Figure("answered", f"{jobs}", beside=f"{jobs / wall:.1f} a second"),
    ]
    for kind, seconds in by_kind(record.answered).items():
        waits = ", ".join(f"{1e3 * part(seconds, share):.0f}" for share in PARTS)
        lines.append(Figure(f"{kind}: p50, p90, p95, p99, most", f"{waits} ms", beside=f"{len(seconds)} of them"))
    for name, used in cpu.items():
        lines.append(
            Figure(f"CPU of the {name}", f"{1e3 * used / max(1, jobs):.1f} ms a job", beside=f"{used / wall:.2f} cores")
        )
    for name, bytes_held in held.bytes.items():
        first, slope = bytes_held[0] / MIB, 60 * held.slope(name) / MIB
        words = f"from {first:.0f} MiB; {slope:+.2f} MiB a minute"
        lines.append(
            Figure(f"memory of the {name}", f"{bytes_held[-1] / MIB:.0f} MiB", held.ratio(name), words, at_most=FLAT)
        )
    return lines


def plots(asked: argparse.Namespace, record: Record, held: Held) -> None:
    """How long each kind took, and what each process held."""
    waits = {
        kind: {"seconds": (Times(tuple(seconds)).median, part(seconds, 0.95))}
        for kind, seconds in by_kind(record.answered).items()
    }
    bars(asked.out / "load.png", f"{asked.users} people: median, and up to p95", "seconds", waits)
    minutes = [at / 60 for at in held.at]
    lines = {name: (minutes, [one / MIB for one in found]) for name, found in held.bytes.items()}
    curves(
        asked.out / "load-memory.png",
        f"Memory, {asked.users} people",
        "minutes",
        "MiB",
        lines,
        scale="linear",
        marker="",
    )


def run(asked: argparse.Namespace) -> tuple[Record, Held, dict[str, float], float]:
    """The whole of it: what people saw, what processes held and used, and how long it took."""
    seconds = 60 * asked.minutes
    with service([asked.model], asked.threads, people=asked.users, settings=KEPT) as served:
        labs = connected(served.url, served.keys)
        models = [lab.model(asked.model) for lab in labs]
        before, own, begun = served.cpu(), time.process_time(), time.perf_counter()
        with watched(served.parts, max(0.2, seconds / 600)) as held:
            record = asyncio.run(all_people(models, seconds, asked.ramp, asked.think))
        wall = time.perf_counter() - begun
        used = {name: after - before[name] for name, after in served.cpu().items()}
        used["driver"] = time.process_time() - own
        for lab in labs:
            lab.close()
    return record, held, used, wall


def main() -> None:
    """Run, print, keep."""
    made = parser("load", __doc__, rounds=None, model="small-random", threads=1)
    made.add_argument("--users", type=int, default=100, help="people, each with a key and a connection")
    made.add_argument("--minutes", type=float, help="how long they go on, 30 if left out")
    made.add_argument("--think", type=float, default=1.0, help="seconds between two questions, on average")
    made.add_argument("--ramp", type=float, default=5.0, help="seconds within which all have begun")
    made.add_argument("--warm-up", type=float, help="seconds before memory counts, a quarter of all if left out")
    asked = given(made)
    asked.minutes = asked.minutes or (0.3 if asked.quick else 30.0)
    asked.users = min(asked.users, 10) if asked.quick else asked.users
    asked.warm_up = 15 * asked.minutes if asked.warm_up is None else asked.warm_up
    record, held, cpu, wall = run(asked)
    warm = held.after(asked.warm_up)
    plots(asked, record, held)
    data: dict[str, Any] = {
        "seconds": wall,
        "errors": record.errors[:100],
        "cpu_seconds": cpu,
        "latency_s": {
            kind: {"count": len(seconds), **{f"p{100 * share:g}": part(seconds, share) for share in PARTS}}
            for kind, seconds in by_kind(record.answered).items()
        },
        "memory": asdict(held),
    }
    keep(asked, figures(record, warm, cpu, wall), data)
    for line in sorted(set(record.errors))[:20]:
        print(f"error: {line}")
    if record.errors:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
