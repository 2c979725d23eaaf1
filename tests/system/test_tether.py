"""A child that is tethered cannot outlive the process that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from telepatch_server import tether
from telepatch_server.children import Children, kept

SLEEPER = "import os, sys, time; print(os.getpid(), flush=True); time.sleep(600)"
STARTER = f"""
import sys, time
from telepatch_server import tether
child = tether.start([sys.executable, "-c", {SLEEPER!r}], open(sys.argv[1], "wb"))
time.sleep(600)
"""


def alive(pid: int) -> bool:
    """Whether the process runs; one that ended and was not collected does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def eventually(question, seconds: float = 10.0) -> bool:
    """Whether the answer becomes yes in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if question():
            return True
        time.sleep(0.02)
    return False


def test_a_killed_starter_takes_its_child_along(tmp_path):
    said = tmp_path / "said"
    starter = subprocess.Popen([sys.executable, "-c", STARTER, str(said)])
    try:
        assert eventually(lambda: said.exists() and said.read_text().endswith("\n"))
        child = int(said.read_text())
        assert alive(child)
    finally:
        starter.send_signal(signal.SIGKILL)
        starter.wait()
    assert eventually(lambda: not alive(child))


def test_a_child_whose_starter_is_already_gone_does_not_start(tmp_path):
    command = [sys.executable, "-m", "telepatch_server.tether", "1", sys.executable, "-c", "print('ran')"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 1
    assert told.stdout == ""


def test_a_child_does_not_hear_the_terminals_ctrl_c(tmp_path):
    with (tmp_path / "said").open("wb") as output:
        child = tether.start([sys.executable, "-c", SLEEPER], output)
        try:
            assert eventually(lambda: (tmp_path / "said").stat().st_size > 0)
            assert os.getsid(child.pid) != os.getsid(0)
        finally:
            child.kill()
            child.wait()


def test_children_end_with_the_block_in_which_they_were_kept(tmp_path):
    with pytest.raises(KeyError), kept(tmp_path) as children:
        child = children.start("version", ["version"])
        raise KeyError
    assert child.process.returncode is not None
    assert list(children) == []


def test_a_child_that_ended_is_named_with_what_it_said_last(tmp_path):
    children = Children(tmp_path)
    try:
        child = children.start("wrong one", ["no-such-command"])
        assert eventually(lambda: children.ended() is child, 30)
        assert child.process.returncode == 2
        assert any("no-such-command" in line for line in child.tail(10))
    finally:
        children.stop()
