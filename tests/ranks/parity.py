"""Run by torchrun: all jobs on a model that the ranks hold together, and on rank 0 by one process, compared there."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from tests.ranks.jobs import everything

from telepatch_worker.cards import read_card
from telepatch_worker.engine import Engine, Outcome, Task
from telepatch_worker.load import Loaded, load
from telepatch_worker.ranks import Ranks, join
from telepatch_worker.settings import Torchrun
from telepatch_worker.sharded import local_device


def main(card: str, cache: str, said: str) -> None:
    """Write what differs, by job."""
    launch, file = Torchrun.from_environment(), read_card(Path(card))
    assert launch is not None
    ranks = join(launch, local_device(file, launch.local_rank, launch.local_world_size))
    loaded = load(file, cache=Path(cache), ranks=ranks)
    engine = Engine(loaded, accord=ranks)
    tasks = everything(file.id)
    together = ended(engine, list(tasks.values()))
    alone = [ended(engine, [task])[0] for task in tasks.values()]
    ranks.same("over", sorted(tasks))
    if not ranks.leads:
        return
    plain = load(file.model_copy(update={"tp_size": 1}), cache=Path(cache))
    wanted = ended(Engine(plain), list(tasks.values()))
    names = dict(zip(tasks, zip(wanted, alone, together, strict=True), strict=True))
    found = {
        name: max(difference(one, want) for one in (solo, company)) for name, (want, solo, company) in names.items()
    }
    errors = {name: str(each[0].error or each[1].error or each[2].error or "") for name, each in names.items()}
    same = loaded.card.model_copy(update={"revision": ""}) == plain.card.model_copy(update={"revision": ""})
    Path(said).write_text(
        json.dumps({"differences": found, "errors": errors, "card": same, "local": local(loaded, ranks)})
    )


def ended(engine: Engine, tasks: list[Task]) -> list[Outcome]:
    """How jobs end that run together."""
    return engine.run(tasks)


def difference(found: Outcome, wanted: Outcome) -> float:
    """The largest, relative to the largest number there."""
    if found.saved is None or wanted.saved is None:
        return float("inf")
    most = 0.0
    for name, value in wanted.saved.items():
        mine = found.saved[name]
        if mine.shape != value.shape or mine.dtype != value.dtype:
            return float("inf")
        one, other = mine.double().nan_to_num(0, 0, 0), value.double().nan_to_num(0, 0, 0)
        scale = float(other.abs().max()) if other.numel() else 0.0
        most = max(most, float((one - other).abs().max()) / max(scale, 1e-3) if other.numel() else 0.0)
    return most


def local(loaded: Loaded, ranks: Ranks) -> float:
    """Which part of the model's numbers this rank holds."""
    held = sum(getattr(one, "_local_tensor", one).numel() for one in loaded.module.parameters())
    return held / loaded.card.parameters


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
