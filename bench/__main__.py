"""``python -m bench``: the cost of a trace beside the bare forward, in one run, as a table, JSON and a plot."""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import telepatch
from bench.local import Local
from bench.measure import in_turns, machine
from bench.stack import Remote, service
from bench.thin import closure, import_seconds

MODELS = ("gpt2-small-random", "smollm2-135m")


def main() -> None:
    """Measure, print, keep."""
    warnings.simplefilter("ignore", telepatch.SlowLoop)  # looking at each value is what is measured
    arguments = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    arguments.add_argument("--models", nargs="+", default=MODELS, help="ids of cards under models/")
    arguments.add_argument("--rounds", type=int, default=40, help="times that each way is measured")
    arguments.add_argument("--threads", type=int, default=2, help="threads of PyTorch, everywhere")
    arguments.add_argument("--out", type=Path, default=Path("bench/results"), help="folder for the JSON and the plot")
    given = arguments.parse_args()
    found = {"machine": machine(), "threads": given.threads, "thin": thin(), "models": {}}
    for model in given.models:
        found["models"][model] = measured(model, given.threads, given.rounds)
        show(model, found["models"][model])
    keep(found, given.out)


def thin() -> dict[str, object]:
    """The client before it does anything."""
    sizes = closure()
    found = {"import_cpu_s": import_seconds(), "installed_bytes": sum(sizes.values()), "distributions": sizes}
    print(
        f"import telepatch: {found['import_cpu_s']:.3f} s of CPU; installed closure: {sum(sizes.values()) / 1e6:.0f} MB"
    )
    return found


def measured(model: str, threads: int, rounds: int) -> dict[str, object]:
    """One model: bare, through the engine, through the whole service; and a batch of 32."""
    local = Local(model, threads)
    with service([model], threads) as url:
        remote = Remote(url, model, local.ids)
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
    many = in_turns({"bare": local.bare_batch(32), "engine": local.through_engine(32)}, max(5, rounds // 8), warm_up=1)
    local.engine.close()
    return {
        "one": {name: times.summary() for name, times in one.items()},
        "overhead_ms": {name: 1e3 * (one[name].median - one["bare"].median) for name in ways if name != "bare"},
        "bytes": {"up": up, "down": down},
        "batch_of_32": {name: times.summary() for name, times in many.items()},
        "batch_ratio": many["engine"].median / many["bare"].median,
    }


def show(model: str, found: dict) -> None:
    """Print one model's figures."""
    print(f"\n{model}: one trace, 16 tokens   median ms   p95 ms   beside bare")
    bare = found["one"]["bare"]["median_ms"]
    for name, times in found["one"].items():
        beside = f"{times['median_ms'] - bare:+.1f} ms, {times['median_ms'] / bare:.2f} times"
        print(f"  {name:28} {times['median_ms']:9.1f} {times['p95_ms']:8.1f}   {beside}")
    print(f"  bytes up {found['bytes']['up']:,}, down {found['bytes']['down']:,}")
    print(f"  32 jobs in one batch: {found['batch_ratio']:.2f} times the bare batch of 32")


def keep(found: dict, out: Path) -> None:
    """Write the JSON and the plot."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "overhead.json").write_text(json.dumps(found, indent=1) + "\n")
    plot(found["models"], out / "overhead.png")
    print(f"\nkept: {out / 'overhead.json'}, {out / 'overhead.png'}")


def plot(models: dict[str, dict], file: Path) -> None:
    """Medians side by side, one group a model; the line on each bar reaches to p95."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    ways: Sequence[str] = ("bare", "engine", "service", "service, one number")
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for place, way in enumerate(ways):
        medians = [found["one"][way]["median_ms"] for found in models.values()]
        above = [found["one"][way]["p95_ms"] - median for found, median in zip(models.values(), medians, strict=True)]
        places = [number + 0.21 * (place - 1.5) for number in range(len(models))]
        axes.bar(places, medians, 0.19, yerr=[[0] * len(above), above], capsize=3, label=way)
    axes.set_xticks(range(len(models)), list(models))
    axes.set(ylabel="ms for one trace", title="Bare forward, engine in process, whole service over HTTP")
    axes.legend()
    figure.savefig(file, dpi=150)


if __name__ == "__main__":
    main()
