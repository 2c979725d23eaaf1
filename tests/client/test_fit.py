"""`fit`: one step written once; what it becomes, what comes of it, and what is refused at which line."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

import telepatch
from telepatch.model import Model
from telepatch_protocol.card import ModelCard
from telepatch_protocol.check import check
from telepatch_protocol.errors import BadArgument, DtypeError, ShapeError, TraceError, UnknownName
from telepatch_protocol.fitting import streams
from telepatch_protocol.graph import Fit
from telepatch_protocol.subgraphs import all_nodes

DATA = {"text": ["a", "bb", "ccc"], "label": [1, 0, 1]}


def line() -> int:
    """The line that calls this."""
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return frame.f_back.f_lineno


def node(f: Any) -> Fit:
    (found,) = (one for one in all_nodes(f.graph) if isinstance(one, Fit))
    return found


def number(f: Any, arg: Any) -> Any:
    """What stands behind the name of a constant."""
    return f.graph.constants[arg[1:]] if isinstance(arg, str) else arg


def saved(f: Any, card: ModelCard) -> dict[str, str]:
    graph = f.graph
    attached = {name: tensor.meta for name, tensor in f._outermost._tensors.items()}
    return {name: str(meta) for name, meta in check(graph, card, attachment=attached).saves.items()}


def test_a_probe_is_a_few_lines_and_everything_of_it_comes_back(model: Model, card: ModelCard) -> None:
    with model.fit(DATA, batch_size=2, epochs=3, optimiser=telepatch.Adam(lr=0.01)) as f:
        w = f.param("w", telepatch.zeros(8, 2))
        with f.invoke(f.row.text):
            h = model.blocks[2].output[0, -1]
        z = (h @ w)[None]
        f.loss(telepatch.cross_entropy(z, f.row.label * telepatch.ones(1, dtype="int64")))
        f.log(hit=(z.argmax(-1) == f.row.label).float().mean())
    found = node(f)
    assert set(found.over) == {"text", "label"}
    assert (number(f, found.batch_size), number(f, found.epochs)) == (2, 3)
    assert (found.shuffle, found.buffer) == ([0], None)
    assert found.reduce == {"hit": "mean"}
    assert list(found.emit) == ["loss", "hit"]
    assert [one.kind for one in f.graph.nodes] == ["call", "fit"]  # the initial value was taken out of the block
    kinds = saved(f, card)
    assert kinds["w"] == "float32 (8, 2)"
    assert kinds.keys() > {"w", "loss", "steps", "stopped"}
    assert f.w.shape == (8, 2)


def test_rotations_are_trained_between_two_inputs(model: Model, card: ModelCard) -> None:
    pairs = {"base": ["a", "bb"], "source": ["ccc", "d"], "pos": [0, 0], "label": [1, 2]}
    with model.fit(pairs, batch_size=2, steps=5) as f:
        rotation = f.param("R", telepatch.eye(8), constraint="orthogonal")
        with f.invoke(f.row.source):
            hs = model.blocks[1].output[:, f.row.pos]
        with f.invoke(f.row.base):
            hb = model.blocks[1].output[:, f.row.pos]
            model.blocks[1].output[:, f.row.pos] = hb + ((hs - hb) @ rotation[:, :4]) @ rotation[:, :4].T
            z = model.blocks[3].output[:, -1]
        f.loss((z**2).mean())
    found = node(f)
    assert found.params["R"].constraint == "orthogonal"
    assert len(found.body.runs) == 1
    assert len(found.body.runs[0].invokes) == 2
    assert saved(f, card)["R"] == "float32 (8, 8)"


def test_schedules_state_and_what_comes_after_a_step(model: Model, card: ModelCard) -> None:
    rows = np.ones((40, 8), np.float32)
    optimiser = telepatch.SGD(lr=lambda step: 0.1 / (step + 1), momentum=0.9, clip_norm=1.0)
    data = telepatch.Buffer(rows, size=16, refill=0.25)
    with model.fit(data, batch_size=4, steps=10, optimiser=optimiser, shuffle=3, checkpoint_every=5) as f:
        enc = f.param("We", telepatch.randn(8, 6, key=[1]) * 0.1)
        dec = f.param("Wd", telepatch.randn(6, 8, key=[2]), constraint="unit_norm", dim=1)
        dead = f.state("dead", telepatch.zeros(6, dtype="int64"))
        power = f.schedule(lambda step: 1.0 - 0.01 * step)
        acts = (f.batch @ enc).relu()
        loss = ((acts @ dec - f.batch) ** 2).sum(-1).mean() + 0.1 * (acts.clamp(min=1e-8) ** power).sum()
        f.loss(loss)
        with f.after():
            fresh = telepatch.where((acts > 0).any(0), 0, dead + 1)
            kill = fresh > 2
            dead.set(fresh)
            enc.set(telepatch.where(kill, f.batch[telepatch.randint(0, 4, [6], key=[7, f.step])].T, enc))
            f.reset_moments(enc, where=kill)
            f.stop(loss < 0.001)
        with f.evaluate(every=2):
            f.log(size=enc.norm())
    found = node(f)
    assert (found.buffer.rows, found.buffer.refill) == (16, 0.25)
    assert found.shuffle == [3]
    numbers = [number(f, one) for one in (found.optimiser.momentum, found.optimiser.clip_norm)]
    assert (found.optimiser.lr, numbers) == ("$fit_lr", [0.9, 1.0])
    assert set(found.before.out) == {"fit_lr", "schedule"}
    assert set(found.after.carry) == {"We", "dead"}
    assert list(found.after.reset_moments) == ["We"]
    assert f"${found.id}." in str(found.after.nodes)  # values of the body, as outputs of it
    assert found.evaluate.every == 2
    kinds = saved(f, card)
    assert kinds["dead"] == "int64 (6)"
    assert {"We", "Wd", "dead", "loss", "steps", "stopped"} < kinds.keys()
    assert f.evaluations.size.shape is not None


def test_a_stream_of_activations_goes_into_the_buffer_and_nowhere_else(model: Model, card: ModelCard) -> None:
    with model.session() as s:
        with model.each(["a", "bb", "ccc"]) as row:
            acts = row.cat(model.blocks[2].output[0])
        with model.fit(telepatch.Buffer(acts, size=8), batch_size=4, steps=3) as f:
            w = f.param("W", telepatch.eye(8))
            f.loss(((f.batch @ w - f.batch) ** 2).mean())
        f.W.save("W")
    assert streams(s.graph, all_nodes(s.graph)) == {one.id for one in s.graph.nodes if one.kind == "map"}
    assert list(s.graph.saves) == ["W"]


def test_a_sweep_of_fits_has_an_axis_in_front_of_their_results(model: Model, card: ModelCard) -> None:
    rows = np.ones((40, 8), np.float32)
    with model.sweep(penalty=[0.1, 0.2, 0.3]) as v:
        with model.fit(telepatch.Buffer(x=rows), batch_size=4, steps=3) as f:
            w = f.param("W", telepatch.zeros(8))
            f.loss(((f.batch.x @ w) ** 2).mean() + v.penalty * w.sum())
        f.W.save("W")
        f.losses.save("losses")
    assert saved(v, card)["W"] == "float32 (3, 8)"


def test_results_of_a_fit_are_used_in_the_same_session(model: Model, card: ModelCard) -> None:
    with model.session() as s:
        with model.fit(DATA, batch_size=2, steps=2) as f:
            v = f.param("v", telepatch.zeros(8))
            with f.invoke(f.row.text):
                model.blocks[1].output += v
                f.loss(model.blocks[3].output.mean())
        with model.trace("Hello"):
            model.blocks[1].output += f.v
            model.blocks[3].output.save("after")
    assert saved(s, card).keys() == {"after"}


def refused(model: Model, error: type[Exception], says: str, body: Any, **settings: Any) -> Any:
    data = settings.pop("data", telepatch.Buffer(np.ones((40, 8), np.float32)))
    with pytest.raises(error, match=says) as caught, model.fit(data, **{"batch_size": 4, "steps": 3, **settings}) as f:
        body(f)
    return caught.value


def test_what_cannot_be_trained_is_refused_at_the_line_that_says_it(model: Model) -> None:
    def vector(f: Any) -> None:
        w = f.param("w", telepatch.zeros(8))
        f.loss(f.batch * w)  # line + 2

    error = refused(model, ShapeError, "the loss of a fit is one number", vector)
    assert error.line == vector.__code__.co_firstlineno + 2
    refused(model, TraceError, "this fit has no loss", lambda f: f.param("w", 0.0))
    refused(model, BadArgument, "made inside its block", lambda f: f.loss(1.0))
    refused(model, DtypeError, "only floating values are trained", lambda f: f.loss(f.param("w", [1, 2]).sum() * 1.0))
    refused(model, TraceError, "sees whole batches: f.batch", lambda f: f.row)
    refused(model, BadArgument, "has 'w' already", lambda f: (f.param("w", 0.0), f.param("w", 0.0)))
    refused(model, BadArgument, "means something else", lambda f: f.param("loss", 0.0))
    refused(model, TraceError, "is set after a step", lambda f: f.param("w", 0.0).set(1.0))
    refused(model, TraceError, r"goes over examples: f.row", lambda f: f.batch, data=DATA)
    refused(model, UnknownName, "f.row has no 'lable'; there are: text, label", lambda f: f.row.lable, data=DATA)
    refused(model, TraceError, "begins with a value from before the block", _begins_with_a_batch)


def _begins_with_a_batch(f: Any) -> None:
    f.param("w", f.batch.mean())


def test_settings_are_looked_through_before_the_block_begins(model: Model) -> None:
    for settings, says in (
        ({"batch_size": 2}, "either steps"),
        ({"batch_size": 2, "steps": 1, "epochs": 1}, "either steps"),
        ({"batch_size": 2, "steps": 1, "optimiser": "adam"}, "telepatch.SGD, Adam or AdamW"),
    ):
        with pytest.raises(BadArgument, match=says):
            model.fit(DATA, **settings)
    with pytest.raises(BadArgument, match="a fit goes over data"):
        model.fit(["a"], batch_size=1, steps=1)
    with pytest.raises(BadArgument, match="either rows"):
        telepatch.Buffer()


def test_values_of_a_step_are_not_to_be_had_after_the_block(model: Model) -> None:
    with pytest.raises(TraceError, match=r"exists at each step alone; f.log"), model.session():
        with model.fit(DATA, batch_size=2, steps=2) as f:
            w = f.param("w", telepatch.zeros(8))
            with f.invoke(f.row.text):
                h = model.blocks[1].output[0, -1] @ w
            f.loss(h)
        h.save()
