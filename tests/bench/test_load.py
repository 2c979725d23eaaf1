"""The load driver: what it reckons, and that it finds no error in a service that runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bench.load.__main__ import by_kind, part
from bench.load.kinds import KINDS, SHARES
from bench.load.people import Asked, Record
from bench.load.watching import Held

ROOT = Path(__file__).resolve().parents[2]


def test_every_kind_has_its_share():
    assert set(KINDS) == set(SHARES)
    assert sum(SHARES.values()) == pytest.approx(1)


def test_a_part_is_the_smallest_that_so_many_are_not_above():
    seconds = [float(number) for number in range(100, 0, -1)]
    assert [part(seconds, share) for share in (0.5, 0.99, 1.0)] == [51, 100, 100]
    assert part([2.0], 0.5) == 2


def test_memory_that_grows_has_a_slope_and_a_ratio_above_one():
    times = [float(at) for at in range(40)]
    grown = Held(times, {"worker": [1000 + 10 * at for at in range(40)], "queue": [500] * 40})
    assert grown.slope("worker") == pytest.approx(10)
    assert grown.ratio("worker") == pytest.approx(1345 / 1045)
    assert (grown.slope("queue"), grown.ratio("queue")) == (0, 1)


def test_the_time_in_which_caches_fill_does_not_count():
    held = Held([0.0, 1.0, 2.0, 3.0], {"worker": [1, 2, 3, 3]})
    assert held.after(2).bytes == {"worker": [3, 3]}


def test_another_answer_than_the_first_is_an_error():
    record = Record()
    for answer in (np.ones(3), np.ones(3) + 1e-6, np.ones(3) + 0.1, np.ones(4)):
        record.add("small", 7, record.begun, answer)
    record.add("small", 8, record.begun, np.zeros(3))
    assert record.errors == ["small 7: another answer than the first one"] * 2


def test_kinds_are_told_in_the_order_in_which_they_are_declared():
    answered = [Asked("generation", 0, 2), Asked("small", 0, 1)]
    assert by_kind(answered) == {"all": [2, 1], "small": [1], "generation": [2]}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_people_find_no_error_and_every_process_is_watched(tmp_path):
    words = ["--users", "4", "--minutes", "0.2", "--think", "0.2", "--ramp", "1", "--out", str(tmp_path)]
    command = [sys.executable, "-m", "bench.load", *words]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout + told.stderr
    kept = json.loads((tmp_path / "load.json").read_text())
    assert kept["errors"] == []
    assert kept["latency_s"]["all"]["count"] > 20
    assert set(kept["memory"]["bytes"]) == set(kept["cpu_seconds"]) == {"gateway", "queue", "worker", "driver"}
    assert (tmp_path / "load.png").is_file()
    assert (tmp_path / "load-memory.png").is_file()
