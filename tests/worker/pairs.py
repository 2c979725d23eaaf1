"""Two ranks in one process: connected as over a network, each with what it would have in a process of its own."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch

from telepatch_worker import follow, lead, ranks
from telepatch_worker.ranks import Ranks
from telepatch_worker.settings import Torchrun


class Left(BaseException):
    """A rank would have ended its process here."""


@contextmanager
def two_ranks(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Ranks, Ranks, list[str]]]:
    """Rank 0 and rank 1, and why ranks left: where a process would end, `Left` is raised instead."""
    here, there = socket.socketpair(socket.AF_UNIX)
    left: list[str] = []

    def leave(why: str) -> None:
        left.append(why)
        if not threading.current_thread().name.startswith("from "):
            raise Left(why)

    ends = {0: (here, "rank 1"), 1: (there, "rank 0")}
    for module in (ranks, lead, follow):
        monkeypatch.setattr(module, "leave", leave)
    monkeypatch.setattr(ranks, "BYE_SECONDS", 0.0)
    monkeypatch.setattr(ranks.os, "_exit", lambda status: None)
    monkeypatch.setattr(ranks, "_met", lambda launch, device: [ranks.Connection(*ends[launch.rank])])
    device = torch.device("cpu")
    zero, one = (
        Ranks(Torchrun(rank=rank, world_size=2, local_rank=rank, local_world_size=2), device) for rank in (0, 1)
    )
    try:
        yield zero, one, left
    finally:
        for rank in (zero, one):
            rank._peers[0].close()


@contextmanager
def beside(work: Callable[[], object]) -> Iterator[list[BaseException]]:
    """Something that goes on in a thread while the block runs, and is over when it ends; what it raised."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield raised
    finally:
        thread.join(30)
        assert not thread.is_alive()
