"""The processes that ``telepatch up`` keeps: started in order, watched together, ended in the opposite order."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from telepatch_server import tether

TAIL_BYTES: Final = 8192


@dataclass(frozen=True)
class Child:
    """One running command of ours, and the file that everything it says goes to."""

    name: str
    process: subprocess.Popen[bytes]
    output: IO[bytes]
    log: Path

    def tail(self, lines: int) -> list[str]:
        """The last lines that it said, without empty ones."""
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - TAIL_BYTES))
            said = file.read().decode("utf-8", "replace").replace("\r", "\n").splitlines()
        return [line for line in said if line.strip()][-lines:]


class Children:
    """Commands of ``telepatch`` as processes that cannot outlive this one.

    Args:
        logs: the folder that gets one log file per child; a previous run's file is kept once.
        grace_s: seconds between asking a child to end and killing it.
    """

    def __init__(self, logs: Path, grace_s: float = 20.0) -> None:
        self._logs = logs
        self._grace_s = grace_s
        self._children: list[Child] = []
        logs.mkdir(parents=True, exist_ok=True)

    def __iter__(self) -> Iterator[Child]:
        return iter(self._children)

    def start(self, name: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> Child:
        """Start ``telepatch ARGUMENTS`` under a name that is unique here."""
        log = self._logs / f"{name.replace(' ', '-').replace('/', '-')}.log"
        if log.exists():
            log.replace(log.with_suffix(".log.1"))
        output = log.open("wb")
        process = tether.start([sys.executable, "-P", "-m", "telepatch", *arguments], output, environment)
        child = Child(name, process, output, log)
        self._children.append(child)
        return child

    def drop(self, child: Child) -> None:
        """Forget a child that has ended."""
        self._children.remove(child)
        child.output.close()

    def ended(self) -> Child | None:
        """A child that is no longer running, if there is one."""
        return next((child for child in self._children if child.process.poll() is not None), None)

    def stop(self) -> None:
        """End every child, the last started first, each with the grace period; nothing is left running."""
        while self._children:
            child = self._children.pop()
            if child.process.poll() is None:
                child.process.terminate()
            try:
                child.process.wait(self._grace_s)
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
            child.output.close()


def said(child: Child) -> str:
    """The last line that a child said, as words: without the dress of a record, if it is one."""
    return next((readable(line) for line in reversed(child.tail(1))), "(it said nothing)")


def readable(line: str) -> str:
    """A line of a log, without the dress of a record if it is one."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        return line
    return str(record.get("event", line)) if isinstance(record, dict) else line


@contextmanager
def kept(logs: Path, grace_s: float = 20.0) -> Iterator[Children]:
    """Children that end with the block, however it ends."""
    children = Children(logs, grace_s)
    try:
        yield children
    finally:
        children.stop()
