"""A rank that is not the first of those that hold one model together: it takes the steps that rank 0 takes."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog

from telepatch_worker import task_frames
from telepatch_worker.cards import CardFile
from telepatch_worker.desk import Desk, Outcome, quiet, unheard, unkept, unseen
from telepatch_worker.engine import BatchLimits, Engine
from telepatch_worker.floor import Floor
from telepatch_worker.lead import Held
from telepatch_worker.load import load
from telepatch_worker.long import Turns
from telepatch_worker.ranks import Frame, Ranks, leave

_log = structlog.get_logger(__name__)


def follow(file: CardFile, ranks: Ranks, *, cache: Path, token_file: Path | None = None) -> None:
    """Hold a shard, and do what rank 0 says, until it says that it ends.

    Args:
        file: the card file.
        ranks: those who hold the model together.
        cache: folder of fetched weights.
        token_file: a file that holds the access token for gated weights.
    """
    for number in (signal.SIGTERM, signal.SIGINT):  # rank 0 finishes what is in hand, and then says so
        signal.signal(number, signal.SIG_IGN)
    loaded = load(file, cache=cache, token_file=token_file, ranks=ranks)
    ranks.same("loaded", loaded.revision, None)
    begun = ranks.hear()
    if begun.kind != "begin":
        return
    limits = BatchLimits(tokens=begun.words["tokens"], rows=begun.words["rows"])
    engine = Engine(loaded, limits, cache_bytes=begun.words["cache_bytes"], accord=ranks)
    _log.info("rank_ready", rank=ranks.rank, ranks=ranks.size, model=file.id, device=str(loaded.device))
    Follower(engine, ranks).run()
    _log.info("rank_ended", rank=ranks.rank)


class Follower:
    """Steps that rank 0 takes, taken here.

    Args:
        engine: with this rank's shard.
        ranks: those who hold the model together.
        ended: told how jobs ended; it is rank 0 that hands it in.
    """

    def __init__(self, engine: Engine, ranks: Ranks, ended: Callable[[Outcome], None] = unheard) -> None:
        self._ranks = ranks
        self._held = Held(ranks, ended)
        desk = Desk(set, quiet, unseen, unkept, self._held)
        self._floor, self._turns = Floor(engine, desk), Turns(engine, desk)

    def run(self) -> None:
        """Step after step."""
        while (frame := self._ranks.hear()).kind != "end":
            step = self._steps.get(frame.kind)
            if step is None:
                leave(f"rank {self._ranks.rank} knows no step '{frame.kind}'")
            step(frame)
            self._held.agree()

    @property
    def _steps(self) -> Mapping[str, Callable[[Frame], object]]:
        turns = self._turns
        return {
            "add": lambda frame: self._floor.add(task_frames.decode(frame.words, frame.body)),
            "turn": lambda frame: self._floor.turn(),
            "train": self._train,
            "go on": lambda frame: turns.turn(frame.words),
            "remove": lambda frame: turns.remove(turns.job(frame.words)),
            "ask": lambda frame: turns.ask(turns.job(frame.words)),
            "another slice": lambda frame: turns.another_slice(turns.job(frame.words)),
            "put down": lambda frame: turns.put_down(frame.words),
        }

    def _train(self, frame: Frame) -> None:
        [task] = task_frames.decode(frame.words, frame.body)
        self._turns.add(task)
