"""A connection over real sockets: sending, hearing, fetching, and what happens when the other side stumbles."""

from __future__ import annotations

import asyncio
import copy
import inspect
import logging
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import time
from typing import Any

import numpy as np
import pytest

import telepatch
from telepatch import courier
from telepatch.courier import LINGER_S
from telepatch.lab import Lab
from telepatch_protocol.errors import (
    BadArgument,
    Cancelled,
    ConnectionFailed,
    DependencyFailed,
    ExecutionError,
    Expired,
    NotFound,
    ShapeError,
    TraceError,
)


def line() -> int:
    """The line that calls this."""
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return frame.f_back.f_lineno


def one(lab: Lab, prompt: Any = "x", model: telepatch.Model | None = None) -> telepatch.Value:
    """A trace with one saved value."""
    model = model or lab.model("tiny")
    with model.trace(prompt):
        value: telepatch.Value = model.lm_head.output[:, -1].save()
    return value


def test_a_saved_value_is_an_array_after_the_block(lab: Lab) -> None:
    value = one(lab)
    assert value.shape == (1, 50)
    assert value.dtype == "float32"
    assert np.array_equal(value.numpy(), np.ones((1, 3)))
    assert value.shape == (1, 3)
    assert np.array_equal(value + np.ones(3), np.full((1, 3), 2.0))
    assert np.array_equal(np.ones(3) - value, np.zeros((1, 3)))
    assert np.array_equal(np.exp(value), np.exp(np.ones((1, 3), np.float32)))
    assert np.array_equal(np.concatenate([value, value]), np.ones((2, 3)))
    assert (value == 1).all()
    assert value[0, 0] == 1.0
    assert float(value[0, 1]) == 1.0
    assert len(value) == 1
    assert [row.shape for row in value] == [(3,)]
    assert value.tolist() == [[1.0, 1.0, 1.0]]
    assert value.mean() == 1.0
    assert np.array_equal(value.sum(dim=-1, keepdim=True), [[3.0]])
    assert "1., 1., 1." in repr(value)
    assert f"{value[0, 0]:.2f}" == "1.00"
    assert np.asarray(value).dtype == np.float32
    value.numpy()[0, 0] = 5
    with pytest.raises(BadArgument, match="softmax"):
        value.softmax(-1)
    with pytest.raises(TraceError, match="copy"):
        value[0] = 1


def test_torch_gets_tensors(lab: Lab, gateway: Any) -> None:
    torch = pytest.importorskip("torch")
    value = one(lab)
    assert torch.equal(value.torch(), torch.ones(1, 3))
    assert torch.equal(torch.exp(value), torch.exp(torch.ones(1, 3)))
    assert torch.equal(torch.tensor(value), torch.ones(1, 3))


def test_values_and_tensors_meet_in_operators_as_tensors(lab: Lab) -> None:
    torch = pytest.importorskip("torch")
    value, three = one(lab), torch.full((3,), 3.0)
    assert torch.equal(value + three, torch.full((1, 3), 4.0))
    assert torch.equal(three - value, torch.full((1, 3), 2.0))
    assert torch.equal(value @ three, torch.tensor([9.0]))


def test_one_number_is_a_number_whatever_its_shape(lab: Lab, gateway: Any) -> None:
    gateway.answer = lambda job, document: {name: np.full((1,), 2.5, np.float32) for name in document["saves"]}
    value = one(lab)
    assert (float(value), int(value), round(value, 1), f"{value:.3f}") == (2.5, 2, 2.5, "2.500")
    assert value.double().dtype == np.float64


def test_several_numbers_are_no_float(lab: Lab) -> None:
    with pytest.raises(BadArgument, match=r"make a float of 3 numbers, shape \(1, 3\)") as caught:
        float(one(lab))
    assert caught.value.line == line() - 1


def test_values_are_copied_as_themselves_and_pickled_as_their_numbers(lab: Lab, gateway: Any) -> None:
    value = one(lab)
    assert copy.deepcopy({"kept": value})["kept"] is value
    assert copy.copy(value) is value
    sent = pickle.dumps(value)
    assert b"telepatch" not in sent
    assert b"numpy" in sent


def test_connections_and_models_do_not_travel(lab: Lab) -> None:
    for thing in (lab, lab.model("tiny")):
        with pytest.raises(TraceError, match="connect there"):
            pickle.dumps(thing)


