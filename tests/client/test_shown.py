"""`show`: what goes to the service, and what comes back while a job runs."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

import telepatch
from telepatch.lab import Lab
from telepatch.model import Model
from telepatch.shown import Shown
from telepatch_protocol.errors import BadArgument, ExecutionError, TooLarge, TraceError
from telepatch_protocol.graph import Log
from telepatch_protocol.subgraphs import logs_in


def entry(log: str, *at: int, **values: Any) -> dict[str, Any]:
    """What a worker tells."""
    return {"log": log, "line": "study.py:7", "at": list(at), "values": values}


def answering(gateway: Any, *parts: list[dict[str, Any]], gate: threading.Event | None = None) -> None:
    """Have the gateway's jobs show these entries, the last part once the gate is open."""

    def answer(job: str, document: dict[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
        for at, part in enumerate(parts):
            if gate is not None and at == len(parts) - 1:
                gate.wait(20)
            gateway.happen("values", job, {"values": part})
        return {name: np.ones(1) for name in document["saves"]}

    gateway.answer = answer


def showing(lab: Lab) -> Any:
    """A job that shows something."""
    with lab.model("tiny").trace("Hello") as t:
        telepatch.show(norm=lab.model("tiny").blocks[1].resid_post.norm())
    return t


def test_a_job_that_shows_something_needs_no_save_and_says_that_it_needs_1_1(model: Model) -> None:
    with model.trace("x") as t:
        telepatch.show(norm=model.blocks[1].resid_post.norm(), layer=1)
    [log] = t.graph.nodes[2:]
    assert isinstance(log, Log)
    assert (t.graph.protocol, log.values["norm"], t.graph.constants[str(log.values["layer"])[1:]]) == ((1, 1), "$n1", 1)
    assert t.graph.lines[log.id].startswith("test_shown.py:")


def test_it_goes_in_any_block_and_is_told_of_every_element_and_step(model: Model) -> None:
    with model.session() as s:
        with model.sweep(layer=range(2)) as v, model.trace("x"):
            telepatch.show(norm=model.blocks[v.layer].resid_post.norm())
        with model.trace("x"), telepatch.repeat(2, y=model.blocks[1].resid_post[:, -1]) as loop:
            telepatch.show(norm=loop.y.norm(), step=loop.step)
            loop.y = loop.y * 2
        with model.generate("x", max_new_tokens=3):
            telepatch.show(norm=model.blocks[1].resid_post[:, -1].norm())
        telepatch.show(done=1)
    assert len(list(logs_in(s.graph))) == 4


def test_in_fits_and_backward_it_is_refused_with_what_works(model: Model) -> None:
    says = r"f\.log\(name=value\) tells a value of every step"
    with pytest.raises(TraceError, match=says), model.fit({"y": [1.0, 2.0]}, batch_size=1, steps=1):
        telepatch.show(one=1)
    with (
        pytest.raises(TraceError, match="gradients are shown after the block"),
        model.trace("x"),
        model.blocks[1].resid_post.sum().backward(),
    ):
        telepatch.show(one=1)
    with pytest.raises(TraceError, match=r"telepatch\.show is part of a job and none is open"):
        telepatch.show(one=1)


def test_what_cannot_be_shown_is_refused_at_its_line(model: Model) -> None:
    with pytest.raises(BadArgument, match=r"by name: telepatch\.show\(norm="), model.trace("x"):
        telepatch.show()
    with pytest.raises(BadArgument, match="'values' is no name to show a value by"), model.trace("x"):
        telepatch.show(values=1)
    says = r"test_shown\.py:.*'w' is logged with 1,100 numbers; at most 1,024 are"
    with pytest.raises(TooLarge, match=says), model.trace("x"):
        telepatch.show(w=np.zeros(1100, np.float32))
    with pytest.raises(TraceError, match="a trace shows something once its job runs"):
        assert model.trace("x").shown


def test_it_is_printed_on_standard_error_while_the_job_runs(gateway: Any, lab: Lab, capsys: Any) -> None:
    gate = threading.Event()
    answering(gateway, [entry("n2", norm=0.123456789)], [entry("n3", 4, 0, few=[1.5, "nan"])], gate=gate)
    t = showing(lab)
    for _ in range(400):
        if told := capsys.readouterr().err:
            break
        threading.Event().wait(0.01)
    assert told == "study.py:7: norm=0.123457\n"
    assert lab.status(t).state == "queued"  # it has not ended
    gate.set()
    first, second = t.shown
    assert (first.norm, second.at, second.few[0], np.isnan(second.few[1])) == (0.123456789, (4, 0), 1.5, True)
    assert capsys.readouterr().err == "study.py:7 [4, 0]: few=[1.5, nan]\n"


def test_nothing_is_missed_where_connections_end_or_shown_twice_where_a_job_begins_again(gateway: Any) -> None:
    gateway.cut_streams = 2
    once = [entry("n2", at, norm=float(at)) for at in range(3)]
    answering(gateway, once[:1], once[1:2], once[:2], once)
    heard: list[Shown] = []
    with telepatch.connect(gateway.url, progress=False, show=heard.append) as lab:
        t = showing(lab)
        assert [one.norm for one in t.shown] == [0.0, 1.0, 2.0]
    assert [one.at for one in heard] == [(0,), (1,), (2,)]
    assert len(gateway.places) > 1


def test_what_a_job_has_shown_before_it_failed_is_there_and_a_listener_that_raises_stops_nothing(
    gateway: Any, capsys: Any
) -> None:
    def answer(job: str, document: dict[str, Any]) -> dict[str, Any]:
        gateway.happen("values", job, {"values": [entry("n2", norm=1.0)]})
        return {"code": "execution_error", "detail": "it broke"}

    gateway.answer = answer
    with telepatch.connect(gateway.url, progress=False, show=lambda shown: 1 / 0) as lab:
        with lab.model("tiny").trace("Hello") as t:
            telepatch.show(norm=1.0)
            kept = lab.model("tiny").lm_head.output.save()
        assert [one.norm for one in t.shown] == [1.0]
        with pytest.raises(ExecutionError, match="it broke"):
            kept.numpy()
    assert "ZeroDivisionError" in capsys.readouterr().err
