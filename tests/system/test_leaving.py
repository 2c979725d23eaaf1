"""Who leaves: a client that is killed, one that is interrupted, and what becomes of their jobs."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

import telepatch
from telepatch_protocol.errors import Cancelled

LOOP = """
    import os, sys, telepatch
    lab = telepatch.connect(os.environ["URL"], os.environ["KEY"], progress=False)
    model = lab.model("gpt2-random")
    def looping(times):
        with model.session() as s:
            with telepatch.repeat(times, y=1.0) as loop:
                y = loop.y
                for _ in range(25):
                    y = y * 0.5 + 1
                loop.y = y
            loop.y.save("end")
        return s
"""


def program(text: str) -> list[str]:
    return [sys.executable, "-u", "-c", textwrap.dedent(LOOP) + textwrap.dedent(text)]


def environment(shared: Any, key: str) -> dict[str, str]:
    return {**os.environ, "URL": shared.url, "KEY": key}


def until(what: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


class Terminal:
    """A program in a terminal of its own."""

    def __init__(self, text: str, shared: Any, key: str) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            program(text),
            env=environment(shared, key),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self.said = ""

    def read(self) -> str:
        """All that it has said, so far."""
        os.set_blocking(self._ours, False)
        try:
            while chunk := os.read(self._ours, 65536):
                self.said += chunk.decode(errors="replace")
        except OSError:  # nothing there, or the other side is closed
            pass
        return self.said

    def hears(self, text: str) -> None:
        until(lambda: text in self.read() or self.process.poll() is not None)
        assert text in self.read(), self.said

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def types(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def ended(self) -> int:
        until(lambda: self.read() is not None and self.process.poll() is not None)
        self.read()
        os.close(self._ours)
        return self.process.returncode


WAITS = """
    jobs = [looping(90_000 + at) for at in range(3)]
    lab.flush()
    print("jobs", *(job.job for job in jobs))
    lab.wait()
"""


def states(lab: Any, ids: list[str]) -> set[str]:
    return {lab.status(id).state for id in ids}


def submitted(terminal: Terminal) -> list[str]:
    terminal.hears("jobs ")
    until(lambda: terminal.read().count("\n") >= 1)
    line = next(line for line in terminal.read().splitlines() if line.startswith("jobs "))
    time.sleep(1.0)  # it waits for them now
    return line.split()[1:]


@pytest.fixture
def lab(shared: Any) -> Any:
    with telepatch.connect(shared.url, shared.ada, progress=False) as lab:
        yield lab
        lab._ask("POST", "/v1/jobs/cancel", {"jobs": "all"})


def test_a_yes_after_ctrl_c_cancels_what_the_program_submitted(shared: Any, lab: Any) -> None:
    terminal = Terminal(WAITS, shared, shared.ada)
    ids = submitted(terminal)
    assert len(ids) == 3
    terminal.interrupt()
    terminal.hears("cancel the 3 jobs that were submitted here and have not ended? [y/N]")
    assert "cancelled" not in states(lab, ids)
    terminal.types("y\n")
    assert terminal.ended() != 0
    assert "3 cancelled" in terminal.said
    assert "KeyboardInterrupt" in terminal.said
    assert states(lab, ids) == {"cancelled"}


def test_a_no_after_ctrl_c_leaves_them_running(shared: Any, lab: Any) -> None:
    terminal = Terminal(WAITS, shared, shared.ada)
    ids = submitted(terminal)
    terminal.interrupt()
    terminal.hears("[y/N]")
    terminal.types("\n")
    assert terminal.ended() != 0
    assert "cancelled" not in states(lab, ids)


def test_a_second_ctrl_c_leaves_at_once_and_cancels_nothing(shared: Any, lab: Any) -> None:
    terminal = Terminal(WAITS, shared, shared.ada)
    ids = submitted(terminal)
    terminal.interrupt()
    terminal.hears("[y/N]")
    began = time.monotonic()
    terminal.interrupt()
    assert terminal.ended() != 0
    assert time.monotonic() - began < 15
    assert "cancelled" not in states(lab, ids)


def test_where_nobody_can_be_asked_one_line_says_how_to_cancel(shared: Any, lab: Any, tmp_path: Path) -> None:
    said = tmp_path / "said"
    with said.open("w") as output:
        process = subprocess.Popen(
            program(WAITS), env=environment(shared, shared.ada), stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    until(lambda: "jobs " in said.read_text() or process.poll() is not None)
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) != 0
    told = [line for line in said.read_text().splitlines() if line.startswith("telepatch:")]
    assert told == [
        "telepatch: the 3 jobs that were submitted here and have not ended will go on; lab.cancel() cancels them"
    ]
    ids = said.read_text().splitlines()[0].split()[1:]
    assert "cancelled" not in states(lab, ids)


def test_jobs_of_a_killed_client_go_on_and_another_one_finds_them(shared: Any, lab: Any) -> None:
    text = """
        job = looping(500)
        with model.trace() as t, t.invoke(ids=[1, 2, 3]):
            model.lm_head.output[:, -1, 0].save("logit")
        lab.flush()
        print("jobs", job.job, t.job)
        lab.wait()
        print("ended")
        import time
        time.sleep(600)
    """
    with subprocess.Popen(
        program(text), env=environment(shared, shared.ada), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        loop, trace = process.stdout.readline().split()[1:]
        process.kill()
        process.wait()
    assert float(lab.result(loop, "end")) == 2.0
    assert lab.result(trace)["logit"].shape == (1,)
    assert {loop, trace} <= {job.id for job in lab.jobs("completed")}


def test_a_program_cancels_a_trace_and_all_that_it_has_submitted(shared: Any, lab: Any) -> None:
    model = lab.model("gpt2-random")

    def looping() -> Any:
        with model.session() as s:
            with telepatch.repeat(90_000, y=1.0) as loop:
                y = loop.y
                for _ in range(25):
                    y = y * 0.5 + 1
                loop.y = y
            return s, loop.y.save()

    first, end = looping()
    with pytest.raises(telepatch.TraceError, match="once its outermost block has ended"), model.session() as open_one:
        open_one.cancel()
    assert first.cancel() == "cancelled"
    with pytest.raises(Cancelled):
        end.numpy()
    assert first.cancel() == "cancelled"
    others = [looping() for _ in range(30)]
    with model.trace() as t, t.invoke(ids=[1, 2]):
        child = (others[0][1] + model.lm_head.output[0, -1, 0]).save()
    with telepatch.connect(shared.url, shared.bob, progress=False) as other:
        theirs = other.model("gpt2-random").trace()
        with theirs, theirs.invoke(ids=[1, 2]):
            kept = model_of(other).lm_head.output[0, -1, 0].save()
        assert lab.cancel() == 31
        assert lab.cancel() == 0
        for value in (*(end for _, end in others), child):
            with pytest.raises(Cancelled):
                value.numpy()
        assert kept.numpy().shape == ()


def model_of(lab: Any) -> Any:
    return lab.model("gpt2-random")
