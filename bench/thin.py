"""What the thin client costs before it does anything: time to import, and bytes on disk."""

from __future__ import annotations

import importlib.metadata
import re
import statistics
import subprocess
import sys
from pathlib import Path

_TIMED = "import time; begun = time.process_time(); import telepatch; print(time.process_time() - begun)"


def import_seconds(rounds: int = 9) -> float:
    """Median CPU seconds of ``import telepatch`` in a fresh interpreter."""
    runs = [
        subprocess.run([sys.executable, "-c", _TIMED], capture_output=True, text=True, check=True)
        for _ in range(rounds)
    ]
    return statistics.median(float(run.stdout) for run in runs)


def closure() -> dict[str, int]:
    """Bytes on disk of the client's distributions, those it needs included, by name."""
    sizes: dict[str, int] = {}
    waiting = ["httpx", "numpy", "pydantic", "safetensors"]
    while waiting:
        name = waiting.pop()
        if name in sizes:
            continue
        found = importlib.metadata.distribution(name)
        sizes[name] = sum(
            Path(str(file.locate())).stat().st_size for file in found.files or () if Path(str(file.locate())).exists()
        )
        for need in found.requires or ():
            if "extra ==" not in need and "sys_platform" not in need and "python_version" not in need:
                waiting.append(re.split(r"[^A-Za-z0-9_.-]", need)[0].lower())
    return sizes
