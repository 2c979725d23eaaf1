"""``python -m bench.one``: the cost of one trace beside the bare forward, in process and over HTTP, in turns."""

from __future__ import annotations

import argparse
import warnings
from typing import Any

import telepatch
from bench.local import Local
from bench.measure import in_turns
from bench.report import Figure, bars, given, keep, parser
from bench.stack import Remote, service
from bench.thin import closure, import_seconds

MODELS = ("gpt2-small-random", "smollm2-135m")
BATCH = 32


def thin() -> dict[str, Any]:
    """The client before it does anything."""
    sizes = closure()
    return {"import_cpu_s": import_seconds(), "installed_bytes": sum(sizes.values()), "distributions": sizes}


def measured(model: str, threads: int, rounds: int) -> dict[str, Any]:
    """One model: bare, through the engine, through the whole service; and a batch of 32."""
    local = Local(model, threads)
    with service([model], threads) as served:
        remote = Remote(served.url, model, local.ids)
        trace = remote.trace()
        ways = {
            "bare": local.bare,
            "engine": local.through_engine(),
            "service": trace,
            "service, one number": remote.small_trace(),
        }
        one = in_turns(ways, rounds)
        up, down = remote.bytes_of(trace)
        remote.lab.close()
    batches = {"bare": local.bare_batch(BATCH), "engine": local.through_engine(BATCH)}
    many = in_turns(batches, max(2, rounds // 8), warm_up=1)
    local.engine.close()
    return {
        "one": {name: times.summary() for name, times in one.items()},
        "overhead_ms": {name: 1e3 * (one[name].median - one["bare"].median) for name in ways if name != "bare"},
        "bytes": {"up": up, "down": down},
        "batch_of_32": {name: times.summary() for name, times in many.items()},
        "batch_ratio": many["engine"].median / many["bare"].median,
    }


def figures(model: str, found: dict[str, Any]) -> list[Figure]:
    """The lines of one model."""
    bare = found["one"]["bare"]["median_ms"]
    lines = []
    for name, times in found["one"].items():
        if name == "bare":
            continue
        value = f"{times['median_ms']:.1f} ms, p95 {times['p95_ms']:.1f}"
        beside = f"bare {bare:.1f} ms: {times['median_ms'] - bare:+.1f} ms"
        lines.append(Figure(f"{model}, {name}", value, times["median_ms"] / bare, beside))
    moved = f"{found['bytes']['up']:,} up, {found['bytes']['down']:,} down"
    batch = {name: one["median_ms"] for name, one in found["batch_of_32"].items()}
    beside = f"bare batch of {BATCH} {batch['bare']:.0f} ms"
    lines.append(Figure(f"{model}, bytes", moved))
    lines.append(Figure(f"{model}, {BATCH} jobs in a batch", f"{batch['engine']:.0f} ms", found["batch_ratio"], beside))
    return lines


def plot(asked: argparse.Namespace, models: dict[str, dict[str, Any]]) -> None:
    """Medians side by side."""
    groups = {
        model: {way: (times["median_ms"], times["p95_ms"]) for way, times in found["one"].items()}
        for model, found in models.items()
    }
    title = "Bare forward, engine in process, whole service over HTTP"
    bars(asked.out / "one.png", title, "ms for one trace", groups)


def main() -> None:
    """Measure, print, keep."""
    warnings.simplefilter("ignore", telepatch.SlowLoop)  # looking at each value is what is measured
    made = parser("one", __doc__, rounds=40, model=None)
    made.add_argument("--models", nargs="+", default=MODELS, help="ids of cards under models/")
    asked = given(made)
    light = thin()
    models = {model: measured(model, asked.threads, asked.rounds) for model in asked.models}
    plot(asked, models)
    size = f"{light['installed_bytes'] / 1e6:.0f} MB with all it needs"
    lines = [Figure("import telepatch", f"{light['import_cpu_s']:.3f} s of CPU", beside=size)]
    lines += [line for model, found in models.items() for line in figures(model, found)]
    keep(asked, lines, {"thin": light, "models": models})


if __name__ == "__main__":
    main()