def test_awaiting_inside_a_block_points_at_its_own_line(lab: Lab) -> None:
    async def main() -> int:
        async with lab.model("tiny").trace("x") as t:
            value = t._builder and lab.model("tiny").lm_head.output.save()
            await value
        return 0

    with pytest.raises(TraceError, match="nothing has run yet") as caught:
        asyncio.run(main())
    assert caught.value.line == main.__code__.co_firstlineno + 3


def test_leaving_a_block_does_not_wait(lab: Lab, gateway: Any) -> None:
    gateway.hold.clear()
    value = one(lab)
    assert value.shape == (1, 50)
    gateway.hold.set()
    assert value.numpy().shape == (1, 3)


def test_what_is_pending_goes_together_and_each_structure_once(lab: Lab, gateway: Any) -> None:
    model = lab.model("tiny")
    gateway.door.clear()
    values = [one(lab, f"prompt {at}", model) for at in range(20)]
    gateway.door.set()
    arrays = telepatch.gather(values)
    assert len(arrays) == 20
    assert sum(len(post["jobs"]) for post in gateway.posts) == 20
    assert len(gateway.posts) <= 2
    assert all(len(post["documents"]) == 1 for post in gateway.posts)
    assert {job["constants"]["c0"] for post in gateway.posts for job in post["jobs"]} == {
        f"prompt {at}" for at in range(20)
    }


def test_gather_fetches_everything_in_one_request_and_keeps_the_structure(lab: Lab, gateway: Any) -> None:
    gateway.inline = False
    model = lab.model("tiny")
    with model.trace("x"):
        top = model.lm_head.output[:, -1].topk(3).save()
    found = telepatch.gather({"a": [one(lab), one(lab)], "b": one(lab), "top": top})
    assert found["a"][1].shape == (1, 3)
    assert len(found["top"]) == 2
    assert [len(jobs) for jobs in gateway.fetches] == [4]
    first, second = telepatch.gather(top.values, top.indices)
    assert first.shape == second.shape


def test_a_saved_value_travels_by_reference_and_only_its_slice(lab: Lab, gateway: Any) -> None:
    gateway.hold.clear()
    model = lab.model("tiny")
    with model.trace("a") as first:
        r = model.blocks[1].resid_post.save("r")
    with model.trace("b") as second:
        model.blocks[2].resid_post[:, -1] += 4.0 * r[:, -1]
        model.lm_head.output.save()
        (r.mean(-1) + r[..., [0, 2]].sum()).save()
        with pytest.raises(TraceError, match="inside a trace"):
            float(r)
    gateway.hold.set()
    references = [constant for constant in second.graph.constants.values() if isinstance(constant, dict)]
    assert references == [
        {"result": first.job, "name": "r", "index": [":", -1]},
        {"result": first.job, "name": "r"},
        {"result": first.job, "name": "r", "index": ["...", [0, 2]]},
    ]
    lab.wait()
    assert [job["id"] for post in gateway.posts for job in post["jobs"]] == [first.job, second.job]


def test_a_child_of_a_refused_job_says_so(lab: Lab, gateway: Any) -> None:
    gateway.refuse = lambda document: {
        "code": "shape_error" if "parent" in document["saves"] else "not_found",
        "detail": "odd shape" if "parent" in document["saves"] else "there is no such job",
    }
    model = lab.model("tiny")
    with model.trace("a") as first:
        r = model.lm_head.output.save("parent")
    lab.wait()
    with model.trace("b"):
        child = (r * 2).save()
    with pytest.raises(DependencyFailed, match="odd shape") as caught:
        child.numpy()
    assert caught.value.parent == first.job
    with pytest.raises(ShapeError):
        r.numpy()


def test_a_value_of_another_lab_is_sent_along(lab: Lab, gateway: Any) -> None:
    with telepatch.connect(gateway.url, progress=False) as other:
        value = one(other)
        model = lab.model("tiny")
        with model.trace("x") as t:
            model.blocks[0].resid_post[:, -1, :3] = value
            model.lm_head.output.save()
    assert any(isinstance(constant, dict) and "tensor" in constant for constant in t.graph.constants.values())
    lab.wait()
    assert len(gateway.attachments) == 1


def test_an_unsaved_value_used_later_raises_with_its_line(lab: Lab) -> None:
    model = lab.model("tiny")
    with model.trace("x"):
        model.lm_head.output.save()
        lost = model.blocks[0].resid_post * 2
        where = line() - 1
    with pytest.raises(telepatch.NotSaved) as caught:
        lost.numpy()
    assert (caught.value.file, caught.value.line) == (__file__, where)
    with pytest.raises(telepatch.NotSaved), model.trace("y"):
        model.blocks[0].resid_post[:, -1] = lost


