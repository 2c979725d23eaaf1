"""nnsight's interleaver, driven by plans: where it stops, what it leaves behind, what it replaces."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest
import torch

from telepatch_protocol.errors import ExecutionError
from telepatch_protocol.sites import Place
from telepatch_worker.interleave import Interleaved
from telepatch_worker.layout import Rows, Seat
from telepatch_worker.moments import Moment, Part

D = ("row", "pos", 4)


class Block(torch.nn.Module):
    """Takes its tensor by name and returns it inside a structure; `mode` says which."""

    def __init__(self):
        super().__init__()
        self.fired = 0

    def forward(self, *, x, extra=None):
        self.fired += 1
        return {"x": x + 1, "pair": (x, [x * 2, None])}


class Model(torch.nn.Module):
    """Two blocks, the second one called twice."""

    def __init__(self):
        super().__init__()
        self.first = Block()
        self.second = Block()

    def forward(self, ids):
        x = self.first(x=ids)["x"]
        x = self.second(x=x)["x"]
        return self.second(x=x)


class Job:
    """Notes what it reads, writes what it is told, and remembers how it failed."""

    def __init__(self, write=None):
        self.read_values = []
        self.error = None
        self.value = write

    def read(self, moment, value):
        self.read_values.append(value.clone())

    def write(self, moment, region):
        region[...] = self.value(region) if callable(self.value) else self.value

    def fail(self, error):
        self.error = error


def moment(path, port, leaf, *, writes=False, call=0, invoke="a", node="n"):
    return Moment(node, invoke, writes, Place(path, port, leaf, call), D)


@pytest.fixture
def model():
    interleaved = Interleaved(Model())
    yield interleaved
    interleaved.close()


IDS = torch.arange(2 * 3 * 4, dtype=torch.float32).reshape(2, 3, 4)
WHOLE = {"a": Seat(Rows(0, 2, 3, 2, 3))}


def run(model, *parts, ids=IDS, dropped=tuple):
    model.forward({"ids": ids}, parts, dropped)


def test_the_forward_stops_after_the_last_moment_that_anyone_needs(model):
    job = Job()
    run(model, Part(job, (moment("first", "output", "x"),), WHOLE))
    assert torch.equal(job.read_values[0], IDS + 1)
    assert (model.module.first.fired, model.module.second.fired) == (1, 0)
    run(model, Part(job, (moment("second", "input", "x"),), WHOLE))
    assert (model.module.first.fired, model.module.second.fired) == (2, 0)


def test_the_early_stop_really_saves_the_rest_of_a_language_model(gpt2, build):
    fired = Counter()
    handles = [
        module.register_forward_pre_hook(lambda m, a, path=path: fired.update([path]))
        for path, module in gpt2.loaded.module.named_modules()
    ]
    try:
        gpt2.run([build.task("gpt2-random", {"a": [1, 2]}, build.get("h", "blocks.1:resid_post"))])
    finally:
        for handle in handles:
            handle.remove()
    assert fired["transformer.h.1"] == 1
    assert not fired["transformer.h.2"]
    assert not fired["lm_head"]


def test_each_call_of_a_module_is_a_place_of_its_own(model):
    job = Job()
    run(model, Part(job, (moment("second", "input", "x", call=1),), WHOLE))
    assert torch.equal(job.read_values[0], IDS + 2)


@pytest.mark.parametrize(("leaf", "expected"), [("x", IDS + 1), ("pair.0", IDS), ("pair.1.0", IDS * 2)])
def test_leaves_are_reached_by_path_and_replaced_without_touching_the_rest(model, leaf, expected):
    job = Job(write=lambda region: region * 10)
    write, read = moment("first", "output", leaf, writes=True), moment("first", "output", leaf)
    others = [moment("first", "output", one) for one in ("x", "pair.0", "pair.1.0") if one != leaf]
    run(model, Part(job, (write, read, *others), WHOLE))
    assert torch.equal(job.read_values[0], expected * 10)
    assert not any(torch.equal(value, expected * 10) for value in job.read_values[1:])
    assert torch.equal(IDS, torch.arange(24.0).reshape(2, 3, 4))


def test_jobs_see_only_their_own_rows_and_positions_and_write_nowhere_else(model):
    top = Job(write=-1.0)
    low = Job()
    rows = {"a": Seat(Rows(0, 1, 2, 2, 3))}, {"a": Seat(Rows(1, 1, 3, 2, 3))}
    run(
        model,
        Part(top, (moment("first", "input", "x", writes=True), moment("first", "output", "x")), rows[0]),
        Part(low, (moment("first", "output", "x"),), rows[1]),
    )
    assert top.read_values[0].tolist() == [[[0.0] * 4] * 2]
    assert torch.equal(low.read_values[0], IDS[1:] + 1)


def test_moments_of_several_invokes_at_one_place_happen_in_the_order_of_the_plan(model):
    job = Job(write=lambda region: job.read_values[-1])
    rows = {"a": Seat(Rows(0, 1, 3, 2, 3)), "b": Seat(Rows(1, 1, 3, 2, 3))}
    moments = (
        moment("first", "output", "x", invoke="b"),
        moment("first", "output", "x", invoke="a", writes=True),
        moment("first", "output", "x", invoke="a"),
        moment("first", "output", "x", invoke="b", writes=True),
    )
    run(model, Part(job, moments, rows))
    assert torch.equal(job.read_values[1], IDS[1:] + 1)


def test_a_job_that_raises_takes_no_further_part_and_the_next_forward_is_clean(model):
    def refuse(region):
        raise RuntimeError("no")

    bad, good = Job(write=refuse), Job()
    rows = {"a": Seat(Rows(0, 1, 3, 2, 3))}, {"a": Seat(Rows(1, 1, 3, 2, 3))}
    moments = moment("first", "output", "x", writes=True), moment("second", "output", "x")
    run(model, Part(bad, moments, rows[0]), Part(good, moments[1:], rows[1]))
    assert str(bad.error) == "no"
    assert not bad.read_values
    assert torch.equal(good.read_values[0], IDS[1:] + 2)
    again = Job()
    run(model, Part(again, moments[1:], WHOLE))
    assert torch.equal(again.read_values[0], IDS + 2)


def test_a_dropped_job_is_not_served_and_one_alone_ends_the_forward(model):
    job = Job()
    run(model, Part(job, (moment("second", "output", "x", call=1),), WHOLE), dropped=lambda: [job])
    assert not job.read_values
    assert model.module.first.fired == 0


def test_what_the_model_raises_comes_out_and_leaves_nothing_behind(model):
    job = Job()
    with pytest.raises(TypeError):
        run(model, Part(job, (moment("second", "output", "x"),), WHOLE), ids=None)
    assert job.error is None
    run(model, Part(job, (moment("second", "output", "x"),), WHOLE))
    assert torch.equal(job.read_values[0], IDS + 2)


def test_a_place_that_the_forward_never_comes_to_fails_its_job(model):
    job = Job()
    run(model, Part(job, (moment("second", "output", "x", call=7),), WHOLE))
    assert isinstance(job.error, ExecutionError)
    assert "never came to 'second:output[x]'" in job.error.detail


def test_a_leaf_or_shape_that_is_not_as_promised_fails_its_job(model):
    none, wrong = Job(), Job()
    some = {"a": Seat(Rows(0, 1, 3, 2, 3))}
    run(
        model,
        Part(none, (moment("first", "output", "pair.1.1"),), WHOLE),
        Part(wrong, (Moment("n", "a", False, Place("first", "output", "x"), ("row", 9, 4)),), some),
    )
    assert "holds no tensor in this forward" in none.error.detail
    assert "has shape (2, 3, 4)" in wrong.error.detail


def test_a_whole_forward_goes_to_its_end_and_gives_what_the_model_returns(model):
    job, late = Job(write=-1.0), Job()
    parts = [
        Part(job, (moment("first", "output", "x", writes=True),), WHOLE),
        Part(late, (moment("second", "output", "x", call=7),), WHOLE),
    ]
    returned = model.whole({"ids": IDS}, parts)
    assert torch.equal(returned["x"], torch.full_like(IDS, 1.0))
    assert "never came to" in late.error.detail
    assert torch.equal(model.whole({"ids": IDS}, [])["x"], IDS + 3)


@pytest.mark.parametrize("watched", [True, False])
def test_a_whole_forward_is_watched_to_its_end_or_until_nobody_waits(model, watched):
    fired = []

    def dropped():
        fired.append(model.module.second.fired)
        return ()

    part = Part(Job(), (moment("first", "input", "x"),), WHOLE)
    model.whole({"ids": IDS}, [part], dropped, watched=watched)
    assert (1 in fired) == watched  # asked between the two calls of the second module
    job = Job()
    run(model, Part(job, (moment("first", "output", "x"),), WHOLE))
    assert model.module.second.fired == 2  # the next forward stops early again


def test_closing_gives_the_modules_their_own_forward_back():
    module = Model()
    interleaved = Interleaved(module)
    assert "forward" in module.first.__dict__
    interleaved.close()
    assert not any("forward" in one.__dict__ for one in module.modules())
    assert torch.equal(module(IDS)["x"], IDS + 3)


def test_idle_controllers_leave_plain_forwards_and_hooks_as_they_are(model):
    seen = []
    handle = model.module.second.register_forward_hook(lambda m, a, out: seen.append(out["x"]))
    assert torch.equal(model.module(IDS)["x"], IDS + 3)
    handle.remove()
    assert len(seen) == 2


def test_nnsights_mount_on_every_object_is_taken_back() -> None:
    code = "import telepatch_worker.interleave, anyio.abc; anyio.abc.SocketAttribute; assert not hasattr(1, 'save')"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
