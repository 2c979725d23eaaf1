"""Checkpoints: what a fit needs to go on, as tensors and plain data, and going on from there bit for bit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.worker.test_fit import DATA, LABELS, PROMPTS, SAVED, probe
from tests.worker.test_fit_streams import CONSTANTS, autoencoder, source
from tests.worker.training import call, fit, get, put, runs, task, trained

from telepatch_protocol.errors import ProtocolError
from telepatch_worker.checkpoints import Checkpoint, Shelf, decode, encode
from telepatch_worker.engine import Engine, Task

MODELS = Path(__file__).parents[2] / "models"


def interrupted(engine: Engine, one: Task, writes: int) -> bytes:
    """The last checkpoint of a job that is cancelled once it has written so many."""
    kept: list[bytes] = []
    found = engine.run(
        [one],
        keep=lambda job, data, seconds: kept.append(data),
        cancelled=lambda: {one.id} if len(kept) >= writes else set(),
    )
    assert found[0].error is not None, "it came to its end before it was interrupted"
    return kept[-1]


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others go first after every step, which is also where checkpoints are written."""
    monkeypatch.setattr("telepatch_worker.fit.TURN_SECONDS", 0.0)


def steering(**more: Any) -> dict[str, Any]:
    nodes = [
        get("h", "blocks.1:resid_post", [":", -1]),
        call("n", "add", "$h", "$v"),
        put("w", "blocks.1:resid_post", "$n", [":", -1]),
        get("z", "lm_head:output", [":", -1]),
        call("yy", "unsqueeze", "$y", 0),
        call("ce", "cross_entropy", "$z", "$yy"),
    ]
    given = {"steps": 10, "shuffle": [5], "runs": runs(x="$ids"), "checkpoint_every": 5, **more}
    return fit({"ids": "$all", "y": "$labels"}, nodes, {"v": {"init": "$v0"}}, {"loss": "$ce"}, **given)


CASES: dict[str, tuple[list[dict[str, Any]], dict[str, str], dict[str, Any]]] = {
    "rows": ([probe(steps=20, checkpoint_every=10)], SAVED, DATA),
    "stream": (
        [source(), autoencoder(checkpoint_every=7)],
        {**{name: f"$f.f{name}" for name in ("We", "Wd", "be", "bd", "dead")}, "loss": "$f.loss", "log": "$f.log.dead"},
        CONSTANTS,
    ),
    "examples": (
        [steering()],
        {"v": "$f.v", "loss": "$f.loss", "steps": "$f.steps"},
        {"all": PROMPTS, "labels": torch.tensor(LABELS), "v0": torch.zeros(48)},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_job_goes_on_from_its_checkpoint_bit_for_bit(gpt2: Engine, name: str):
    nodes, saves, constants = CASES[name]
    whole = trained(gpt2, task(*nodes, saves=saves, constants=constants))
    checkpoint = interrupted(gpt2, task(*nodes, saves=saves, constants=constants), 1)
    [held] = decode(checkpoint).values()
    assert 0 < held.plain["step"] < len(whole["loss"])
    again = trained(gpt2, task(*nodes, saves=saves, constants=constants, checkpoint=checkpoint))
    assert whole.keys() == again.keys()
    for key, value in whole.items():
        assert torch.equal(value, again[key]), key


GO_ON = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from safetensors.torch import save_file
from telepatch_worker.engine import Engine
from telepatch_worker.load import load
from tests.worker.test_checkpoints import CASES, MODELS
from tests.worker.training import task, trained
folder = Path(sys.argv[1])
nodes, saves, constants = CASES["stream"]
engine = Engine(load(MODELS / "gpt2-random.toml", cache=folder))
one = task(*nodes, saves=saves, constants=constants, checkpoint=(folder / "checkpoint").read_bytes())
save_file({name: value.contiguous() for name, value in trained(engine, one).items()}, folder / "result")
"""


def test_another_process_goes_on_from_a_checkpoint_bit_for_bit(gpt2: Engine, tmp_path: Path):
    from safetensors.torch import load_file

    nodes, saves, constants = CASES["stream"]
    whole = trained(gpt2, task(*nodes, saves=saves, constants=constants))
    (tmp_path / "checkpoint").write_bytes(interrupted(gpt2, task(*nodes, saves=saves, constants=constants), 1))
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", GO_ON, str(tmp_path)], check=True, cwd=root, timeout=120)
    found = load_file(tmp_path / "result")
    for key, value in whole.items():
        assert torch.equal(value, found[key]), key


def test_a_fit_that_is_over_is_not_done_again(gpt2: Engine, monkeypatch: pytest.MonkeyPatch):
    second = probe(steps=4, checkpoint_every=2)
    renamed = {**second, "id": "g", "over": {"gx": "$xs", "gy": "$f.b"}}
    renamed["over"] = {"gx": "$xs"}
    renamed["params"] = {"gw": {"init": "$f.b"}}
    renamed["body"] = {
        "nodes": [call("gs", "sum", "$gw"), call("gm", "mean", "$gx"), call("gl", "mul", "$gs", "$gm")],
        "out": {"loss": "$gl"},
    }
    saves = {"w": "$g.gw", "loss": "$f.loss"}
    first = probe(steps=4)
    whole = trained(gpt2, task(first, renamed, saves=saves, constants=DATA))
    checkpoint = interrupted(gpt2, task(first, renamed, saves=saves, constants=DATA), 1)
    held = decode(checkpoint)
    assert (held["f"].done, held["g"].done) == (True, False)
    monkeypatch.setattr("telepatch_worker.fit.TELL_SECONDS", 0.0)
    steps: list[Any] = []
    one = task({**first, "emit": {"loss": "$f.loss"}}, renamed, saves=saves, constants=DATA, checkpoint=checkpoint)
    [outcome] = gpt2.run([one], values=lambda job, values: steps.append(values))
    assert outcome.error is None
    assert steps == []
    assert outcome.saved is not None
    assert all(torch.equal(outcome.saved[key], value) for key, value in whole.items())


def test_checkpoints_come_back_as_they_were():
    one = Checkpoint({"a.b": torch.arange(3), "half": torch.ones(2, dtype=torch.bfloat16)}, {"step": 3, "none": None})
    two = Checkpoint({}, {"done": True})
    found = decode(encode({"f.0": one, "f.1": two}))
    assert found.keys() == {"f.0", "f.1"}
    assert found["f.0"].plain == one.plain
    assert torch.equal(found["f.0"].tensors["a.b"], torch.arange(3))
    assert found["f.0"].tensors["half"].dtype == torch.bfloat16
    assert found["f.1"].done
    assert decode(b"") == {}


def test_bytes_that_are_no_checkpoint_are_refused():
    from safetensors.torch import save

    for data in (b"nothing", save({"a": torch.ones(1)}), save({"json": torch.ones(1, dtype=torch.uint8)})):
        with pytest.raises(ProtocolError):
            decode(data)


def test_a_shelf_knows_what_is_new():
    shelf = Shelf()
    assert not shelf.changed
    shelf.put("f", Checkpoint({}, {"step": 1}))
    assert (shelf.changed, shelf.urgent) == (True, False)
    shelf.put("f", Checkpoint({}, {"step": 2}), urgent=True)
    assert shelf.urgent
    assert decode(shelf.taken())["f"].plain == {"step": 2}
    assert (shelf.changed, shelf.urgent) == (False, False)