def test_a_refusal_raises_at_the_first_look_with_the_authors_line(lab: Lab, gateway: Any) -> None:
    gateway.refuse = lambda document: {"code": "shape_error", "detail": "no", "node": "n1", "file": "x.py", "line": 3}
    model = lab.model("tiny")
    with model.trace("x"):
        value = (model.lm_head.output * 2).save()
        where = line() - 1
    with pytest.raises(ShapeError) as caught:
        print(value)
    assert (caught.value.file, caught.value.line) == (__file__, where)
    with pytest.raises(ShapeError):
        value + 1


def test_a_failure_raises_its_class(lab: Lab, gateway: Any) -> None:
    gateway.answer = lambda job, document: {"code": "execution_error", "detail": "broke"}
    with pytest.raises(ExecutionError, match="broke"):
        one(lab).numpy()


def test_failures_that_nobody_looked_at_are_told_when_the_lab_closes(
    gateway: Any, caplog: pytest.LogCaptureFixture
) -> None:
    gateway.refuse = lambda document: {"code": "shape_error", "detail": "odd shape"}
    with caplog.at_level(logging.WARNING, "telepatch"), telepatch.connect(gateway.url, progress=False) as lab:
        value = one(lab)
        with pytest.raises(ShapeError):
            value.numpy()
        one(lab)
        lab.wait()
    assert len(caplog.records) == 1
    assert "odd shape" in caplog.text
    assert "test_lab.py" in caplog.text


def test_a_failure_on_its_way_when_the_lab_closes_is_told(gateway: Any, caplog: pytest.LogCaptureFixture) -> None:
    def slowly(job: str, document: dict[str, Any]) -> dict[str, Any]:
        gateway.happen("running", job, {})
        time.sleep(0.6)
        return {"code": "execution_error", "detail": "broke late"}

    gateway.answer = slowly
    lab = telepatch.connect(gateway.url, progress=False)
    one(lab)
    with caplog.at_level(logging.WARNING, "telepatch"):
        lab.close()
    assert "broke late" in caplog.text


def test_closing_does_not_wait_for_what_waits_in_line(gateway: Any) -> None:
    gateway.hold.clear()
    lab = telepatch.connect(gateway.url, progress=False)
    one(lab)
    begun = time.monotonic()
    lab.close()
    assert time.monotonic() - begun < 1.5
    gateway.hold.set()


