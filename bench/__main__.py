"""``python -m bench``: every bench, one after the other and each in a process of its own, and one table at the end."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from bench.report import RESULTS, Figure, kept, table

NAMES = (
    "one",
    "clients",
    "overhead",
    "sweeps",
    "memory",
    "generation",
    "gradients",
    "fit",
    "beside_fit",
    "fairness",
    "growth",
)
ALSO = ("gpu", "load")
"""Only where they are asked for: one needs a machine of its own kind, the other half an hour."""


def main() -> None:
    """Run those that are asked for, and print what they found."""
    made = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    made.add_argument("names", nargs="*", choices=[*NAMES, *ALSO, []], metavar="NAME", help=", ".join(NAMES + ALSO))
    made.add_argument("--quick", action="store_true", help="little of everything, to see that it runs")
    made.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON and the plots")
    asked = made.parse_args()
    failed, lines = [], []
    for name in asked.names or NAMES:
        begun = time.time()
        words = ["--out", str(asked.out), *(["--quick"] if asked.quick else [])]
        print(f"--- {name}", flush=True)
        if subprocess.run([sys.executable, "-m", f"bench.{name}", *words]).returncode:
            failed.append(name)
            continue
        lines.append(Figure(f"**{name}**", f"{time.time() - begun:.0f} s"))
        for file in sorted(asked.out.glob(f"{name}*.json")):
            lines += kept(file) if file.stat().st_mtime >= begun - 1 else []
    print("\n" + table(lines))
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
