"""What is kept on disk is there whole or not at all."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from telepatch_worker.store import make_once, user_cache

SLOW = """
import sys, time
from pathlib import Path
from telepatch_worker.store import make_once

def make(folder):
    (folder / "half").write_text("half")
    print("started", flush=True)
    with open(sys.argv[2], "a") as log:
        log.write("made ")
    time.sleep(float(sys.argv[3]))
    (folder / "whole").write_text("whole")

make_once(Path(sys.argv[1]), make)
"""


def start(target: Path, log: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SLOW, str(target), str(log), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finish(folder: Path) -> None:
    (folder / "whole").write_text("whole")


def test_what_raises_leaves_nothing(tmp_path):
    def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise ValueError("interrupted")

    target = tmp_path / "model"
    with pytest.raises(ValueError, match="interrupted"):
        make_once(target, fail)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []


def test_a_process_killed_half_way_leaves_nothing_that_counts(tmp_path):
    target = tmp_path / "model"
    with start(target, tmp_path / "log", 60) as process:
        assert process.stdout.readline() == "started\n"
        process.kill()
    assert not target.exists()
    make_once(target, finish)
    assert [path.name for path in target.iterdir()] == ["whole"]
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["model"]


def test_two_processes_make_it_once(tmp_path):
    target, log = tmp_path / "model", tmp_path / "log"
    with start(target, log, 0.5) as one, start(target, log, 0.5) as two:
        assert one.wait(30) == two.wait(30) == 0
    assert log.read_text() == "made "
    assert (target / "whole").is_file()


def test_what_is_there_is_not_made_again(tmp_path):
    target = make_once(tmp_path / "model", finish)
    before = time.time_ns()
    assert make_once(target, finish) == target
    assert (target / "whole").stat().st_mtime_ns <= before


def test_the_cache_of_a_person_is_in_their_home():
    assert user_cache().is_relative_to(Path.home())
    assert user_cache().name == "telepatch"