def test_a_gateway_that_stays_away_is_given_up(
    card: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(courier, "LOST_S", 1.0)
    module = sys.modules["client_gateway"]
    gateway = module.Gateway(card)
    gateway.hold.clear()
    with module.serving(gateway) as url:
        lab = telepatch.connect(url, progress=True)
        value = one(lab)
        lab.flush()
    with pytest.raises(ConnectionFailed, match="given up after 1 s") as caught:
        value.numpy()
    assert caught.value.file == __file__
    assert "the gateway does not answer; trying again" in capsys.readouterr().err
    lab.close()
    assert not caplog.records
    gateway.hold.set()


def test_a_job_that_cannot_be_asked_for_is_an_error_at_once(lab: Lab, gateway: Any) -> None:
    gateway.bad_ids = True
    with pytest.raises(BadArgument, match="the job id is") as caught:
        lab.result("nonsense")
    assert caught.value.line == line() - 1


def test_a_submission_is_repeated_until_it_is_answered(lab: Lab, gateway: Any) -> None:
    gateway.broken_posts = 2
    assert one(lab).numpy().shape == (1, 3)
    lab.flush()
    assert len(gateway.posts) == 3
    assert len(gateway.jobs) == 1


def test_a_broken_stream_is_taken_up_where_it_ended(lab: Lab, gateway: Any) -> None:
    gateway.cut_streams = 3
    values = [one(lab, f"p{at}") for at in range(6)]
    assert len(telepatch.gather(values)) == 6
    assert any(place not in (None, "0-0") for place in gateway.places)


def test_without_any_stream_the_gateway_is_asked(lab: Lab, gateway: Any) -> None:
    gateway.no_streams = True
    assert one(lab).numpy().shape == (1, 3)
    assert gateway.fetches


def test_large_results_are_fetched_once(lab: Lab, gateway: Any) -> None:
    gateway.inline = False
    value = one(lab)
    value.numpy()
    value.numpy()
    assert len(gateway.fetches) == 1


def test_very_many_results_are_fetched_in_several_requests(
    lab: Lab, gateway: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("telepatch.results.AT_ONCE", 2)
    gateway.inline = False
    model = lab.model("tiny")
    assert len(telepatch.gather([one(lab, f"p{at}", model) for at in range(5)])) == 5
    assert [len(jobs) for jobs in gateway.fetches] == [2, 2, 1]


def test_a_result_that_is_gone_says_so(lab: Lab, gateway: Any) -> None:
    gateway.inline = False
    value = one(lab)
    lab.wait()
    del gateway.jobs[next(iter(gateway.jobs))]["result"]
    with pytest.raises(Expired):
        value.numpy()


def test_the_key_goes_with_every_request(gateway: Any) -> None:
    with telepatch.connect(gateway.url, api_key="tp_secret", progress=False) as lab:
        one(lab).numpy()
        assert "tp_secret" not in repr(lab.settings)
    assert gateway.keys == ["Bearer tp_secret"]


def test_nothing_that_listens_is_one_clear_error() -> None:
    with telepatch.connect("http://127.0.0.1:9", progress=False) as lab:
        with pytest.raises(ConnectionFailed, match="telepatch up") as caught:
            lab.model("tiny")
        assert caught.value.line == line() - 1


def test_a_bad_address_or_key_points_at_connect(gateway: Any) -> None:
    with pytest.raises(BadArgument, match="no address") as address:
        telepatch.connect("localhost:8000")
    assert address.value.line == line() - 1
    with pytest.raises(BadArgument, match="beyond ASCII") as key:
        telepatch.connect(gateway.url, api_key="sch\u00f6n")
    assert key.value.line == line() - 1
    assert "sch" not in str(key.value)


def test_an_unknown_model_is_not_found(lab: Lab) -> None:
    with pytest.raises(NotFound):
        lab.model("other")


def test_results_of_other_programs_are_had_by_their_id(lab: Lab, gateway: Any) -> None:
    with telepatch.connect(gateway.url, progress=False) as other:
        model = other.model("tiny")
        with model.trace("x") as t:
            model.lm_head.output.save("z")
        other.wait()
    assert lab.result(t.job, "z").shape == (1, 3)
    assert set(lab.result(t.job)) == {"z"}
    assert lab.status(t).state == "completed"
    with pytest.raises(NotFound, match="it saved: z"):
        lab.result(t, "y")
    with pytest.raises(NotFound):
        lab.result("00000000-0000-7000-8000-000000000000", "z")


def test_a_job_is_cancelled(lab: Lab, gateway: Any) -> None:
    gateway.hold.clear()
    model = lab.model("tiny")
    with model.trace("x") as t:
        value = model.lm_head.output.save()
    assert lab.cancel(t) == "cancelled"
    with pytest.raises(Cancelled):
        value.numpy()
    gateway.hold.set()


def test_tokens_and_texts(lab: Lab) -> None:
    model = lab.model("tiny")
    assert model.decode([np.int64(104), np.int64(105)]) == model.decode(np.array([104, 105])) == "hi"
    assert model.decode([np.array([104]), [105]]) == ["h", "i"]
    assert model.tokenize("ab").ids == (97, 98)
    assert model.tokenize("abc").find("c") == 2
    assert [len(row) for row in model.tokenize(["a", "bc"])] == [1, 2]
    assert model.token("a") == 97
    with pytest.raises(BadArgument, match="'a' 'b'"):
        model.token("ab")
    assert model.decode([97, 98]) == "ab"
    assert model.decode(np.array([[97], [98]])) == ["a", "b"]
    assert model.decode(97) == "a"


async def test_values_are_awaited(gateway: Any) -> None:
    gateway.inline = False
    async with telepatch.connect(gateway.url, progress=False) as lab:
        model = lab.model("tiny")

        async def look(prompt: str) -> np.ndarray[Any, Any]:
            async with model.trace(prompt):
                value = model.lm_head.output.save()
            return (await value).numpy()

        arrays = await asyncio.gather(*(look(f"p{at}") for at in range(5)))
        assert [array.shape for array in arrays] == [(1, 3)] * 5
        await lab.wait_soon()


def test_threads_trace_at_the_same_time(lab: Lab) -> None:
    lab.model("tiny")
    shapes: list[Any] = []
    threads = [threading.Thread(target=lambda: shapes.append(one(lab).numpy().shape)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shapes == [(1, 3)] * 8


def test_a_loop_that_looks_at_each_value_is_told_once(lab: Lab) -> None:
    with pytest.warns(telepatch.SlowLoop, match="gather") as caught:
        where = _look_at_each(lab)
    assert len(caught) == 1
    assert (caught[0].filename, caught[0].lineno) == (__file__, where)


def _look_at_each(lab: Lab) -> int:
    """A slow loop; gives the line that waits."""
    for at in range(20):
        one(lab, f"p{at}").numpy()
    return line() - 1


def test_progress_is_shown_when_it_takes_long(gateway: Any, capsys: pytest.CaptureFixture[str]) -> None:
    gateway.hold.clear()
    with telepatch.connect(gateway.url, progress=True) as lab:
        value = one(lab)
        threading.Timer(1.0, gateway.hold.set).start()
        value.numpy()
        assert "telepatch: queued" in capsys.readouterr().err
        one(lab).numpy()
        assert capsys.readouterr().err == ""


def test_progress_counts_the_jobs_of_a_whole_loop(
    gateway: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("telepatch.progress.PATIENCE_S", 0.05)
    with telepatch.connect(gateway.url, progress=True) as lab:
        one(lab).numpy()
        gateway.hold.clear()
        model = lab.model("tiny")
        values = [one(lab, f"p{at}", model) for at in range(5)]
        threading.Timer(0.6, gateway.hold.set).start()
        values[2].numpy()
        assert "] 0 of 5 done; " in capsys.readouterr().err


def test_a_loop_shares_requests_while_earlier_traces_are_under_way(lab: Lab, gateway: Any) -> None:
    gateway.hold.clear()
    model = lab.model("tiny")
    one(lab, "first", model)
    lab.flush()
    begun = time.monotonic()
    for at in range(20):
        one(lab, f"p{at}", model)
        time.sleep(0.002)
    passed = time.monotonic() - begun
    gateway.hold.set()
    lab.wait()
    assert len(gateway.posts) <= 3 + passed / LINGER_S


def test_who_looks_does_not_wait_for_others_to_come(lab: Lab, gateway: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("telepatch.courier.LINGER_S", 30.0)
    model = lab.model("tiny")
    gateway.hold.clear()
    one(lab, "first", model)
    lab.flush()
    value = one(lab, "second", model)
    threading.Timer(0.05, gateway.hold.set).start()
    begun = time.monotonic()
    value.numpy()
    assert time.monotonic() - begun < 10.0


def test_pending_work_is_bounded(lab: Lab, gateway: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("telepatch.conversation.MAX_PENDING", 3)
    model = lab.model("tiny")
    gateway.slow_posts_s = 0.1
    for at in range(12):
        one(lab, f"p{at}", model)
        assert len(lab._courier.conversation.pending) <= 3
    lab.wait()
    assert len(gateway.jobs) == 12


def run_program(url: str, text: str) -> subprocess.CompletedProcess[str]:
    """A program of its own that has a lab."""
    program = f"import telepatch\nlab = telepatch.connect({url!r})\nmodel = lab.model('tiny')\n" + textwrap.dedent(text)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)


def test_the_end_of_a_program_sends_what_is_pending_and_tells_of_failures(gateway: Any) -> None:
    gateway.refuse = lambda document: {"code": "shape_error", "detail": "odd"} if "bad" in document["saves"] else None
    told = run_program(
        gateway.url,
        """
        with model.trace("x"): model.lm_head.output.save("good")
        with model.trace("y"): model.lm_head.output.save("bad")
        """,
    )
    assert told.returncode == 0, told.stderr
    assert "odd" in told.stderr
    assert len(gateway.jobs) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_looks_at_what_its_parent_sent(gateway: Any) -> None:
    told = run_program(
        gateway.url,
        """
        import os
        with model.trace("x"): value = model.lm_head.output.save()
        lab.flush()
        child = os.fork()
        print(value.numpy().shape, flush=True)
        with model.trace("y"): other = model.lm_head.output.save()
        print(other.numpy().shape, flush=True)
        if child: assert os.waitpid(child, 0)[1] == 0
        """,
    )
    assert told.returncode == 0, told.stderr
    assert told.stdout.count("(1, 3)") == 4
    assert len(gateway.jobs) == 3


def test_a_closed_lab_says_so(gateway: Any) -> None:
    lab = telepatch.connect(gateway.url, progress=False)
    value = one(lab)
    value.numpy()
    lab.close()
    lab.close()
    assert value.numpy().shape == (1, 3)
    with pytest.raises(TraceError, match="closed"):
        one(lab)


def test_the_thread_ends_with_the_lab(gateway: Any) -> None:
    with telepatch.connect(gateway.url, progress=False) as lab:
        one(lab).numpy()
        assert "telepatch" in {thread.name for thread in threading.enumerate()}
    deadline = time.monotonic() + 5
    while "telepatch" in {thread.name for thread in threading.enumerate()}:
        assert time.monotonic() < deadline, "it still runs"
        time.sleep(0.01)
