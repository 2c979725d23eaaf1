"""The package itself: what it exports, and what importing it costs."""

from __future__ import annotations

import json
import subprocess
import sys

import telepatch
from telepatch_protocol import errors
from telepatch_protocol.ops import OPS

PROBE = """
import json, sys, time
start = time.process_time()
import telepatch
spent = time.process_time() - start
telepatch.connect; telepatch.Model
print(json.dumps({"spent": spent, "loaded": sorted({name.partition(".")[0] for name in sys.modules})}))
"""

ALLOWED = {
    "telepatch",
    "telepatch_protocol",
    "numpy",
    "pydantic",
    "pydantic_core",
    "annotated_types",
    "typing_extensions",
    "typing_inspection",
}


def test_everything_exported_is_there() -> None:
    assert sorted(set(telepatch.__all__)) == sorted(telepatch.__all__)  # ruff keeps the order
    assert {name for name in telepatch.__all__ if getattr(telepatch, name) is None} == set()
    assert set(telepatch._HOME) < set(telepatch.__all__)


def test_every_error_is_reached_by_its_name() -> None:
    for kind in errors.ERRORS.values():
        assert getattr(telepatch, kind.__name__) is kind


def test_every_operation_is_reached_by_its_name() -> None:
    homes = {*telepatch.__all__, *telepatch._HOMES, "trace", "builder"}
    for name in OPS:
        assert getattr(telepatch.ops, name).__name__ == name
        assert name in homes or getattr(telepatch, name) is getattr(telepatch.ops, name)


def test_a_missing_name_is_missing() -> None:
    assert not hasattr(telepatch, "no_such_name")
    assert not hasattr(telepatch, "__wrapped__")


def test_importing_loads_nothing_heavy_and_costs_little() -> None:
    told = subprocess.run([sys.executable, "-c", PROBE], check=True, capture_output=True, text=True)
    found = json.loads(told.stdout)
    third_party = {
        name for name in found["loaded"] if name in {"httpx", "torch", "rich", "typer", "redis", "fastapi", "anyio"}
    }
    assert third_party == set()
    assert found["spent"] < 0.3
