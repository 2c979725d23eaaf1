"""``python -m bench.memory``: the most memory that a worker holds over a loop of a hundred traces, beside hooks.

Every trace saves every layer's residual stream at the last token. The hooks do the same for all prompts as rows of one
forward, in a process of their own that has nothing else. Both are peaks of what is resident (VmHWM of Linux), which
each process forgets before it is measured.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

import telepatch
from bench.report import Figure, given, keep, parser
from bench.stack import service
from bench.sweeps import Bare, prompts

AIM = 1.2
MIB = 2**20


def forget(pid: int) -> None:
    """Let the peak of a process begin anew, at what it holds now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak(pid: int) -> int:
    """Bytes that a process held at most since then."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def hooks(asked: argparse.Namespace) -> int:
    """The peak of hooks, in this process."""
    way = prompts(Bare(asked.model, asked.threads), None)["hooks, all rows"]
    way()
    forget(os.getpid())
    for _ in range(asked.rounds):
        way()
    return peak(os.getpid())


def alone(asked: argparse.Namespace) -> int:
    """The peak of hooks, in a process of their own."""
    words = ["--only-hooks", "--model", asked.model, "--threads", str(asked.threads), "--rounds", str(asked.rounds)]
    command = [sys.executable, "-m", "bench.memory", *words, "--out", str(asked.out)]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.split()[-1])


def served_peak(asked: argparse.Namespace) -> tuple[int, int]:
    """What the worker held before, and at most."""
    bare = Bare(asked.model, asked.threads)
    with service([asked.model], asked.threads) as served, telepatch.connect(served.url, progress=False) as lab:
        way = prompts(bare, lab.model(asked.model))["naive loop"]
        way()
        before, worker = served.rss()["worker"], served.parts["worker"].pid
        forget(worker)
        for _ in range(asked.rounds):
            way()
        return before, peak(worker)


def main() -> None:
    """Measure, print, keep."""
    made = parser("memory", __doc__, rounds=5)
    made.add_argument("--only-hooks", action="store_true", help="print the peak of the hooks, and end")
    asked = given(made)
    if asked.only_hooks:
        print(hooks(asked))
        return
    theirs = alone(asked)
    before, ours = served_peak(asked)
    beside = f"hooks, all rows {theirs / MIB:.0f} MiB; the worker before {before / MIB:.0f} MiB"
    line = Figure("peak memory of 100 prompts", f"{ours / MIB:.0f} MiB", ours / theirs, beside, at_most=AIM)
    keep(asked, [line], {"hooks_bytes": theirs, "worker_bytes": ours, "worker_before_bytes": before})


if __name__ == "__main__":
    main()
